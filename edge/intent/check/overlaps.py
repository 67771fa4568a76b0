"""No two services cover one request, and no two teams own one; no two routes of a service are equal.

Hosts lead to the owners whose host patterns overlap there; their paths go into one tree of segments. So the
cost grows with the number of paths, not with that of pairs.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from authz.policy.types.pattern import HostPattern, Template
from common.configfile import KeyPart, Problem
from edge.intent.check.spelling import Spelling
from edge.intent.model import Origin, Route, Service, Team


@dataclass(frozen=True, slots=True)
class Stake:
    """A path that an owner, a service or a team, claims on some hosts."""

    owner: str
    name: str
    """What claims the path, in messages."""
    path: Template
    origin: Origin
    below: tuple[KeyPart, ...]

    @property
    def place(self) -> str:
        """`FILE:LINE`."""
        document = self.origin.document
        return f"{document.file}:{document.line((*self.origin.path, *self.below))}" if document else ""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one owner claims on the same hosts."""

    owner: str
    hosts: tuple[HostPattern, ...]
    stakes: tuple[Stake, ...]


def holding_of(service: Service) -> Holding:
    """Return what a service claims."""
    stakes = (
        Stake(service.name, route.name, path, route.origin, ("paths", place))
        for route in service.routes
        for place, path in enumerate(route.paths)
    )
    return Holding(service.name, service.hosts, tuple(stakes))


def holdings_of(team: Team) -> Iterator[Holding]:
    """Yield what a team owns."""
    for place, claim in enumerate(team.owns):
        stake = Stake(team.name, team.name, claim.path, team.origin, ("owns", place))
        yield Holding(team.name, (claim.host,), (stake,))


def overlapping(holdings: Iterable[Holding], spelling: Spelling, thing: str) -> Iterator[Problem]:
    """Yield a problem for each stake that overlaps one of another owner; `thing` is what an owner is."""
    reported: set[tuple[str, str, str]] = set()
    compared: set[frozenset[int]] = set()
    for host, group in _by_host(holdings):
        if len({holding.owner for holding in group}) < 2:
            continue
        key = frozenset(map(id, group))
        if key in compared:
            continue
        compared.add(key)
        root = _Node()
        for holding in group:
            for stake in holding.stakes:
                for path in spelling.compared(stake.path):
                    other = root.overlapping(path, stake.owner)
                    if (
                        other is not None
                        and (pair := (stake.name, str(stake.path), other.name)) not in reported
                    ):
                        reported.add(pair)
                        yield stake.origin.problem(_message(stake, other, host, thing), *stake.below)
            for stake in holding.stakes:
                for path in spelling.compared(stake.path):
                    root.add(path, stake)


def _message(stake: Stake, other: Stake, host: HostPattern, thing: str) -> str:
    same = stake.path.segments == other.path.segments and stake.path.rest == other.path.rest
    what = f"{host}{stake.path}" if same else f"{host}{stake.path} overlaps {other.path}, which"
    verb = "is already claimed by" if same else "is claimed by"
    return f"{what} {verb} the {thing} {other.name} ({other.place})"


def _by_host(holdings: Iterable[Holding]) -> Iterator[tuple[HostPattern, Sequence[Holding]]]:
    """Yield each host pattern, with the holdings whose hosts include it, in order."""
    exact: dict[str, list[Holding]] = {}
    below: dict[str, list[Holding]] = {}
    order: dict[int, int] = {}
    for place, holding in enumerate(holdings):
        order[id(holding)] = place
        for host in holding.hosts:
            (below if host.wildcard else exact).setdefault(host.name, []).append(holding)
    for names, wildcard in ((exact, False), (below, True)):
        for name, own in names.items():
            found = {id(one): one for one in own}
            for parent in _parents(name):
                found |= {id(one): one for one in below.get(parent, ())}
            yield HostPattern(name, wildcard), sorted(found.values(), key=lambda one: order[id(one)])


def _parents(name: str) -> Iterator[str]:
    """Yield the names above `name`, the empty one last, which covers every host."""
    while name:
        name = name.partition(".")[2]
        yield name


class _Node:
    """A node of the tree of path segments."""

    __slots__ = ("any", "ends", "owners", "plain", "rests")

    def __init__(self) -> None:
        self.plain: dict[str, _Node] = {}
        self.any: _Node | None = None
        self.ends: list[Stake] = []
        self.rests: list[Stake] = []
        self.owners: set[str] = set()
        """Who has a stake here or below."""

    def add(self, path: Template, stake: Stake) -> None:
        node = self
        node.owners.add(stake.owner)
        for segment in path.segments:
            if segment is None:
                node.any = node.any or _Node()
                node = node.any
            else:
                node = node.plain.setdefault(segment, _Node())
            node.owners.add(stake.owner)
        (node.rests if path.rest else node.ends).append(stake)

    def overlapping(self, path: Template, owner: str, at: int = 0) -> Stake | None:
        """Return a stake of another owner that overlaps `path`, whose first `at` segments led here."""
        if not self.has_others(owner):
            return None
        found = _other(self.rests, owner)
        if found is not None:
            return found
        if at == len(path.segments):
            return self.first(owner) if path.rest else _other(self.ends, owner)
        for child in self._children(path.segments[at]):
            found = child.overlapping(path, owner, at + 1)
            if found is not None:
                return found
        return None

    def _children(self, segment: str | None) -> Iterator["_Node"]:
        """Yield the nodes that a segment leads to; a variable (None) is any segment but the empty one."""
        if segment is None:
            yield from (node for text, node in self.plain.items() if text)
        elif segment in self.plain:
            yield self.plain[segment]
        if self.any is not None and segment != "":
            yield self.any

    def first(self, owner: str) -> Stake | None:
        """Return a stake of another owner here or below."""
        found = _other(self.ends, owner) or _other(self.rests, owner)
        children = [*self.plain.values(), *((self.any,) if self.any is not None else ())]
        return found or next(
            (one for child in children if child.has_others(owner) and (one := child.first(owner))), None
        )

    def has_others(self, owner: str) -> bool:
        """Return whether another owner has a stake here or below."""
        return len(self.owners) > (owner in self.owners)


def _other(stakes: Iterable[Stake], owner: str) -> Stake | None:
    return next((stake for stake in stakes if stake.owner != owner), None)


_Shape = tuple[tuple[str | None, ...], bool]


def equal_routes(service: Service) -> Iterator[Problem]:
    """Yield a problem for each path of a route that another route of the service has for the same method."""
    known: dict[_Shape, list[Route]] = {}
    ids: dict[str, Route] = {}
    for route in service.routes:
        first = ids.setdefault(route.id, route)
        if first is not route:
            yield route.origin.problem(f"{route.id!r} is already the id of {first.origin.place}", "id")
        for place, path in enumerate(route.paths):
            others = known.setdefault((path.segments, path.rest), [])
            same = next((other for other in others if _share_a_method(other, route)), None)
            if same is not None:
                yield route.origin.problem(_twice(route, same, path), "paths", place)
            others.append(route)


_EVERY: Final = "every method"


def _share_a_method(one: Route, other: Route) -> bool:
    if one.methods is None or other.methods is None:
        return one.methods is other.methods
    return not set(one.methods).isdisjoint(other.methods)


def _twice(route: Route, other: Route, path: Template) -> str:
    shared = [method for method in route.methods or () if method in (other.methods or ())]
    where = "this route" if other is route else f"the route {other.id} ({other.origin.place})"
    return f"{', '.join(shared) or _EVERY} {path} is already in {where}, so it is unclear which one decides"
