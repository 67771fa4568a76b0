"""Breaks in long work, for a thread beside an event loop that has to go on answering."""

from collections.abc import Callable

Breathe = Callable[[], None]
"""Called between two pieces of the work; sleeps when it is time."""


def no_breaks() -> None:
    """Where nobody waits meanwhile."""
