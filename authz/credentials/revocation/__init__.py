"""The list of revoked tokens and sessions, shared through Redis."""
