"""Why a bundle is refused."""

from enum import StrEnum


class Fault(StrEnum):
    """The kind of fault, as metrics name it."""

    TOO_LARGE = "too_large"
    """More bytes or files than the bounds allow."""
    UNREADABLE = "unreadable"
    """Not a tar.gz of plain files, or one without a usable manifest."""
    UNSIGNED = "unsigned"
    """No signature, although one is required."""
    BAD_SIGNATURE = "bad_signature"
    """The signature is of another key, or the files are not those that were signed."""
    EXPIRED = "expired"
    """The signature is no longer valid, or not yet."""
    OLDER = "older"
    """It does not follow the bundle in service."""


class BundleError(ValueError):
    """A bundle that may not be used; the message says why."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault
