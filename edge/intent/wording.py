"""Says in words who may call, how often, and what is logged, for explanations and reviews."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from accesslog.records.redact_rules import Action, RedactRule
from authz.policy.conditions.caller_conditions import Who, WhoConfig
from authz.policy.conditions.values import check_of
from edge.intent.blocks import Per
from edge.intent.model import Access, Limit

_PER: Final = {
    Per.SUBJECT: "for each subject",
    Per.CLIENT: "for each client address",
    Per.ALL: "for all together",
}
_LISTS: Final = (
    ("scopes", "scope", " and "),
    ("any_scope", "scope", " or "),
    ("roles", "role", " or "),
    ("all_roles", "role", " and "),
    ("subjects", "subject", " or "),
    ("issuers", "issuer", " or "),
    ("audiences", "audience", " or "),
    ("kinds", "credential", " or "),
)
"""The keys of a description of callers that are lists: the word for one value, and what joins several."""
_VERBS: Final = {Action.DROP: "left out", Action.MASK: "masked", Action.HASH: "hashed"}
NAMES: Final = {
    "headers": "header",
    "query_parameters": "query parameter",
    "cookies": "cookie",
    "metadata": "metadata key",
    "path_segments": "path segment",
}
"""The kinds of names that redaction is about, and the word for one of them."""


def callers_text(whos: Sequence[Who]) -> str:
    """Return whom the descriptions match, as in `anyone` or `callers with scope orders:read`."""
    if "anyone" in whos:
        return "anyone"
    return " or ".join(_caller_text(who) for who in whos)


def _caller_text(who: Who) -> str:
    if not isinstance(who, WhoConfig):
        return "any authenticated caller"
    parts = []
    for key, word, joint in _LISTS:
        values = getattr(who, key)
        if values:
            parts.append(f"{word} {joint.join(map(str, values))}")
    parts += (f"claim {name} {check_of(comparison).text}" for name, comparison in who.claims.items())
    return f"callers with {', '.join(parts)}"


def access_text(access: Access) -> str:
    """Return who may call, with conditions and those who are denied all the same."""
    text = callers_text(access.allow)
    conditions = conditions_text(access.written)
    if conditions:
        text += f", if {conditions}"
    if access.deny:
        text += f", but not {callers_text(access.deny)}"
    return text


def conditions_text(written: Mapping[str, Any]) -> str:
    """Return the conditions of a rule as they are written; empty if it has none."""
    parts = [
        _value(value) if key in {"if", "when"} else f"{key} {_value(value)}"
        for key, value in written.items()
        if key not in {"allow", "deny"}
    ]
    return " and ".join(parts)


def _value(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return " or ".join(value) if len(value) == 1 else f"[{', '.join(value)}]"
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()


def rate_text(limit: Limit) -> str:
    """Return a rate, as in `100 requests in 1s, 200 at once`."""
    burst = "" if limit.burst is None else f", {limit.burst} at once"
    return f"{limit.requests} requests in {limit.period}{burst}{' (only counted)' if limit.shadow else ''}"


def limit_text(limit: Limit) -> str:
    """Return a limit, as in `100 requests in 1s for each subject`."""
    share = f" ({limit.share:g}% of the tier)" if limit.share is not None else ""
    return f"{rate_text(limit)} {_PER[limit.per]}{share}"


def per_text(per: Per) -> str:
    """Return whom a limit counts, as in `for each subject`."""
    return _PER[per]


def redaction_text(rule: RedactRule) -> str:
    """Return what a rule redacts, as in `query parameter email: hashed`."""
    names = [f"{word} {name}" for key, word in NAMES.items() for name in getattr(rule, key)]
    return f"{', '.join(names)}: {_VERBS[rule.action]}"


def action_text(action: Action | None) -> str:
    """Return what becomes of a value, as in `masked`."""
    return "not redacted" if action is None else _VERBS[action]


def methods_text(methods: Sequence[str] | None) -> str:
    """Return the methods of a route, as in `GET, HEAD`."""
    return "every method" if methods is None else ", ".join(methods)
