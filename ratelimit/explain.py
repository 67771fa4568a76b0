"""Explains which rule a descriptor falls under, level by level."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from ratelimit.match import Entry, find_child
from ratelimit.rules import Node
from ratelimit.secret_values import DEFAULT_SECRETS, SecretValues

MAX_KEYS_SHOWN: Final = 8
"""The most keys of a level that a reason lists."""


class MatchStep(NamedTuple):
    """One entry of a descriptor, and the descriptor of the configuration that it falls under."""

    entry: Entry
    composite: str
    """`key_value`, or `key` for any value, as in the configuration."""
    how: str
    """`exact value`, `wildcard` or `any value`."""
    counted: str
    """The value that counts: normalised, without outer blanks, or the pattern of `share_threshold`."""


class MatchExplanation(NamedTuple):
    """The way of a descriptor through the tree of a domain."""

    steps: Sequence[MatchStep]
    missing: str
    """Why no rule applies; empty if one does."""


def explain_match(
    root: Node, entries: Sequence[Entry], secrets: SecretValues = DEFAULT_SECRETS
) -> MatchExplanation:
    """Return the steps by which `ratelimit.match.match` finds a rule for `entries`, or why it finds none.

    The reason shows `secrets` as hashes.
    """
    node = root
    steps: list[MatchStep] = []
    for level, (key, value) in enumerate(entries, start=1):
        found = find_child(node, key, value)
        if found is None:
            return MatchExplanation(steps, _no_child(node, level, key, secrets.shown(key, value)))
        node, reading = found
        how = "any value" if node.composite == key else "wildcard" if "*" in node.composite else "exact value"
        steps.append(MatchStep((key, value), node.shown, how, node.shared_value or reading))
    if node.rule is None:
        longer = "; longer descriptors have one" if node.children else ""
        return MatchExplanation(steps, f"no rate_limit at level {len(entries)}{longer}")
    return MatchExplanation(steps, "")


def _no_child(node: Node, level: int, key: str, value: str) -> str:
    # As they are shown, because the value of a descriptor in a file may be a secret.
    every = list(node.children.values())
    known = [child.shown for child in every if child.composite.startswith(f"{key}_")]
    values = bool(known)
    known = known or [child.shown for child in every]
    shown = ", ".join(known[:MAX_KEYS_SHOWN]) + (", ..." if len(known) > MAX_KEYS_SHOWN else "")
    what = f"with the key {key!r} and the value {value!r}" if values else f"with the key {key!r}"
    return f"no descriptor {what} at level {level}" + (f"; there are {shown}" if shown else "")
