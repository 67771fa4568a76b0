"""Defines a condition of a rule: a test that can describe itself and explain its result."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from authz.request.identity import Identity
from authz.request.request import Request

Test = Callable[[Identity, Request, float], bool | None]
"""Tests (caller, request, current unix seconds).

The result is None if it is unknown, because the value is missing or unreadable or the expression failed. An
allow rule treats unknown as false, a deny rule as true.
"""


class Subject(StrEnum):
    """What a condition tests. Conditions on the request are tested before the caller is authenticated."""

    CALLER = "caller"
    REQUEST = "request"


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """One test of a caller or request."""

    text: str
    """A description such as `header x-tenant is 'acme'`. Conditions with the same text test the same."""
    test: Test
    subject: Subject = Subject.CALLER
    seen: Callable[[Identity, Request, float], Any] | None = None
    """Returns the value that was found, such as that of the header or claim. For explanations only, never
    called on the request path."""
    name: str = ""
    """The named condition (`conditions:`) that it comes from; empty for the rule's own conditions."""
    loggable: bool = False
    """Whether logs may show the value that was found: scopes yes, headers no, as they may hold a secret."""
    of_identity: bool = False
    """Whether the result depends on the identity alone, so that it may be cached by it."""

    def why(self, identity: Identity, request: Request, now: float) -> str:
        """Describe the value that was found, to explain why the condition held or did not."""
        if self.seen is None:
            return ""
        found = self.seen(identity, request, now)
        return "nothing" if found is None or found == () else _shown(found)


def _shown(found: Any) -> str:
    if isinstance(found, list | tuple | set | frozenset):
        values = sorted(map(str, found)) if isinstance(found, set | frozenset) else list(map(str, found))
        return ", ".join(values) if values else "nothing"
    return str(found)
