"""Errors of the stores that hold sessions and revocations."""


class StoreUnavailableError(Exception):
    """The store did not answer in time, or not at all."""
