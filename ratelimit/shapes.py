"""Plans by the shape of a request: the same keys with other values need other buckets, and nothing else new.

A shape is the domain and the keys of each descriptor. Which rules a request of a shape falls under depends
on its values, but there are only as many ways through the configuration as it has rules. The first request on
a way is planned by `ratelimit.plan`; the plan is kept, and each further request only needs the names of its
buckets.

Requests that bring along more than keys and values (their own limit, hits of a descriptor), that are not
UTF-8, or whose rules limit concurrency or have values in their metric keys are planned one by one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from common.buckets import Bucket, Slots
from ratelimit.cache import GenerationalCache
from ratelimit.decision import LimitPlan, Memos
from ratelimit.match import bounded, bucket_kind, escaped, find_child
from ratelimit.request import BadInput, Descriptor, LimitRequest
from ratelimit.rules import BLANKS, CompiledLimits, LimitRule, Node
from ratelimit.stats import Counts
from ratelimit.stores.store import Mode, Take
from ratelimit.unmatched import UnmatchedShape
from ratelimit.wire import Shape, split

SHAPES_REMEMBERED: Final = 1_000
"""Envoy's configuration decides which keys there are, so there are few; an extreme one may ask for more."""

PLANS_REMEMBERED: Final = 10_000
"""Plans that are kept for a shape: one for each rule, or combination of rules, each about 1 KB."""

MOST_HITS: Final = 16
"""The most hits of a request whose plan is kept: larger numbers, such as tokens of a model, hardly repeat."""


_new: Final = tuple.__new__
"""Makes a named tuple of all its fields, for half of what its own constructor costs."""


@dataclass(frozen=True, slots=True, eq=False)
class _Way:
    """How a descriptor of a shape got to a node of the configuration. Compared by identity."""

    node: Node
    fixed: Sequence[str | None]
    """By level: the entry in the bucket's name; None where it depends on the value."""


class _OpenTake(NamedTuple):
    """A take whose bucket has no name yet."""

    descriptor: int
    name: Sequence[str]
    """Its pieces around the values that are counted."""
    kind: str
    bucket: Bucket
    hits: int
    mode: Mode
    spare: bool


class _OpenPlan(NamedTuple):
    """A plan without its request and takes."""

    before: Sequence[Any]
    """What comes between the two."""
    takes: Sequence[_OpenTake]
    unlimited: Sequence[tuple[Counts, int]]
    unmatched: Sequence[tuple[UnmatchedShape, int]]
    """Descriptors without a rule, by position."""
    odd: tuple[BadInput, ...]
    has_metadata: bool
    memos: Memos | None
    is_noted: bool


class _DescriptorShape:
    """The keys of a descriptor, and the ways that values have led through the configuration so far."""

    __slots__ = ("keys", "levels", "root", "ways")

    def __init__(self, root: Node, keys: tuple[str, ...]) -> None:
        self.root = root
        self.keys = keys
        self.levels = tuple([(key, f"{key}_") for key in keys])
        self.ways: dict[Node, _Way] = {}

    def find(self, values: Sequence[str]) -> tuple[_Way | None, list[str]]:
        """The way of these values, as `ratelimit.match.match` goes, and the values that are counted on it.

        None where no rule applies.
        """
        node = self.root
        counted: list[str] = []
        for (key, prefix), value in zip(self.levels, values, strict=True):
            if node.wildcards or node.normalise:
                found = find_child(node, key, value)
                if found is None:
                    return None, counted
                node, reading = found
                if _fixed_value(node, prefix, reading) is None:
                    counted.append(reading)
                continue
            reading = value.strip(BLANKS)
            child = node.children.get(prefix + reading)
            if child is None:
                child = node.children.get(key)
                if child is None:
                    return None, counted
                counted.append(reading)
            node = child
        return (None if node.rule is None else self.ways.get(node) or self._way(node, values)), counted

    def _way(self, end: Node, values: Sequence[str]) -> _Way:
        node = self.root
        fixed: list[str | None] = []
        for (key, prefix), value in zip(self.levels, values, strict=True):
            found = find_child(node, key, value)
            assert found is not None  # noqa: S101  # `find` has been here
            node, reading = found
            value_there = _fixed_value(node, prefix, reading)
            fixed.append(None if value_there is None else f"{escaped(key)}={escaped(value_there)}")
        way = self.ways[end] = _Way(end, tuple(fixed))
        return way

    def name(self, way: _Way, beginning: str) -> Sequence[str]:
        """The pieces of the name of a bucket that starts with `beginning`, around each counted value."""
        pieces = [beginning]
        for key, fixed in zip(self.keys, way.fixed, strict=True):
            pieces[-1] += f"|{escaped(key)}=" if fixed is None else f"|{fixed}"
            if fixed is None:
                pieces.append("")
        return tuple(pieces)


class _RequestShape:
    """The domain and the keys of a request, and the plans on the ways so far."""

    __slots__ = ("descriptors", "domain", "plans")

    def __init__(self, domain: str, descriptors: Sequence[_DescriptorShape]) -> None:
        self.domain = domain
        self.descriptors = descriptors
        self.plans: GenerationalCache[object, _OpenPlan] = GenerationalCache(PLANS_REMEMBERED)

    def opened(self, plan: LimitPlan, ways: Sequence[_Way | None]) -> _OpenPlan:
        """`plan` without what belongs to one request alone."""
        takes = []
        for charge, (_, bucket, hits, mode, spare) in zip(plan.charges, plan.takes, strict=True):
            kind, way = bucket_kind(bucket), ways[charge.position]
            assert way is not None  # noqa: S101  # it is charged, so it has a rule
            name = self.descriptors[charge.position].name(way, f"{kind}|{escaped(self.domain)}")
            takes.append(_OpenTake(charge.position, name, kind, bucket, hits, mode, spare))
        without_rule = [position for position, way in enumerate(ways) if way is None]
        unmatched = [
            (shape, position) for (shape, _), position in zip(plan.unmatched, without_rule, strict=True)
        ]
        before = plan.limits, plan.statuses, plan.charges
        odd = tuple([reason for reason in plan.odd if reason is not BadInput.LONG_KEY])
        return _OpenPlan(
            before, takes, plan.unlimited, unmatched, odd, plan.has_metadata, plan.memos, plan.is_noted
        )


