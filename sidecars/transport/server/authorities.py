"""Certificates in PEM files: what strict verification wants of authorities, and when they expire."""

from pathlib import Path
from typing import Final

from cryptography import x509

_UNREADABLE: Final = (
    ValueError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def check_authorities(file: Path) -> None:
    """Raises OSError for an authority that strict verification never accepts."""
    try:
        authorities = x509.load_pem_x509_certificates(file.read_bytes())
        lacking = [authority for authority in authorities if not _has_identifier(authority)]
    except _UNREADABLE:
        raise OSError(f"{file} holds a certificate that does not keep to RFC 5280") from None
    if lacking:
        raise OSError(
            f"the authority {lacking[0].subject.rfc4514_string()} in {file} lacks the extension Subject Key"
            " Identifier (RFC 5280 section 4.2.1.2); make its certificate with subjectKeyIdentifier=hash"
        )


def first_expiry(file: Path) -> float | None:
    """Return when the first certificate in `file` expires, in Unix seconds; None if none can be read.

    OpenSSL serves with some certificates that are not quite as RFC 5280 wants them, so this raises nothing.
    """
    try:
        certificates = x509.load_pem_x509_certificates(file.read_bytes())
        return min(certificate.not_valid_after_utc.timestamp() for certificate in certificates)
    except (*_UNREADABLE, OSError):
        return None


def _has_identifier(authority: x509.Certificate) -> bool:
    try:
        authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return False
    return True
