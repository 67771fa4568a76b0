"""Breaks in long work, so that an event loop in another thread can go on answering."""

from collections.abc import Callable

Breathe = Callable[[], None]
"""Called between two pieces of the work; sleeps when it is time."""


def no_breaks() -> None:
    """Does nothing: for callers that do not share the interpreter with a loop."""
