"""Finds the one credential that a request carries.

A request that carries two is refused, because an upstream may use the other one. That applies to two
values of one header or cookie (CVE-2021-32777: only the last one was seen), to one credential in two
places, and to credentials of two kinds. Equal values count as one, and an empty value does not count.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from authz.credentials.core.verifier import Verifier
from authz.request.identity import Refusal, RefusalReason
from authz.request.request import Request

SCHEME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A scheme (RFC 9110 section 5.6.2). A tab is not a separator (Keycloak GHSA-gv94-wp4h-vv8p)."""

_EMPTY: Final = ("",)
_MALFORMED: Final = Refusal(RefusalReason.TOKEN_MALFORMED, "the header is not `scheme SP credential`")


@dataclass(frozen=True, slots=True)
class Place:
    """One place of credentials in a request. Without `schemes` the whole value is the credential."""

    name: str
    """The place in words: `cookie session`."""
    values: Callable[[Request], Sequence[str]]
    schemes: Mapping[str, Verifier]
    whole: Verifier | None


def find(places: Sequence[Place], request: Request) -> tuple[Verifier, str] | Refusal | None:
    """Return the credential and its verifier; a refusal if there are several; None if there is none."""
    found: tuple[Verifier, str] | None = None
    first = ""
    for place in places:
        values = place.values(request)
        if not values:
            continue
        if len(values) > 1:
            values = [value for value in dict.fromkeys(values) if value] or _EMPTY
            if len(values) > 1:
                return _ambiguous(f"{len(values)} different values of {place.name}")
        if not values[0]:
            continue
        if place.whole is not None:
            presented = place.whole, values[0]
        else:
            scheme, _, credential = values[0].partition(" ")
            verifier = place.schemes.get(scheme.lower())
            if verifier is None:
                # Another scheme, such as `Basic`, is left to the upstream; text that is not one is refused.
                if SCHEME.fullmatch(scheme):
                    continue
                return _MALFORMED
            # After a second space, or without one, the credential is malformed: its verifier refuses it.
            presented = verifier, credential
        if found is not None:
            return _ambiguous(f"one in {first}, one in {place.name}")
        found, first = presented, place.name
    return found


def _ambiguous(detail: str) -> Refusal:
    return Refusal(RefusalReason.CREDENTIALS_AMBIGUOUS, f"more than one credential: {detail}")
