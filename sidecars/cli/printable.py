"""Text of others on a terminal."""

from typing import Any


def printable(text: Any) -> str:
    """Return `text` with characters escaped that do not print: others choose paths, names and reasons.

    Control characters can erase what a terminal shows, and directional ones change the order in which it is
    read (CVE-2021-42574).
    """
    text = str(text)
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
