"""Which rule a descriptor falls under, as envoyproxy/ratelimit finds it (GetLimit), and its bucket's name."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from common.buckets import SECOND_US, Bucket, CalendarWindow, FixedWindow, Slots, TokenBucket
from protos.lenient import shown
from ratelimit.rules import BLANKS, LimitRule, Node
from ratelimit.secret_values import DEFAULT_SECRETS, SecretValues

Entry = tuple[str, str]
"""Key and value of one entry of a descriptor."""


MAX_KEY_LENGTH: Final = 256
"""Values come from clients (a path, a header). A longer name is replaced by its hash, so that no client can
fill the store with long names."""


class Match(NamedTuple):
    """A rule, and the entries it counts under."""

    rule: LimitRule
    counted: Sequence[Entry]
    """The entries of the request; values normalised and without outer blanks, those under `share_threshold`
    the pattern."""


def match(root: Node, entries: Sequence[Entry]) -> Match | None:
    """The rule for `entries` in the tree of a domain; None when no rule stands at exactly their depth.

    At each level: the exact `key_value`, else the first wildcard in the order of the configuration that
    fits `key_value`, else the bare `key`. A branch once taken is not left.
    """
    node = root
    counted = entries
    for index, (key, value) in enumerate(entries):
        found = find_child(node, key, value)
        if found is None:
            return None
        node, reading = found
        reading = node.shared_value or reading
        if reading != value:
            counted = [*counted[:index], (key, reading), *counted[index + 1 :]]
    return None if node.rule is None else Match(node.rule, counted)


def find_child(node: Node, key: str, value: str) -> tuple[Node, str] | None:
    """The child that an entry falls under, and the value as it counts there.

    It counts without outer blanks, and normalised where the configuration says so. Where servers read a value
    in several ways (`ratelimit.normalise`), each may meet a rule for a value.
    """
    normalise = node.normalise.get(key)
    readings = (value.strip(BLANKS),) if normalise is None else normalise(value)
    children = node.children
    for reading in readings:
        child = children.get(f"{key}_{reading}")
        if child is not None:
            return child, reading
    for wildcard in node.wildcards:
        for reading in readings:
            if wildcard.matches(f"{key}_{reading}"):
                return wildcard.node, reading
    child = children.get(key)
    return None if child is None else (child, readings[0])


def metric_path(
    root: Node,
    rule: LimitRule,
    domain: str,
    entries: Sequence[Entry],
    *,
    marks_empty: bool = False,
    secrets: SecretValues = DEFAULT_SECRETS,
) -> tuple[str, ...]:
    """The metric key of a rule whose key has values of the request in it (`metric_has_values`).

    `share_threshold` shows the pattern; else `detailed_metric` shows every value and `value_to_metric`
    that of its own level; else a level reads as in the configuration. `marks_empty`: an empty value that
    `detailed_metric` shows is `key_`, not `key`. `secrets` are shown as hashes. Raises ValueError where
    `match` finds no rule.
    """
    path = [domain]
    node = root
    for key, value in entries:
        found = find_child(node, key, value)
        if found is None:
            raise ValueError(f"no rule for {key!r}")
        node, reading = found
        shows_value = (rule.detailed_metric or node.value_to_metric) and not node.shared_value
        has_value = reading or (marks_empty and rule.detailed_metric)
        if shows_value:
            path.append(shown(f"{key}_{secrets.shown(key, reading)}" if has_value else key))
        else:
            path.append(node.shown)
    return tuple(path)


def bucket_key(domain: str, bucket: Bucket, counted: Sequence[Entry], longest: int = MAX_KEY_LENGTH) -> str:
    """The name of the bucket that `counted` share. Different entries have different names, always.

    A name of more than `longest` characters is replaced by its hash.

    It begins with algorithm and window: a new `requests_per_unit` keeps what is counted, a new window
    starts again. envoyproxy/ratelimit joins with `_` unescaped, so there (a_b, c) and (a, b_c) share.
    """
    kind = bucket_kind(bucket)
    entries = "|".join([f"{escaped(key)}={escaped(value)}" for key, value in counted])
    return bounded(kind, f"{kind}|{escaped(domain)}|{entries}", longest)


def bucket_kind(bucket: Bucket) -> str:
    """The beginning of a bucket's name: algorithm and window, in seconds where it is whole ones.

    Slots have no window: requests in flight stay counted if a reload changes when their slots expire.
    """
    if isinstance(bucket, TokenBucket):
        return f"b{_span(bucket.period_us)}"
    if isinstance(bucket, CalendarWindow):
        return f"m{bucket.months}"
    if isinstance(bucket, Slots):
        return "c"
    return f"{'w' if isinstance(bucket, FixedWindow) else 's'}{_span(bucket.window_us)}"


def _span(microseconds: int) -> str:
    seconds, rest = divmod(microseconds, SECOND_US)
    return f"{microseconds}us" if rest else f"{seconds}"


def bounded(kind: str, name: str, longest: int) -> str:
    """`name`, or `kind` with its hash where it has more than `longest` characters."""
    if len(name) <= longest:
        return name
    return f"{kind}#{blake2b(name.encode(), digest_size=32).hexdigest()}"


def escaped(text: str) -> str:
    """`text` without the characters that separate the parts of a bucket's name."""
    if text.isalnum():
        return text
    return text.replace("%", "%25").replace("|", "%7C").replace("=", "%3D")
