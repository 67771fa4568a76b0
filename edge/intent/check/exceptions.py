"""Exceptions from ceilings that have ended."""

from collections.abc import Iterator
from datetime import date

from common.configfile import Problem
from edge.intent.sources import Sources


def expired(sources: Sources, today: date) -> Iterator[Problem]:
    """Yield a problem for each exception that ended before `today`."""
    for source in sources.services:
        for position, exception in enumerate(source.content.exceptions):
            if exception.until < today:
                message = (
                    f"the exception ended on {exception.until}: remove it and keep to the ceiling, "
                    "or have it approved again with a later day"
                )
                yield source.document.problem(("exceptions", position, "until"), message)