class Shapes:
    """Plans requests for `limits`; `make_plan` plans the first on each way.

    The name of a bucket has at most `longest` characters; a longer one is replaced by its hash.
    """

    def __init__(
        self, limits: CompiledLimits, make_plan: Callable[[LimitRequest], LimitPlan], longest: int
    ) -> None:
        self._limits = limits
        self._longest = longest
        self._make_plan = make_plan
        self._shapes: GenerationalCache[Shape, _RequestShape] = GenerationalCache(SHAPES_REMEMBERED)

    def plan(self, message: bytes) -> LimitPlan | None:
        """The plan for a RateLimitRequest; raises what `make_plan` raises. None: plan it by itself."""
        plain = split(message)
        if plain is None:
            return None
        keys, values, hits = plain
        shape = self._shapes.get(keys) or self._shape(keys)
        if shape is None:
            return None
        if len(shape.descriptors) == 1:
            return self._plan_one(shape, values, hits)
        ways: list[_Way | None] = []
        counted: list[list[str]] = []
        asked: list[Descriptor] = []
        first = 0
        for descriptor in shape.descriptors:
            last = first + len(descriptor.keys)
            own = values[first:last]
            way, found = descriptor.find(own)
            ways.append(way)
            counted.append(found)
            entries = tuple(zip(descriptor.keys, own, strict=True))
            asked.append(_new(Descriptor, (entries, None, False, None)))
            first = last
        request = _new(LimitRequest, (shape.domain, asked, hits))
        opened = shape.plans.get((hits, *ways))
        return (
            self._first(shape, request, ways)
            if opened is None
            else _closed(opened, request, counted, self._longest)
        )

    def parts(self) -> Iterator[object]:
        """Yield the plans that are kept (`common.background.release`)."""
        for shape in self._shapes.values():
            yield shape
            yield from shape.plans.values()

    def _plan_one(self, shape: _RequestShape, values: Sequence[str], hits: int) -> LimitPlan:
        (descriptor,) = shape.descriptors
        way, counted = descriptor.find(values)
        asked = _new(Descriptor, (tuple(zip(descriptor.keys, values, strict=True)), None, False, None))
        request = _new(LimitRequest, (shape.domain, (asked,), hits))
        opened = shape.plans.get((hits, way))
        return (
            self._first(shape, request, (way,))
            if opened is None
            else _closed(opened, request, (counted,), self._longest)
        )

    def _first(self, shape: _RequestShape, request: LimitRequest, ways: Sequence[_Way | None]) -> LimitPlan:
        plan = self._make_plan(request)
        if request.hits_addend > MOST_HITS or any(way is not None and _is_alone(_rule(way)) for way in ways):
            return plan
        plan = plan._replace(memos=Memos())
        shape.plans.put((request.hits_addend, *ways), shape.opened(plan, ways))
        return plan

    def _shape(self, keys: Shape) -> _RequestShape | None:
        domain = str(keys[0])
        root = self._limits.domains.get(domain)
        if root is None:
            return None
        descriptors: list[list[str]] = []
        for key in keys[1:]:
            if key is None:
                descriptors.append([])
            else:
                descriptors[-1].append(key)
        shape = _RequestShape(domain, [_DescriptorShape(root, tuple(keys)) for keys in descriptors])
        self._shapes.put(keys, shape)
        return shape


def _closed(
    opened: _OpenPlan, request: LimitRequest, counted: Sequence[Sequence[str]], longest: int
) -> LimitPlan:
    """The plan of a way for a request on it."""
    before, open_takes, unlimited, without_rule, odd, has_metadata, memos, is_noted = opened
    takes = []
    for position, pieces, kind, bucket, hits, mode, spare in open_takes:
        name = pieces[0]
        for value, piece in zip(counted[position], pieces[1:], strict=True):
            name += (value if value.isalnum() else escaped(value)) + piece
        if len(name) > longest:
            name = bounded(kind, name, longest)
            odd = (*odd, BadInput.LONG_KEY) if BadInput.LONG_KEY not in odd else odd
        takes.append(_new(Take, (name, bucket, hits, mode, spare)))
    unmatched: Sequence[tuple[UnmatchedShape, Descriptor]] = ()
    if without_rule:
        descriptors = request.descriptors
        unmatched = tuple([(shape, descriptors[position]) for shape, position in without_rule])
    return _new(
        LimitPlan,
        (request, *before, takes, unlimited, False, unmatched, odd, has_metadata, memos, is_noted),
    )


def _fixed_value(node: Node, prefix: str, reading: str) -> str | None:
    """The value that a level always counts under; None where that of the request counts."""
    if node.shared_value:
        return node.shared_value
    return reading if node.composite == prefix + reading and "*" not in node.composite else None


def _is_alone(rule: LimitRule) -> bool:
    """Return whether each request of the rule needs a plan of its own."""
    return rule.metric_has_values or isinstance(rule.bucket, Slots)


def _rule(way: _Way) -> LimitRule:
    assert way.node.rule is not None  # noqa: S101  # else there is no way to it
    return way.node.rule
