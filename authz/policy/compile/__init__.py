"""Reads policy files and compiles them into an index of rules."""
