"""The error that stores of sessions and revocations raise."""


class StoreUnavailableError(Exception):
    """The store did not answer, or not in time."""
