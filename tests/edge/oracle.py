"""Interprets intent directly: what the files say about one request, without any code of `edge`.

Slow and simple: it reads the YAML again for each estate, and tries every route of every service.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from ipaddress import ip_address, ip_network
from typing import Any

import yaml

from authz.request.identity import CredentialKind, Identity
from tests.edge.random_estates import Question


@dataclass(frozen=True, slots=True)
class Answer:
    """What the intent says about a request."""

    route: str | None
    """SERVICE.ID; None if no route covers the request, which is then not served."""
    allowed: bool


class Oracle:
    """Answers questions about the estate in some texts."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        contents = {name: yaml.load(text, Loader=yaml.CSafeLoader) for name, text in texts.items()}
        self._platform = contents.pop("platform.yaml")
        self._services = list(contents.values())

    def answer(self, question: Question) -> Answer:
        """Return what the intent says about a request."""
        found = self._route(question)
        if found is None:
            return Answer(None, allowed=False)
        service, route = found
        allowed = self._may(service, route, question) and not any(
            self._denies(rule, question) for rule in self._platform["overrides"]["rules"]
        )
        return Answer(f"{service['service']}.{route['id']}", allowed=allowed)

    def _route(self, question: Question) -> tuple[Any, Any] | None:
        candidates = [
            (path, route.get("methods"), service, route)
            for service in self._services
            if _host_fits(service["hosts"], question.host)
            for route in service["routes"]
            if "methods" not in route or question.method in route["methods"]
            for path in route["paths"]
            if _fits(path, question.segments)
        ]
        if not candidates:
            return None
        _, _, service, route = min(candidates, key=cmp_to_key(_compare))
        return service, route

    def _may(self, service: Any, route: Any, question: Question) -> bool:
        who = route["who"] if "who" in route else self._platform["defaults"]["who"]
        if "deny" in who and _any(who["deny"], question.identity, None):
            return False
        issuers = self._platform["teams"][service["owner"]].get("issuers")
        return _any(who["allow"], question.identity, issuers) and self._holds(who, question)

    def _holds(self, block: Mapping[str, Any], question: Question) -> bool:
        """Return whether the conditions of a block hold, apart from those on the caller."""
        client = ip_address(question.client)
        if "client" in block and not any(client in ip_network(network) for network in block["client"]):
            return False
        if any(question.headers.get(name) != value for name, value in block.get("headers", {}).items()):
            return False
        return "if" not in block or self._holds(self._platform["policy"]["conditions"][block["if"]], question)

    def _denies(self, rule: Mapping[str, Any], question: Question) -> bool:
        return (
            _host_fits(rule.get("hosts", ["*"]), question.host)
            and ("methods" not in rule or question.method in rule["methods"])
            and any(_fits(path, question.segments) for path in rule.get("paths", ["/**"]))
            and self._holds(rule, question)
            and _any(rule["deny"], question.identity, None)
        )


def _host_fits(patterns: Iterable[str], host: str) -> bool:
    return any(_covers(pattern, host) for pattern in patterns)


def _covers(pattern: str, host: str) -> bool:
    return pattern in {"*", host} or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def _is_rest(piece: str) -> bool:
    return piece == "**" or piece.endswith("=**}")


def _is_variable(piece: str) -> bool:
    return piece == "*" or (piece.startswith("{") and not _is_rest(piece))


def _fits(path: str, segments: Sequence[str]) -> bool:
    pieces = path[1:].split("/")
    for place, piece in enumerate(pieces):
        if _is_rest(piece):
            return True
        if place == len(segments):
            return False
        if _is_variable(piece):
            if not segments[place]:
                return False
        elif piece != segments[place]:
            return False
    return len(pieces) == len(segments)


def _compare(one: tuple[str, Any, Any, Any], other: tuple[str, Any, Any, Any]) -> int:
    """Return a negative number if the first is more specific: plain text, then a variable, then a rest."""
    for mine, its in zip(one[0][1:].split("/"), other[0][1:].split("/"), strict=False):
        ranks = [2 if _is_rest(piece) else 1 if _is_variable(piece) else 0 for piece in (mine, its)]
        if ranks[0] != ranks[1]:
            return ranks[0] - ranks[1]
    # Both cover the request, so a longer one ends with a rest that covers nothing.
    lengths = len(one[0].split("/")) - len(other[0].split("/"))
    return lengths or (one[1] is None) - (other[1] is None)


def _any(whos: Any, identity: Identity, issuers: Sequence[str] | None) -> bool:
    listed = whos if isinstance(whos, list) else [whos]
    return "anyone" in listed or any(_is(who, identity, issuers) for who in listed)


def _is(who: Any, identity: Identity, issuers: Sequence[str] | None) -> bool:
    if identity.kind is CredentialKind.ANONYMOUS:
        return False
    block = {} if who == "authenticated" else who
    kinds = block.get("kinds", ["jwt", "api_key"])
    # A description of API keys alone is not about issuers.
    accepted = block.get("issuers", issuers if "jwt" in kinds else None)
    return (
        identity.kind.value in kinds
        and (accepted is None or identity.issuer in accepted)
        and identity.scopes.issuperset(block.get("scopes", ()))
        and ("any_scope" not in block or not identity.scopes.isdisjoint(block["any_scope"]))
        and ("roles" not in block or not identity.roles.isdisjoint(block["roles"]))
        and ("subjects" not in block or identity.subject in block["subjects"])
    )
