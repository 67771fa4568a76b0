"""JSON with one item of each long list on a line: always the same bytes, and readable as a diff."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

Encoded = orjson.Fragment
"""JSON that was encoded before, as a value of further JSON."""

_OPTIONS: Final = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS


def encode(value: Any) -> bytes:
    """Return the canonical JSON of `value`: keys sorted, no blanks, dates as texts."""
    return orjson.dumps(value, option=_OPTIONS)


def long_list(items: Iterable[bytes]) -> bytes:
    """Return the list of encoded items, each on a line of its own."""
    return _lines(b"[", items, b"]")


def long_map(items: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the object of encoded values by name, each on a line of its own."""
    return _lines(b"{", (encode(name) + b":" + value for name, value in items), b"}")


def document(fields: Mapping[str, Any]) -> bytes:
    """Return an object as the content of a file."""
    return long_map((name, encode(value)) for name, value in sorted(fields.items())) + b"\n"


def _lines(begin: bytes, items: Iterable[bytes], end: bytes) -> bytes:
    lines = b",\n".join(items)
    return b"".join((begin, b"\n", lines, b"\n", end)) if lines else begin + end
