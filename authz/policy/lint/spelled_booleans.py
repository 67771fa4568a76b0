"""Finds values that YAML reads as true or false although they are spelled `NO`, `yes` or `on`.

YAML 1.1 reads the country code NO as false. Claims and fields may be compared with values of any type, so no
other check would find it.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from common.configfile import Document, KeyPart, Problem

_COMPARED: Final = frozenset({"claims", "body"})
_SPELLING: Final = "(yes|no|on|off)"


def spelled_booleans(document: Document, path: Sequence[KeyPart]) -> Iterator[Problem]:
    """Yield a warning for each such value that is compared with a claim or field in the block at `path`."""
    content = document.data
    for part in path:
        content = content[part]
    for where in _booleans(content, tuple(path), compared=False):
        found = _pattern(where[-1]).search(document.line_text(where))
        if found:
            meaning = "true" if found[1].lower() in {"yes", "on"} else "false"
            yield document.problem(
                where, f'YAML reads {found[1]} as {meaning}: write "{found[1]}" in quotes, or {meaning}'
            )


def _booleans(content: Any, path: tuple[KeyPart, ...], *, compared: bool) -> Iterator[tuple[KeyPart, ...]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _booleans(value, (*path, key), compared=compared or key in _COMPARED)
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _booleans(value, (*path, index), compared=compared)
    elif compared and isinstance(content, bool) and path[-1] != "present":
        yield path


def _pattern(key: KeyPart) -> re.Pattern[str]:
    """Return a pattern for a value after this key, or for a list item, that is spelled yes, no, on or off."""
    begin = r"(?:[\[,]|^\s*-)\s*" if isinstance(key, int) else rf"""{re.escape(str(key))}["']?\s*:\s*"""
    return re.compile(rf"{begin}{_SPELLING}\s*(?:[,}}\]#]|$)", re.IGNORECASE)
