"""User information in URLs (RFC 3986 section 3.2.1: applications should not render it as clear text)."""

import re
from typing import Final

_ENDS: Final = re.compile(r"""([/\\?#\s"'<>]+)""")
"""The delimiters of an authority that may hold user information."""

_VALUES: Final = re.compile(r"[&=;,]")


def without_user_information(text: str, instead: str) -> str:
    """`text` with `instead` for everything before the `@` of an authority.

    An authority follows `//`, or a colon and one slash if slashes were merged; without a scheme, the colon
    between user and password marks it. A mail address is not one.
    """
    pieces = _ENDS.split(text)
    for index in range(0, len(pieces), 2):
        before, at, after = pieces[index].rpartition("@")
        if not at or before == instead:
            continue
        slashes = pieces[index - 1] if index else ""
        if slashes[-2:] in {"//", "\\\\", "/\\", "\\/"} or (
            slashes[-1:] in {"/", "\\"} and pieces[index - 2].endswith(":")
        ):
            pieces[index] = f"{instead}@{after}"
        elif ":" in (last := _VALUES.split(before)[-1]):
            pieces[index] = f"{before.removesuffix(last)}{instead}@{after}"
    return "".join(pieces)
