"""Shared test support: servers, clients, keys and messages."""
