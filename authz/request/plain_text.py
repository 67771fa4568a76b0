r"""Text that arrives as it was sent: in headers, metadata, keys of limits and logs.

A control character ends a header (CVE-2023-27493), and blanks around a value do not belong to it (RFC 9110
section 5.5). Text with either is left out or refused, never cleaned: a cleaned `adm\nin` would be `admin`.
"""

import re
from typing import Final

_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and half surrogates, which a JSON claim may hold and which have no UTF-8."""


def is_plain(text: str) -> bool:
    """Whether every reader gets the text unchanged: no control character, no blank around it."""
    # To `isprintable`, of all blanks only the space is printable.
    if text.isprintable():
        return text[:1] != " " != text[-1:]
    return text == text.strip() and _UNSAFE.search(text) is None


def plain(text: str) -> str:
    """The text, or an empty one if it cannot be carried unchanged."""
    return text if is_plain(text) else ""


def escaped(text: str) -> str:
    """The text with `%` and two hexadecimal digits in place of each byte of a control character."""
    return text if text.isprintable() else _UNSAFE.sub(_percent, text)


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))
