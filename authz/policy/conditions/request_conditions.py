"""Conditions on the request: headers, query, client address, time, body."""

from collections.abc import Sequence
from typing import Any

from authz.policy.conditions.condition import Condition, Subject
from authz.policy.conditions.networks import Network, Networks
from authz.policy.conditions.time_window import TimeConfig, local_time, window_of, window_text
from authz.policy.conditions.values import UNKNOWN, Comparison, TextComparison, check_of, either_reading
from authz.policy.types.names import split_name
from authz.request.body import UnreadableBodyError, body_values, read_body
from authz.request.field_names import fold_members
from authz.request.header_names import names_alike
from authz.request.identity import Identity
from authz.request.request import MAX_PARTS, Request


def header_condition(header: str, comparison: TextComparison, name: str, *, denies: bool) -> Condition:
    """Return a condition that compares a header.

    A client may send a header several times, in one line or in many (RFC 9110 section 5.3), and under another
    name that CGI servers read as the same (GHSA-rf44-j88r-hh8c). All values must match for an allow rule, any
    value for a deny rule (CVE-2026-26308).
    """
    check = check_of(comparison)
    alike = names_alike((header,))

    def held(request: Request, lines: Sequence[str]) -> bool | None:
        masked = request.masks_bytes
        commas = sum(line.count(",") for line in lines)
        if not commas:
            return check.of_untrusted(_known(lines) if masked else lines, denies=denies)
        if commas >= MAX_PARTS:
            return None
        parts = [part.strip(" \t") for line in lines for part in line.split(",")]
        if denies:
            values = [*lines, *parts]
            return check.of_untrusted(_known(values) if masked else values, denies=True)
        if check.exact and check.of_untrusted(_known(lines) if masked else lines, denies=False):
            return True
        return check.of_untrusted(_known(parts) if masked else parts, denies=False)

    def test(_identity: Identity, request: Request, _now: float) -> bool | None:
        lines = request.header_values(header)
        found = held(request, lines)
        others = alike.among(request.header_names)
        if not others or found is denies:
            return found
        all_lines = [*lines, *(line for other in others for line in request.header_values(other))]
        return either_reading((found, held(request, all_lines)), denies=denies)

    def seen(_identity: Identity, request: Request, _now: float) -> Sequence[str]:
        return [
            line
            for one in (header, *alike.among(request.header_names))
            for line in request.header_values(one)
        ]

    return Condition(f"header {header} {check.text}", test, Subject.REQUEST, seen, name)


def _known(values: Sequence[str]) -> Sequence[Any]:
    """Replace values with a `!` by UNKNOWN, because Envoy may have put it instead of a non-UTF-8 byte."""
    return [UNKNOWN if "!" in value else value for value in values]


def query_condition(parameter: str, comparison: TextComparison, name: str, *, denies: bool) -> Condition:
    """Return a condition that compares a decoded query parameter. As with headers, all values count.

    Parameters that only some upstreams read under this name count too: `role[]` or `ROLE` for `role`, and
    parameters after a `;` (CVE-2021-23336).
    """
    check = check_of(comparison)
    folded = fold_members(parameter)

    def test(_identity: Identity, request: Request, _now: float) -> bool | None:
        if request.has_too_many_parameters:
            return None
        first = request.query_values(parameter)
        others = values_meant(request, folded)
        return check.over_readings(first, None if others == first else others, denies=denies)

    def seen(_identity: Identity, request: Request, _now: float) -> Sequence[Any]:
        return values_meant(request, folded) or request.query_values(parameter)

    return Condition(f"query {parameter} {check.text}", test, Subject.REQUEST, seen, name)


def values_meant(request: Request, folded: str) -> list[Any]:
    """Return the values of the parameters that an upstream may read under the name; UNKNOWN if unclear."""
    return [UNKNOWN if value is None else value for value in request.query_meaning(folded)]


def client_condition(networks: Sequence[Network], name: str, *, inside: bool = True) -> Condition:
    """Return a condition that the client (`Request.client_address`) is in one of the networks, or in none."""
    known = Networks(networks)

    def test(_identity: Identity, request: Request, _now: float) -> bool | None:
        held = known.hold(request.client_address)
        return None if held is None else held is inside

    def seen(_identity: Identity, request: Request, _now: float) -> str:
        return request.client_address or "no address"

    text = f"client is {'in' if inside else 'not in'} {' or '.join(map(str, networks))}"
    return Condition(text, test, Subject.REQUEST, seen, name)


def time_condition(config: TimeConfig, name: str) -> Condition:
    """Return a condition that the current time is within the window."""
    within = window_of(config)
    return Condition(
        window_text(config),
        lambda _identity, _request, now: within(now),
        Subject.REQUEST,
        lambda _identity, _request, now: local_time(config, now),
        name,
    )


def body_condition(field: str, comparison: Comparison, name: str, *, denies: bool) -> Condition:
    """Return a condition that compares a field of the body; unknown if the body cannot be read in full."""
    check = check_of(comparison)
    parts = split_name(field)

    def find(request: Request) -> Sequence[Any]:
        found = body_values(read_body(request), parts)
        return (found,) if check.inside and isinstance(found, list) else found

    def test(_identity: Identity, request: Request, _now: float) -> bool | None:
        try:
            return check.of_untrusted(find(request), denies=denies)
        except UnreadableBodyError:
            return None

    def seen(_identity: Identity, request: Request, _now: float) -> Any:
        try:
            return find(request)
        except UnreadableBodyError as error:
            return f"the body cannot be read: {error}"

    return Condition(f"body field {field} {check.text}", test, Subject.REQUEST, seen, name)
