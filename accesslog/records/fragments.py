"""The pieces of a line, `,"code":200`: one for each place in `FIELDS`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import orjson

from accesslog.records.fields import FIELDS
from accesslog.wire.record import Record

MOST_REMEMBERED: Final = 1_024
"""Fragments of each field. Beyond it, all are forgotten: what is common comes back at once."""

LONGEST_REMEMBERED: Final = 512
"""Bytes of a content. Clients choose some: 15 fields full of them take 20 MB."""

_NAMES: Final = tuple(FIELDS)
PLACES: Final[Mapping[str, int]] = {name: place for place, name in enumerate(_NAMES)}
"""The place of each field in a line."""

END: Final = len(_NAMES)


def begin_of(name: str) -> bytes:
    """What a fragment begins with, up to its value."""
    return f',"{name}":'.encode()


BEGIN: Final = tuple(map(begin_of, _NAMES))


class RedactedFragment(bytes):
    """A fragment in which something was redacted."""

    places: tuple[str, ...]


class Remembered(dict[Any, Any]):
    """What `make` returns for a content or a number, with those that come again."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[Any], tuple[Any, bool]]) -> None:
        super().__init__()
        self._make = make
        """Also returns whether it would say the same again."""

    def __missing__(self, key: Any) -> Any:
        made, again = self._make(key)
        if again and (not isinstance(key, bytes) or len(key) <= LONGEST_REMEMBERED):
            if len(self) >= MOST_REMEMBERED:
                self.clear()
            self[key] = made
        return made


def fragment_of(record: Record) -> bytes:
    """The fields of a record as JSON, in the order of their places, each after a comma."""
    if not record:
        return b""
    if len(record) == 1:
        [(name, value)] = record.items()
        return BEGIN[PLACES[name]] + orjson.dumps(value)
    ordered = {name: record[name] for name in sorted(record, key=PLACES.__getitem__)}
    return b"," + orjson.dumps(ordered)[1:-1]


def marked(fragment: bytes, places: Iterable[str]) -> bytes:
    """The fragment, as one in which something was redacted at `places`."""
    marked = RedactedFragment(fragment)
    marked.places = tuple(places)
    return marked


def like(model: bytes, fragment: bytes) -> bytes:
    """The fragment, marked as `model` is."""
    return marked(fragment, model.places) if isinstance(model, RedactedFragment) else fragment


def join_fragments(fragments: Iterable[bytes], joiner: bytes = b"") -> bytes:
    """The fragments as one, in which something was redacted if it was in one of them."""
    fragments = tuple(fragments)
    joined = joiner.join(filter(None, fragments))
    places = [place for part in fragments if isinstance(part, RedactedFragment) for place in part.places]
    return marked(joined, places) if places else joined
