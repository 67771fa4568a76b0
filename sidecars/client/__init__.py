"""Clients of the admin port, of the sessions API and of Redis."""
