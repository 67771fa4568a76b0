"""Takes secrets out of what `/config` shows."""

import re
from typing import Any, Final

MASK: Final = "***"

_SECRET_KEY: Final = re.compile(
    r"(^|[_.])(password|passphrase|secret|token|credential|private_key|api_key)s?$", re.IGNORECASE
)
"""Keys whose text is a secret. `password_file` and `token_header` are not, and stay readable."""

_URL_CREDENTIALS: Final = re.compile(r"(?<=://)[^/\s]*@")


def redact(value: Any) -> Any:
    """`value` (mappings, lists, text) with the text under secret keys and credentials in URLs replaced.

    Settings already hold their secrets as pydantic's SecretStr, which prints as asterisks; this is a
    second line of defence, for secrets in URLs and for sections that use plain text.
    """
    if isinstance(value, dict):
        return {key: MASK if _is_secret(key, inner) else redact(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact(inner) for inner in value]
    return _URL_CREDENTIALS.sub(f"{MASK}@", value) if isinstance(value, str) else value


def _is_secret(key: Any, value: Any) -> bool:
    return isinstance(value, str) and bool(value) and bool(_SECRET_KEY.search(str(key)))
