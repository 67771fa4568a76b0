"""Limits failed credential checks per client address and claimed subject."""
