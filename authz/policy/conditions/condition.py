"""A condition: one thing that must be so, which can say in words what it is and whether it held."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from authz.request.identity import Identity
from authz.request.request import Request

Test = Callable[[Identity, Request, float], bool | None]
"""(who asks, what is asked, unix seconds now) -> whether it is so.

None: it cannot be told, because what is asked about is missing or unreadable, or because the
expression failed. A rule that allows takes that for no; a rule that denies takes it for yes.
"""


class Subject(StrEnum):
    """What a condition speaks of. Whatever does not speak of the caller is settled before anyone is asked."""

    CALLER = "caller"
    REQUEST = "request"


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """One thing that must be so."""

    text: str
    """In words: `header x-tenant is 'acme'`. Two conditions with one text ask the same."""
    test: Test
    subject: Subject = Subject.CALLER
    seen: Callable[[Identity, Request, float], Any] | None = None
    """What was found in place of what is asked for: the value of the header, of the claim... For
    explanations; never called on the way of a request."""
    name: str = ""
    """The named condition of the file (`conditions:`) that it comes from; empty: the rule's own."""
    tells: bool = False
    """Whether a log may show what was found: scopes yes; a header may hold a secret."""

    def why(self, identity: Identity, request: Request, now: float) -> str:
        """What was found, in words, for whoever asks why it held or did not."""
        if self.seen is None:
            return ""
        found = self.seen(identity, request, now)
        return "nothing" if found is None or found == () else _shown(found)


def _shown(found: Any) -> str:
    if isinstance(found, list | tuple | set | frozenset):
        values = sorted(map(str, found)) if isinstance(found, set | frozenset) else list(map(str, found))
        return ", ".join(values) if values else "nothing"
    return str(found)
