"""Services claim what their team owns, and nothing that the platform reserves."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Final

from authz.policy.types.pattern import EVERY_PATH, HostPattern, Template
from common.configfile import Problem
from edge.intent.check.spelling import Spelling
from edge.intent.claims import Claim, host_includes, hosts_overlap
from edge.intent.model import Service, Team
from edge.intent.platform import Platform
from edge.intent.service_file import TlsConfig

_MOST_LISTED: Final = 5
"""The most names that a message lists."""


def unowned(service: Service, platform: Platform, spelling: Spelling) -> Iterator[Problem]:
    """Yield a problem for each host and path that the service may not claim."""
    team = platform.teams.get(service.owner)
    if team is None:
        close = get_close_matches(service.owner, platform.teams, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known: {_listed(platform.teams)}"
        yield service.whole.problem(f"the platform has no team {service.owner!r}{hint}", "owner")
    yield from _folder(service)
    yield from _upstream(service, platform, team)
    for position, host in enumerate(service.hosts):
        first = service.hosts.index(host)
        if first != position:
            yield service.whole.problem(f"{host} is already hosts[{first}]", "hosts", position)
            continue
        reserved = next(
            (one for one in platform.content.reserved.hosts or () if hosts_overlap(one, host)), None
        )
        if reserved is not None:
            where = platform.origin_of_reserved("hosts")
            yield service.whole.problem(
                f"{host} is reserved by the platform ({where}: {reserved})", "hosts", position
            )
        elif team is not None:
            yield from _unowned_host(service, position, host, team, platform)
    yield from _reserved_paths(service, platform, spelling)


def _folder(service: Service) -> Iterator[Problem]:
    """Yield a problem if the file is in the folder of another team, which approves what is there."""
    _, *folders, _ = service.file.split("/") if "/" in service.file else ("", "")
    if folders and folders[0] != service.owner:
        message = f"the file is in the folder of the team {folders[0]}: move it to services/{service.owner}/"
        yield service.whole.problem(message, "owner")


def _upstream(service: Service, platform: Platform, team: Team | None) -> Iterator[Problem]:
    address, tls = service.upstream.address, service.upstream.tls
    ca_files = platform.content.ca_files or ()
    if isinstance(tls, TlsConfig) and tls.ca_file is not None and tls.ca_file not in ca_files:
        # Envoy rejects its configuration, that of all teams, for a file that it cannot read.
        message = f"the platform has no ca_file {tls.ca_file}; its ca_files: {_listed(ca_files)}"
        yield service.whole.problem(message, "upstream", "tls", "ca_file")
    patterns = platform.content.reserved.upstreams or ()
    reserved = next((one for one in patterns if one.may_be_reached(address)), None)
    if reserved is not None:
        where = platform.origin_of_reserved("upstreams")
        what = "is reserved by the platform" if reserved.covers(address) else "leads to what is reserved"
        message = f"{address} {what} ({where}: {reserved})"
        yield service.whole.problem(message, "upstream", "address")
        return
    allowed = team.upstreams if team is not None else None
    if team is not None and allowed is not None and not any(one.covers(address) for one in allowed):
        known = f"{_listed(map(str, allowed))} ({team.origin.place})"
        message = f"{address} is not an upstream of the team {team.name}: it has {known}"
        yield service.whole.problem(message, "upstream", "address")


def _unowned_host(
    service: Service, position: int, host: HostPattern, team: Team, platform: Platform
) -> Iterator[Problem]:
    grants = [claim for claim in team.owns if host_includes(claim.host, host)]
    if not grants:
        holder = _holder(Claim(host), platform, team)
        yield service.whole.problem(
            f"the team {team.name} does not own {host}: {holder or _owned(team)}", "hosts", position
        )
        return
    if any(claim.path == EVERY_PATH for claim in grants):
        return
    for route in service.routes:
        for place, path in enumerate(route.paths):
            claim = Claim(host, path)
            if not any(grant.includes(claim) for grant in grants):
                holder = _holder(claim, platform, team)
                yield route.origin.problem(
                    f"the team {team.name} does not own {claim}: {holder or _owned(team)}", "paths", place
                )


def _holder(claim: Claim, platform: Platform, team: Team) -> str:
    for other in platform.teams.values():
        if other.name != team.name and any(owned.overlaps(claim) for owned in other.owns):
            return f"it belongs to the team {other.name} ({other.origin.place})"
    return ""


def _owned(team: Team) -> str:
    return f"it owns {_listed(map(str, team.owns))} ({team.origin.place})"


def _reserved_paths(service: Service, platform: Platform, spelling: Spelling) -> Iterator[Problem]:
    reserved = platform.content.reserved.paths or ()
    for route in service.routes if reserved else ():
        for place, path in enumerate(route.paths):
            found = next((one for one in reserved if spelling.overlap(one, path)), None)
            if found is not None:
                yield route.origin.problem(_reserved(path, found, platform), "paths", place)


def _reserved(path: Template, reserved: Template, platform: Platform) -> str:
    where = platform.origin_of_reserved("paths")
    covers = "is" if str(path) == str(reserved) else f"covers {reserved}, which is"
    return f"{path} {covers} reserved by the platform ({where}): name narrower paths"


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = len(every) - _MOST_LISTED
    return ", ".join(every[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "") or "none"
