"""Finds conditions that no request can meet. They are legal, so the findings are warnings.

A deny rule with such a condition protects nothing, although its author believes that it does.
"""

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import combinations
from typing import Final

from authz.credentials import CredentialsConfig
from authz.policy.conditions.caller_conditions import WhoConfig
from authz.policy.conditions.networks import Network
from authz.policy.model import ConditionConfig, RuleConfig
from authz.request.identity import CredentialKind

MAX_NAMED: Final = 5
"""The most issuers that a warning lists: a template may have thousands of tenants."""

_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
"""Methods of RFC 9110 and RFC 5789. Others exist, so only near misspellings of these are reported."""

Finding = tuple[str, str]
"""The key of the rule that has the fault (may be empty), and what is wrong."""


class Impossible:
    """Finds conditions that cannot hold, given the credentials that the policy accepts."""

    def __init__(self, credentials: CredentialsConfig | None) -> None:
        self._credentials = credentials
        self._issuers = (
            () if credentials is None else tuple(name for one in credentials.issuers for name in one.names)
        )
        introspection = None if credentials is None else credentials.introspection
        self._any_issuer = credentials is None or (introspection is not None and not introspection.issuer)
        if introspection is not None and introspection.issuer:
            self._issuers = (*self._issuers, introspection.issuer)
        self._kinds = set() if credentials is None else set(credentials.locations())
        if credentials is not None and credentials.mtls is not None:
            self._kinds.add(CredentialKind.MTLS)

    def in_rule(self, config: RuleConfig, blocks: Sequence[ConditionConfig]) -> Iterator[Finding]:
        """Yield the conditions that no request can meet. `blocks` are all blocks of the rule's conditions."""
        effect = "deny" if config.deny is not None else "allow"
        for who in config.deny or config.allow or ():
            if isinstance(who, WhoConfig):
                yield from ((effect, message) for message in self._of_caller(who))
        for block in blocks:
            if block.caller is not None:
                yield from (("", message) for message in self._of_caller(block.caller))
            if block.when is not None:
                yield from (("", message) for message in self._of_expression(config, block))
        yield from (("", message) for message in _of_clients(blocks))
        yield from (("methods", message) for method in config.methods or () for message in _of_method(method))
        if config.deny is not None and not self._kinds and _depends_on_caller(config.deny, blocks):
            yield "deny", "never matches: the policy accepts no credentials, so every caller is anonymous"

    def _of_caller(self, who: WhoConfig) -> Iterator[str]:
        for issuer in who.issuers or ():
            yield from self._of_issuer(issuer)
        for kind in who.kinds or ():
            yield from self._of_kind(kind)
        for subject in who.subjects or ():
            if "*" in subject:
                yield (
                    f"never matches the subject {subject}: * is a literal asterisk; for a part of a name, "
                    "compare the claim: claims: {sub: {suffix: '@example.com'}}"
                )

    def _of_kind(self, kind: CredentialKind) -> Iterator[str]:
        if self._credentials is not None and kind not in {*self._kinds, CredentialKind.ANONYMOUS}:
            yield f"never matches {kind.value}: the policy accepts no credentials of that kind"

    def _of_expression(self, config: RuleConfig, block: ConditionConfig) -> Iterator[str]:
        expression = block.when
        assert expression is not None  # noqa: S101 - the caller checks it
        if expression.fails and config.deny is not None:
            yield f"denies everything it covers: when is {expression}, which fails for every request"
        elif expression.never:
            yield f"never matches: when is {expression}, which is true for no request"
        for compared in expression.compared.variables:
            if compared.variable == "issuer":
                yield from self._of_issuer(compared.text)
            if compared.variable == "kind":
                yield from self._of_kind(CredentialKind(compared.text))

    def _of_issuer(self, issuer: str) -> Iterator[str]:
        if self._any_issuer or issuer in self._issuers:
            return
        close = get_close_matches(issuer, self._issuers, n=1)
        known = ", ".join(self._issuers[:MAX_NAMED]) or "none"
        hint = f"did you mean {close[0]}?" if close else f"configured: {known}"
        yield f"never matches the issuer {issuer}: it is not configured under credentials; {hint}"


def _of_method(method: str) -> Iterator[str]:
    if method == "CONNECT":
        yield "never matches CONNECT: a tunnel has no path and is refused with 400 before any rule"
    if method in _METHODS:
        return
    swapped = [known for known in _METHODS if sorted(known) == sorted(method)]
    close = swapped or get_close_matches(method, _METHODS, n=1, cutoff=0.85)
    if close:
        yield f"covers the method {method}; did you mean {close[0]}?"


def _of_clients(blocks: Iterable[ConditionConfig]) -> Iterator[str]:
    """Yield conditions on the client whose networks exclude each other."""
    clients = [block.client for block in blocks if block.client is not None]
    excluded = [network for block in blocks for network in block.client_not or ()]
    for one, other in combinations(clients, 2):
        if not any(_overlap(network, another) for network in one for another in other):
            yield f"never matches: no client is in {_listed(one)} and in {_listed(other)}"
    for networks in clients:
        if all(any(_within(network, outer) for outer in excluded) for network in networks):
            yield f"never matches: client_not excludes all of {_listed(networks)}"


def _depends_on_caller(whos: Iterable[object], blocks: Iterable[ConditionConfig]) -> bool:
    return "anyone" not in whos or any(block.caller is not None for block in blocks)


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def _within(network: Network, outer: Network) -> bool:
    return _overlap(network, outer) and network.prefixlen >= outer.prefixlen


def _listed(networks: Iterable[Network]) -> str:
    return " or ".join(map(str, networks))
