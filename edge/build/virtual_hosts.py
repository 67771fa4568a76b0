"""Which routes each virtual host of Envoy has.

Envoy chooses one virtual host for a request, an exact one before a wildcard and the longest wildcard first,
and looks at no other. So each virtual host also has the routes of the wildcards that include its host.
"""

from collections.abc import Iterator, Mapping, Sequence

from authz.policy.types.pattern import HostPattern
from edge.build.service_part import Placed, ServicePart


def routes_by_host(parts: Sequence[ServicePart]) -> Iterator[tuple[str, list[Placed]]]:
    """Yield each host pattern of the estate with its routes in order."""
    own: dict[HostPattern, list[ServicePart]] = {}
    for part in parts:
        for host in part.hosts:
            own.setdefault(host, []).append(part)
    for host in sorted(own, key=str):
        # A service may have a host and a wildcard that includes it.
        covering = {id(part): part for pattern in _including(host, own) for part in own[pattern]}
        yield str(host), sorted(placed for part in covering.values() for placed in part.routes)


def _including(host: HostPattern, known: Mapping[HostPattern, object]) -> Iterator[HostPattern]:
    """Yield those of the known patterns that include all of `host`."""
    if host in known:
        yield host
    name = host.name
    while name:
        name = name.partition(".")[2]
        pattern = HostPattern(name, wildcard=True)
        if pattern in known and pattern != host:
            yield pattern
