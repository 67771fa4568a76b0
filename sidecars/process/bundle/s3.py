"""Signs requests to a private bucket of S3 or a store with its interface: AWS Signature Version 4."""

import logging
from collections.abc import Mapping
from typing import Final

from common.os_errors import in_words
from common.pairs_file import pairs_in
from sidecars.settings.bundle import S3Settings

_REQUIRED: Final = ("access_key_id", "secret_access_key")
_KNOWN: Final = (*_REQUIRED, "session_token")


class SigningError(Exception):
    """A request that cannot be signed; the message says why."""


def signature_headers(settings: S3Settings, url: str) -> Mapping[str, str]:
    """Return the headers that a GET of the URL needs now. Blocks on the disk; raises SigningError.

    The host, the path and the query are signed. The keys are read for each request, so that they can change.
    """
    try:
        # Here, since it takes 19 MB and an extra.
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials
    except ImportError as error:
        text = f"s3 needs the extra s3 (in a clone: pip install '.[s3]'): {error.name} is not installed"
        raise SigningError(text) from None
    try:
        keys = pairs_in(settings.credentials_file, ":")
    except OSError as error:
        raise SigningError(f"credentials_file cannot be read: {in_words(error)}") from None
    missing = [name for name in _REQUIRED if not keys.get(name)]
    if missing or keys.keys() - {*_KNOWN}:
        text = f"expected lines NAME: VALUE with {', '.join(_REQUIRED)} and perhaps session_token"
        raise SigningError(f"credentials_file {settings.credentials_file}: {text}")
    # At `debug` it logs what it signs, with the session token, and the signature.
    logging.getLogger("botocore").setLevel(logging.INFO)
    request = AWSRequest(method="GET", url=url)
    credentials = Credentials(
        keys["access_key_id"], keys["secret_access_key"], keys.get("session_token") or None
    )
    S3SigV4Auth(credentials, "s3", settings.region).add_auth(request)
    return dict(request.headers.items())
