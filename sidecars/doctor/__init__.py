"""Checks a running suite and what it depends on, for `sidecars doctor`."""
