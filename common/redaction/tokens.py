"""Finds text that looks like a token under any name: keys, signed tokens, links to reset a password."""

import re
from typing import Final

SHORTEST: Final = 20
"""The fewest characters of a token. 16 random bytes have 22 in base64url; shorter text is mostly an id."""

SHORTEST_HEADER: Final = 9
"""The fewest characters of a JWT's header in base64url: it has at least `{"alg"`."""

TURNS: Final = 3
"""The most changes from letters to digits or back in a word: `v1alpha1` has three; random text has more."""

LONG_RUN: Final = 32
"""Text of this length or more must read as words, or it is taken for a token."""

SHORT_HASH: Final = 16
"""Characters that need not read as words in a text without capitals, and in the name of a script, a style
sheet or a font. Builds and orchestrators name files and pods so: `app.8f3a2b1c.js`, `web-7d4b9c6f8d-x2v9k`.
"""

_RUN: Final = re.compile(r"[A-Za-z0-9_.~+=-]{20,}")
_JOSE: Final = re.compile(r"[A-Za-z0-9_.-]{12,}")
_UUID: Final = re.compile(
    r"(?<![0-9A-Za-z])[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}(?![0-9A-Za-z])", re.IGNORECASE
)
_LETTERS_AND_DIGITS: Final = re.compile(r"(?<=[0-9])[A-Za-z]|(?<=[A-Za-z])[0-9]")
_CASES: Final = re.compile(r"[a-z]+|[A-Z]+|[0-9]+")
_PARTS: Final = re.compile(r"[_.~+=-]+")
_WORDS: Final = re.compile(
    r"[a-z]{0,20}(?:[A-Z]{1,6}[a-z]{1,20}){0,10}[A-Z]{0,12}(?:[0-9]{1,12}[a-z]{0,8}[0-9]{0,3})?"
)
"""A word or several in camel case, perhaps with a number: `ListOrders`, `v1alpha1`, `SNAPSHOT`, `2026`."""

_OF_A_PAGE: Final = re.compile(r".*\.(?:js|mjs|css|map|woff2?|wasm)")


def without_jwts(text: str, instead: str) -> str:
    """`text` with `instead` for each JWT in it: a JSON object in base64url, then a dot (RFC 7515)."""
    return _JOSE.sub(lambda run: _without_jwt(run[0], instead), text)


def _without_jwt(run: str, instead: str) -> str:
    start = run.find("eyJ")
    return run if start < 0 or "." not in run[start + SHORTEST_HEADER :] else run[:start] + instead


def without_tokens(text: str, instead: str) -> str:
    """`text` with `instead` for each run of characters in it that looks like a token."""
    return _RUN.sub(lambda run: instead if looks_like_token(run[0]) else run[0], text)


def looks_like_token(text: str) -> bool:
    """Whether a run of letters, digits and `-_.~+=` looks like a token: 20 characters or more, UUIDs aside.

    It has letters and digits in turns, or changes its letter case nearly as often as not; from 32 characters
    on, it does not read as words. Hashes and other long ids look like tokens, too; short ones in the names of
    files and pods do not.
    """
    text = _UUID.sub("", text)
    if len(text) < SHORTEST:
        return False
    if len(text) < LONG_RUN and len(_LETTERS_AND_DIGITS.findall(text)) < TURNS:
        return 2 * len(_CASES.findall(text)) > len(text)
    unread = sum(len(part) for part in _PARTS.split(text) if not _reads_as_words(part))
    if text.islower() or _OF_A_PAGE.fullmatch(text) is not None:
        return unread > SHORT_HASH
    return unread > 0


def _reads_as_words(part: str) -> bool:
    return _WORDS.fullmatch(part) is not None
