"""Compares two estates: first what callers and the log get, then everything else."""

from collections.abc import Iterable, Iterator, Sequence

from edge.intent.diff.change import Change, Found, Kind, grouped
from edge.intent.diff.platform import changes_of_platform
from edge.intent.diff.requests import EVERY_METHOD, Compared, Decider, compared
from edge.intent.diff.values import changes_of_limits, changes_of_route
from edge.intent.diff.within import is_within
from edge.intent.model import Estate, Service
from edge.intent.service_file import ExceptionConfig
from edge.intent.wording import access_text


def diff(old: Estate, new: Estate) -> tuple[Change, ...]:
    """Return what changes: weaker redaction and wider access first, always in the same order."""
    was = {service.name: service for service in old.services}
    now = {service.name: service for service in new.services}
    names = [name for name in sorted({*was, *now}) if was.get(name) != now.get(name)]
    requests = list(
        compared([was[name] for name in names if name in was], [now[name] for name in names if name in now])
    )
    return grouped((
        *changes_of_platform(old, new),
        *_access(requests),
        *(found for pair in _pairs(requests) for found in changes_of_route(pair[0].route, pair[1].route)),
        *(found for name in names for found in _service(was.get(name), now.get(name))),
    ))  # fmt: skip


def _pairs(requests: Iterable[Compared]) -> Iterator[tuple[Decider, Decider]]:
    """Yield each route with the one that decided on its requests before."""
    seen: set[tuple[str, str]] = set()
    for one in requests:
        if one.before is None or one.after is None:
            continue
        names = (one.before.route.name, one.after.route.name)
        if names not in seen:
            seen.add(names)
            yield one.before, one.after


def _access(requests: Iterable[Compared]) -> Iterator[Found]:
    """Yield changes of who may call, with all requests for which the words are the same in one sentence."""
    groups: dict[Found, list[Compared]] = {}
    for one in requests:
        found = _verdict(one)
        if found is not None:
            groups.setdefault(found, []).append(one)
    for (kind, subject, text), group in groups.items():
        for places in _places(group):
            yield kind, subject, f"{places} {text}"


def _verdict(one: Compared) -> Found | None:
    """Return what changes for a kind of request; None if nothing does."""
    before, after = one.before, one.after
    if after is None:
        if before is None:
            return None
        text = f"is no longer served (before: {access_text(before.route.access)})"
        return Kind.ACCESS_NARROWER, before.service.name, text
    subject = after.service.name
    if before is None:
        return Kind.ACCESS_WIDER, subject, f"is new and may be called by {access_text(after.route.access)}"
    old, new = before.route.access, after.route.access
    words = f"by {access_text(new)} (before: {access_text(old)})"
    if before.variables != after.variables:
        return Kind.ACCESS_WIDER, subject, f"may now be called {words}; the path was {before.template}"
    if not is_within(new, old):
        return Kind.ACCESS_WIDER, subject, f"may now be called {words}"
    if not is_within(old, new):
        return Kind.ACCESS_NARROWER, subject, f"may be called only {words}"
    if before.service.name != after.service.name:
        return Kind.OTHER, subject, f"is now served by {subject} (before: {before.service.name})"
    return None


_Places = dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]]
"""Paths by their methods and hosts."""


def _places(group: Sequence[Compared]) -> Iterator[str]:
    """Yield the requests in words: `POST, PUT /orders and /orders/{id}`; hosts only if not all are meant."""
    decider = group[0].after or group[0].before
    routes = decider.service.routes if decider is not None else ()
    every_host = tuple(sorted(map(str, decider.service.hosts))) if decider is not None else ()
    every_method = {method for route in routes for method in route.methods or ()} | {EVERY_METHOD}
    hosts: dict[tuple[str, str], set[str]] = {}
    for one in group:
        hosts.setdefault((one.method, str(one.path)), set()).add(str(one.host))
    methods: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (method, path), on in hosts.items():
        methods.setdefault((path, tuple(sorted(on))), []).append(method)
    paths: _Places = {}
    for (path, on_hosts), named in methods.items():
        paths.setdefault((tuple(sorted(named)), on_hosts), []).append(path)
    for (named_methods, on_hosts), found in paths.items():
        where = "" if on_hosts == every_host else f" on {_listed(on_hosts)}"
        yield f"{_methods(named_methods, every_method)} {_listed(sorted(found))}{where}"


def _methods(named: Sequence[str], every: set[str]) -> str:
    if EVERY_METHOD not in named:
        return ", ".join(named)
    if every <= set(named):
        return "every method"
    return ", ".join([*(name for name in named if name != EVERY_METHOD), "every other method"])


def _listed(texts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))


def _service(old: Service | None, new: Service | None) -> Iterator[Found]:
    """Yield what changes of a service as a whole."""
    if new is None or old is None:
        one = new or old
        if one is not None:
            what = "is new" if old is None else "is removed"
            yield Kind.OTHER, one.name, f"the service of the team {one.owner} {what}"
        return
    name = new.name
    if old.owner != new.owner:
        yield Kind.OTHER, name, f"the owner is the team {new.owner} (before: {old.owner})"
    if old.upstream != new.upstream:
        yield Kind.OTHER, name, f"the upstream is {_upstream(new)} (before: {_upstream(old)})"
    before, after = (() if one.limit is None else (one.limit,) for one in (old, new))
    yield from changes_of_limits(name, before, after, "the limit of all routes")
    was, now = ({_exception(one) for one in service.exceptions} for service in (old, new))
    yield from ((Kind.OTHER, name, f"new exception: {text}") for text in sorted(now - was))
    yield from ((Kind.OTHER, name, f"the exception is gone: {text}") for text in sorted(was - now))


def _upstream(service: Service) -> str:
    upstream = service.upstream
    tls = upstream.tls if isinstance(upstream.tls, bool) else upstream.tls.model_dump(exclude_none=True)
    how = [
        *(["TLS"] if tls is True else [f"TLS {tls}"] if tls else []),
        *(["HTTP/2"] if upstream.http2 else []),
    ]
    return f"{upstream.address}{f' with {_listed(how)}' if how else ''}"


def _exception(one: ExceptionConfig) -> str:
    where = f" for {one.route}" if one.route is not None else ""
    return f"{one.ceiling} up to {one.value:g}{where} until {one.until} ({one.reason})"
