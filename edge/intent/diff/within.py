"""Whether one description of callers lets only those call whom another one lets.

The answer is yes only if that can be shown from the words alone: two expressions, for example, are never
compared by what they mean.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from authz.policy.conditions.caller_conditions import Who, WhoConfig
from edge.intent.model import Access

_FEWER: Final = ("subjects", "issuers", "audiences", "kinds")
"""Keys with alternatives: fewer values match fewer callers."""
_MAPPINGS: Final = frozenset({"headers", "query", "context_extensions", "body"})
"""Conditions of which each entry must hold."""


def is_within(narrow: Access, wide: Access) -> bool:
    """Return whether each request that `narrow` allows is allowed by `wide`, as far as the words show."""
    return (
        _allows_within(narrow.allow, wide.allow)
        and _holds_within(narrow.written, wide.written)
        and all(any(_implies(one, other) for other in narrow.deny or ()) for one in wide.deny or ())
    )


def _allows_within(narrow: Sequence[Who], wide: Sequence[Who]) -> bool:
    if "anyone" in wide:
        return True
    return "anyone" not in narrow and all(any(_implies(one, other) for other in wide) for one in narrow)


def _implies(narrow: Who, wide: Who) -> bool:
    """Return whether each caller that matches `narrow` matches `wide`."""
    if wide == "anyone" or (wide == "authenticated" and narrow != "anyone"):
        return True
    if not isinstance(narrow, WhoConfig) or not isinstance(wide, WhoConfig):
        return False
    return (
        _all_of(narrow.scopes, wide.scopes)
        and _any_of(narrow.any_scope, narrow.scopes, wide.any_scope)
        and _any_of(narrow.roles, narrow.all_roles, wide.roles)
        and _all_of(narrow.all_roles, wide.all_roles)
        and all(_subset(getattr(narrow, key), getattr(wide, key)) for key in _FEWER)
        and all(_same(narrow.claims.get(name), comparison) for name, comparison in wide.claims.items())
    )


def _all_of(narrow: Iterable[str] | None, wide: Iterable[str] | None) -> bool:
    """Return whether a caller with all of `narrow` has all of `wide`."""
    return wide is None or set(wide) <= set(narrow or ())


def _any_of(narrow: Iterable[str] | None, every: Iterable[str] | None, wide: Iterable[str] | None) -> bool:
    """Return whether a caller with one of `narrow`, and with `every` of others, has one of `wide`."""
    return wide is None or _subset(narrow, wide) or not set(every or ()).isdisjoint(wide)


def _subset(narrow: Iterable[Any] | None, wide: Iterable[Any] | None) -> bool:
    return wide is None or (narrow is not None and set(narrow) <= set(wide))


def _holds_within(narrow: Mapping[str, Any], wide: Mapping[str, Any]) -> bool:
    """Return whether the conditions of `wide` hold wherever those of `narrow` do."""
    for key, value in wide.items():
        if key in {"allow", "deny"}:
            continue
        mine = narrow.get(key)
        if mine is None or not _value_within(key, mine, value):
            return False
    return True


def _value_within(key: str, narrow: Any, wide: Any) -> bool:
    if key == "client":
        return set(_listed(narrow)) <= set(_listed(wide))
    if key in {"client_not", "if"}:
        return set(_listed(wide)) <= set(_listed(narrow))
    if key in _MAPPINGS and isinstance(narrow, Mapping) and isinstance(wide, Mapping):
        return all(name in narrow and _same(narrow[name], value) for name, value in wide.items())
    return _same(narrow, wide)


def _same(one: Any, other: Any) -> bool:
    # In Python, 1 equals True.
    return repr(one) == repr(other)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
