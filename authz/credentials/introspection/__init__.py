"""Opaque tokens that an authorization server is asked about (RFC 7662)."""
