"""The revision of limits whose files state none: a hash of what they say."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final

from common.configfile import Breathe, Document, no_breaks

_CHARACTERS: Final = 12


class ContentDigest:
    """A hash of documents. `yield_gil` is called between two pieces of a document."""

    def __init__(self, yield_gil: Breathe = no_breaks) -> None:
        self._digest = sha256()
        self._yield_gil = yield_gil

    def add(self, name: str, document: Document) -> None:
        """Add a document by its name and data."""
        self._digest.update(f"{name}\0".encode())
        for piece in _written(document.data):
            self._yield_gil()
            self._digest.update(piece.encode())
        self._digest.update(b"\0")

    @property
    def revision(self) -> str:
        """The revision: 12 hexadecimal digits."""
        return self._digest.hexdigest()[:_CHARACTERS]


def _written(data: Any) -> Iterator[str]:
    """Yield `repr(data)` in pieces: as one call it would hold the interpreter for all of a large file."""
    if not isinstance(data, dict | list) or not any(isinstance(one, dict | list) for one in _values(data)):
        yield repr(data)
        return
    opened, closed = "{}" if isinstance(data, dict) else "[]"
    yield opened
    between = ""
    for key in data if isinstance(data, dict) else range(len(data)):
        yield f"{between}{key!r}: " if isinstance(data, dict) else between
        yield from _written(data[key])
        between = ", "
    yield closed


def _values(data: dict[Any, Any] | list[Any]) -> Iterator[Any]:
    return iter(data.values() if isinstance(data, dict) else data)
