r"""Checks that text can be carried unchanged in headers, metadata, rate-limit keys and logs.

A control character can end a header (CVE-2023-27493), and outer blanks are not part of a header value (RFC
9110 section 5.5). Text with either is omitted or refused, never cleaned: a cleaned `adm\nin` would be
`admin`.
"""

import re
from typing import Final

_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and half surrogates, which a JSON claim may contain but UTF-8 cannot encode."""


def is_plain(text: str) -> bool:
    """Whether every reader gets the text unchanged: it has no control character and no outer blank."""
    # The space is the only blank that `isprintable` accepts.
    if text.isprintable():
        return text[:1] != " " != text[-1:]
    return text == text.strip() and _UNSAFE.search(text) is None


def plain(text: str) -> str:
    """Return the text, or an empty text if it cannot be carried unchanged."""
    return text if is_plain(text) else ""


def escaped(text: str) -> str:
    """Return the text with each byte of a control character as `%` and two hexadecimal digits."""
    return text if text.isprintable() else _UNSAFE.sub(_percent, text)


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))
