"""Which rule a descriptor falls under, as envoyproxy/ratelimit finds it (GetLimit), and its bucket's name."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from protos.lenient import shown
from ratelimit.buckets import FixedWindow, TokenBucket
from ratelimit.rules import Node, Rule

Entry = tuple[str, str]
"""Key and value of one entry of a descriptor."""

MAX_KEY_LENGTH = 256
"""Values come from clients (a path, a header). A longer name is replaced by its hash, so that nobody can
fill the store with long names."""


class Match(NamedTuple):
    """A rule, and the entries it counts under."""

    rule: Rule
    counted: Sequence[Entry]
    """The entries of the request; values normalised, those under `share_threshold` the pattern."""


def match(root: Node, entries: Sequence[Entry]) -> Match | None:
    """The rule for `entries` in the tree of a domain; None when no rule stands at exactly their depth.

    At each level: the exact `key_value`, else the first wildcard in the order of the configuration that
    fits `key_value`, else the bare `key`. There is no way back: a branch once taken is not left.
    """
    node = root
    counted = entries
    for index, (key, value) in enumerate(entries):
        if key in node.normalise:
            value = node.normalise[key](value)  # noqa: PLW2901  # from here on there is no other value
            counted = [*counted[:index], (key, value), *counted[index + 1 :]]
        composite = f"{key}_{value}"
        children = node.children
        child = children.get(composite)
        if child is None:
            for wildcard in node.wildcards:
                if wildcard.matches(composite):
                    child = wildcard.node
                    break
            if child is None:
                child = children.get(key)
                if child is None:
                    return None
            elif child.shared_value:
                counted = [*counted[:index], (key, child.shared_value), *counted[index + 1 :]]
        node = child
    return None if node.rule is None else Match(node.rule, counted)


def metric_path(root: Node, rule: Rule, domain: str, entries: Sequence[Entry]) -> tuple[str, ...]:
    """The metric key of a rule whose key has values of the request in it (`metric_has_values`).

    `share_threshold` shows the pattern; else `detailed_metric` shows every value and `value_to_metric`
    that of its own level; else a level reads as in the configuration.
    """
    path = [domain]
    node = root
    for key, value in entries:
        if key in node.normalise:
            value = node.normalise[key](value)  # noqa: PLW2901  # as in `match`
        composite = f"{key}_{value}"
        name, child = composite, node.children.get(composite)
        if child is None:
            fitting = (wildcard for wildcard in node.wildcards if wildcard.matches(composite))
            wildcard = next(fitting, None)
            child = wildcard.node if wildcard else node.children[key]
            configured = "*".join(wildcard.parts) if wildcard else key
            shows_value = (rule.detailed_metric or child.value_to_metric) and not child.shared_value
            name = shown(composite if value else key) if shows_value else configured
        path.append(name)
        node = child
    return tuple(path)


def bucket_key(domain: str, bucket: TokenBucket | FixedWindow, counted: Sequence[Entry]) -> str:
    """The name of the bucket that `counted` share. Different entries have different names, always.

    It begins with algorithm and window: a new `requests_per_unit` keeps what is counted, a new window
    starts anew. envoyproxy/ratelimit joins with `_` unescaped, so there (a_b, c) and (a, b_c) share.
    """
    kind = f"t{bucket.period_us}" if isinstance(bucket, TokenBucket) else f"w{bucket.window_us}"
    name = f"{kind}|{_escaped(domain)}|{'|'.join([f'{_escaped(k)}={_escaped(v)}' for k, v in counted])}"
    if len(name) <= MAX_KEY_LENGTH:
        return name
    return f"{kind}#{blake2b(name.encode(), digest_size=32).hexdigest()}"


def _escaped(text: str) -> str:
    if text.isalnum():
        return text
    return text.replace("%", "%25").replace("|", "%7C").replace("=", "%3D")
