"""Expressions of `when`: the Common Expression Language, checked at load."""
