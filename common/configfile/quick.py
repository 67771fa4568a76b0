"""Reads plain YAML in one pass over its events, several times as fast as nodes are composed.

For large files, and for processes that must go on answering while they read one: each event is a
step of Python, between two of which other threads run, where composing is one long call. What is
not plain (anchors, tags, merges, duplicate keys and keys that are not text) is left to the loader, whose
findings count: both give the same data, or the loader alone decides.
"""

from collections.abc import Sequence
from typing import Any, Final

import yaml

from common.configfile.breaks import Breathe, no_breaks
from common.configfile.problems import KeyPart

Place = dict[str, tuple[int, Any]] | list[tuple[int, Any]] | None
"""The line of each child of a mapping or list and the place below it; None for a scalar."""

_SAFE: Final = yaml.SafeLoader
_RESOLVERS: Final = _SAFE.yaml_implicit_resolvers
_STR: Final = "tag:yaml.org,2002:str"


_Found = tuple[Any, int, Place]


class _NotPlainError(Exception):
    pass


def read_plain(
    text: str, loader: type[yaml.SafeLoader], max_depth: int, yield_gil: Breathe = no_breaks
) -> _Found | None:
    """The data, the line it begins in (from 1) and the places below; None when the text is not plain YAML."""
    try:
        parser = loader(text)
        try:
            return _follow(parser, max_depth, yield_gil)
        finally:
            parser.dispose()
    except (yaml.YAMLError, _NotPlainError):
        return None


def _follow(parser: Any, max_depth: int, yield_gil: Breathe) -> _Found | None:
    """What `read_plain` returns; `parser` is a loader of PyYAML, whose methods have no types."""
    scalars: dict[str, Any] = {}
    # The collections that are open around the present one, each with its places.
    stack: list[tuple[Any, Any]] = []
    root: _Found | None = None
    data: Any = None
    places: Any = None
    # Of the present mapping: the key that waits for its value.
    key: str | None = None
    while True:
        yield_gil()
        event: Any = parser.get_event()  # what it has depends on its kind
        kind = type(event)
        if kind is yaml.ScalarEvent:
            if event.anchor is not None or event.tag is not None:
                return None
            value = event.value
            if type(data) is dict and key is None:
                key = _key(value, data, implicit=event.implicit[0])
                key_line = event.start_mark.line + 1
                places[key] = (key_line, None)
                continue
            if event.implicit[0]:
                if value in scalars:
                    value = scalars[value]
                else:
                    value = scalars[value] = _scalar(value)
            line = event.start_mark.line + 1
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            if event.anchor is not None or event.tag is not None or len(stack) >= max_depth:
                return None
            if type(data) is dict and key is None:
                return None
            stack.append((data, places))
            line = event.start_mark.line + 1
            below: Any = {} if kind is yaml.MappingStartEvent else []
            below_places: Any = {} if kind is yaml.MappingStartEvent else []
            if data is None:
                root = (below, line, below_places)
            elif type(data) is dict:
                data[key] = below
                places[key] = (places[key][0], below_places)
            else:
                data.append(below)
                places.append((line, below_places))
            data, places, key = below, below_places, None
            continue
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            data, places = stack.pop()
            key = None
            continue
        elif kind is yaml.StreamEndEvent:
            return root
        elif kind is yaml.AliasEvent or (kind is yaml.DocumentStartEvent and root is not None):
            return None
        else:
            continue
        if data is None:
            return None
        if type(data) is dict:
            data[key] = value
            key = None
        else:
            data.append(value)
            places.append((line, None))


def line_of(line: int, place: Place, path: Sequence[KeyPart]) -> int:
    """The line of the value at `path` below `place`, or of its closest ancestor that exists."""
    for part in path:
        if isinstance(place, list) and isinstance(part, int) and part < len(place):
            line, place = place[part]
        elif isinstance(place, dict) and str(part) in place:
            line, place = place[str(part)]
        else:
            break
    return line


def _key(value: str, known: dict[Any, Any], *, implicit: bool) -> str:
    if value == "<<" or value in known or (implicit and _resolved(value) != _STR):
        raise _NotPlainError
    return value


def _resolved(value: str) -> str:
    for tag, pattern in _RESOLVERS.get(value[:1], ()):
        if pattern.match(value):
            return str(tag)
    return _STR


def _scalar(value: str) -> Any:
    tag = _resolved(value)
    if tag == _STR:
        return value
    constructor = _SAFE("")
    try:
        return constructor.construct_object(yaml.ScalarNode(tag, value), deep=True)
    except Exception:
        raise _NotPlainError from None
    finally:
        constructor.dispose()
