"""Descriptions of callers, and the conditions they are compiled to."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from authz.policy.conditions.condition import Condition
from authz.policy.conditions.values import Comparison, CompiledComparison, check_of
from authz.policy.types.names import (
    AT_LEAST_ONE,
    DottedName,
    OneOrMany,
    PolicyBlock,
    Scopes,
    Texts,
    split_name,
)
from authz.request.body import is_below_list, values_at
from authz.request.identity import CredentialKind, Identity
from authz.request.request import Request


class WhoConfig(PolicyBlock):
    """A description of callers. A caller must match every key that is present."""

    scopes: Scopes | None = None
    """The caller has all of these."""
    any_scope: Scopes | None = None
    """The caller has at least one of these."""
    roles: Texts | None = None
    """The caller has at least one of these."""
    all_roles: Texts | None = None
    """The caller has all of these."""
    subjects: Texts | None = None
    """The subject of the caller is one of these."""
    issuers: Texts | None = None
    """The token was issued by one of these."""
    audiences: Texts | None = None
    """The token was issued for at least one of these."""
    kinds: Annotated[tuple[CredentialKind, ...], AT_LEAST_ONE] | None = None
    """The credential is one of these kinds."""
    claims: Annotated[dict[DottedName, Comparison], AT_LEAST_ONE] = Field(default_factory=dict)
    """Comparisons by dotted name: `realm_access.roles: {contains: admin}`. A plain value means equality."""

    @model_validator(mode="after")
    def _refuse_empty(self) -> "WhoConfig":
        if not self.model_fields_set:
            raise ValueError("say who: anyone, authenticated, or scopes, roles, subjects, issuers, kinds")
        if self.kinds is not None and CredentialKind.ANONYMOUS in self.kinds:
            raise ValueError("anonymous is not a kind of credential; write anyone instead of this block")
        return self


def _shape(value: Any) -> str:
    return "block" if isinstance(value, dict | WhoConfig) else "word"


Word = Annotated[Literal["anyone", "authenticated"], Tag("word")]
Who = Annotated[Word | Annotated[WhoConfig, Tag("block")], Discriminator(_shape)]
Whos = Annotated[tuple[Who, ...], AT_LEAST_ONE, OneOrMany]
"""One description of callers, or a list of which any may match."""


def callers_of(whos: tuple[Who, ...]) -> tuple[tuple[Condition, ...], ...]:
    """Return the conditions of `allow:` or `deny:`; empty if they hold for anyone."""
    if "anyone" in whos:
        return ()
    return tuple(caller_conditions(who) for who in whos)


def scope_of(whos: tuple[Who, ...]) -> str:
    """Return the scopes of the first description that has any, for the challenge to the client."""
    for who in whos:
        if isinstance(who, WhoConfig) and (who.scopes or who.any_scope):
            return " ".join(who.scopes or who.any_scope or ())
    return ""


def caller_conditions(who: Who, name: str = "") -> tuple[Condition, ...]:
    """Return the conditions of one description, each of which must hold."""
    if not isinstance(who, WhoConfig):
        return (_AUTHENTICATED,)
    # Every description requires authentication: otherwise `issuers: [""]` or an empty claim could match
    # the anonymous caller.
    conditions = [_AUTHENTICATED]
    if who.kinds is not None:
        conditions.append(_member("credential is", "kind", who.kinds, name))
    if who.issuers is not None:
        conditions.append(_member("issuer is", "issuer", who.issuers, name))
    if who.subjects is not None:
        conditions.append(_member("subject is", "subject", who.subjects, name))
    if who.audiences is not None:
        conditions.append(_overlap("audience is", "audiences", who.audiences, name))
    if who.scopes is not None:
        conditions.append(_superset("has scopes", "scopes", who.scopes, name))
    if who.any_scope is not None:
        conditions.append(_overlap("has scope", "scopes", who.any_scope, name))
    if who.roles is not None:
        conditions.append(_overlap("has role", "roles", who.roles, name))
    if who.all_roles is not None:
        conditions.append(_superset("has roles", "roles", who.all_roles, name))
    conditions += (_claim(claim, check_of(comparison), name) for claim, comparison in who.claims.items())
    return tuple(conditions)


_AUTHENTICATED: Final = Condition(
    "is authenticated",
    lambda identity, _request, _now: identity.kind is not CredentialKind.ANONYMOUS,
    seen=lambda identity, _request, _now: f"credential {identity.kind.value}",
    of_identity=True,
)


def _member(words: str, attribute: str, values: Iterable[str], name: str) -> Condition:
    known = frozenset(values)
    text = f"{words} {' or '.join(sorted(map(str, known)))}"
    return Condition(
        text,
        lambda identity, _r, _n: getattr(identity, attribute) in known,
        seen=_seen(attribute),
        loggable=attribute != "subject",
        name=name,
        of_identity=True,
    )


def _overlap(words: str, attribute: str, values: Iterable[str], name: str) -> Condition:
    known = frozenset(values)

    def holds(identity: Identity, _request: Request, _now: float) -> bool:
        return not known.isdisjoint(getattr(identity, attribute))

    text = f"{words} {' or '.join(values)}"
    return Condition(text, holds, seen=_seen(attribute), loggable=True, name=name, of_identity=True)


def _superset(words: str, attribute: str, values: Iterable[str], name: str) -> Condition:
    known = frozenset(values)
    text = f"{words} {' and '.join(values)}"
    return Condition(
        text,
        lambda identity, _r, _n: known <= getattr(identity, attribute),
        seen=_seen(attribute),
        loggable=True,
        name=name,
        of_identity=True,
    )


def _claim(claim: str, check: CompiledComparison, name: str) -> Condition:
    parts = split_name(claim)
    find = partial(_claim_values, parts, whole=check.inside)

    def test(identity: Identity, _request: Request, _now: float) -> bool | None:
        found = find(identity)
        if not found and len(parts) > 1 and is_below_list(identity.claims, parts):
            return None
        return check.of_trusted(found)

    return Condition(
        f"claim {claim} {check.text}",
        test,
        seen=lambda identity, _request, _now: find(identity),
        name=name,
        of_identity=True,
    )


def _claim_values(parts: Sequence[str], identity: Identity, *, whole: bool) -> Sequence[Any]:
    found = values_at(identity.claims, parts)
    return (found,) if whole and isinstance(found, list) else found


def _seen(attribute: str) -> Any:
    return lambda identity, _request, _now: getattr(identity, attribute)
