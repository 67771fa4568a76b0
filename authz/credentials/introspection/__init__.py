"""Opaque access tokens, which an authorization server verifies (RFC 7662)."""
