"""Conditions about the request: headers, query, client address, time, body."""

from collections.abc import Sequence
from typing import Any

from authz.body import UnreadableBodyError, body_values, fields_of
from authz.identity import Identity
from authz.policy.condition import Condition, Subject
from authz.policy.networks import Network, Networks
from authz.policy.values import Comparison, TextComparison, check_of
from authz.policy.window import TimeConfig, local_time, window_of, window_text
from authz.policy.words import split_name
from authz.request import MAX_QUERY_PARAMETERS, Request


def header_condition(header: str, comparison: TextComparison, name: str, *, denies: bool) -> Condition:
    """A comparison of a header.

    A client may send a header several times, in one line or in many (RFC 9110 section 5.3): a rule
    that allows is met by all values together, a rule that denies by any (CVE-2026-26308).
    """
    check = check_of(comparison)

    def test(_identity: Identity, request: Request, _now: float) -> bool | None:
        lines = request.header_values(header)
        if not any("," in line for line in lines):
            return check.of_untrusted(lines, denies=denies)
        parts = [part.strip(" \t") for line in lines for part in line.split(",")]
        if denies:
            return check.of_untrusted([*lines, *parts], denies=True)
        if check.exact and check.of_untrusted(lines, denies=False):
            return True
        return check.of_untrusted(parts, denies=False)

    def seen(_identity: Identity, request: Request, _now: float) -> Sequence[str]:
        return request.header_values(header)

    return Condition(f"header {header} {check.text}", test, Subject.REQUEST, seen, name)


def query_condition(parameter: str, comparison: TextComparison, name: str, *, denies: bool) -> Condition:
    """A comparison of a query parameter, decoded. As with headers, all values count.

    Where there is a `;` both readings count: to some upstreams it separates parameters (CVE-2021-23336).
    """
    check = check_of(comparison)

    def test(_identity: Identity, request: Request, _now: float) -> bool | None:
        if request.query.count("&") >= MAX_QUERY_PARAMETERS:
            return None
        held = check.of_untrusted(request.query_values(parameter), denies=denies)
        if ";" not in request.query or held is denies:
            return held
        other = check.of_untrusted(request.query_values_by_semicolon(parameter), denies=denies)
        return other if held is not None or other is denies else None

    def seen(_identity: Identity, request: Request, _now: float) -> Sequence[str]:
        return request.query_values(parameter)

    return Condition(f"query {parameter} {check.text}", test, Subject.REQUEST, seen, name)


def client_condition(networks: Sequence[Network], name: str, *, inside: bool = True) -> Condition:
    """Whether the true client (`Request.client_address`) is in one of the networks, or in none."""
    known = Networks(networks)

    def test(_identity: Identity, request: Request, _now: float) -> bool | None:
        held = known.hold(request.client_address)
        return None if held is None else held is inside

    def seen(_identity: Identity, request: Request, _now: float) -> str:
        return request.client_address or "no address"

    text = f"client is {'in' if inside else 'not in'} {' or '.join(map(str, networks))}"
    return Condition(text, test, Subject.REQUEST, seen, name)


def time_condition(config: TimeConfig, name: str) -> Condition:
    """Whether the window is open."""
    within = window_of(config)
    return Condition(
        window_text(config),
        lambda _identity, _request, now: within(now),
        Subject.REQUEST,
        lambda _identity, _request, now: local_time(config, now),
        name,
    )


def body_condition(field: str, comparison: Comparison, name: str, *, denies: bool) -> Condition:
    """A comparison of a field of the body; it cannot be told where the body is unreadable or cut off."""
    check = check_of(comparison)
    parts = split_name(field)

    def find(request: Request) -> Sequence[Any]:
        found = body_values(fields_of(request), parts)
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
