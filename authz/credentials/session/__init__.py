"""Opaque session tokens, and the stores that hold their sessions."""
