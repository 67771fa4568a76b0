"""What built files say about a request, read by a small interpreter of Envoy's routes and by authz itself."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import orjson

from authz.engine.decide import Authorizer, Decision, decision_ids
from authz.policy.compile.compile import Policy
from authz.policy.compile.load import parse_policy
from authz.request.identity import Authentication
from authz.request.request import Request
from edge.build.build import Built
from tests.support.callers import Says
from tests.support.checks import check_request

NOW = 1_770_000_000.0

_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")


def _plain(escape: re.Match[str]) -> str:
    """Return what `normalize_path` makes of an escape: unreserved characters have one spelling."""
    character = unquote(escape[0])
    return character if re.fullmatch(r"[A-Za-z0-9._~-]", character) else escape[0]


def content(built: Built, name: str) -> Any:
    """Return the content of a built file."""
    return orjson.loads(built.files[name])


def route_configuration(built: Built) -> Any:
    """Return Envoy's RouteConfiguration."""
    [routes] = content(built, "xds/routes.json")["resources"]
    return routes


def extensions(part: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the context extensions of a part of the route configuration."""
    per_filter = part.get("typed_per_filter_config", {}).get("envoy.filters.http.ext_authz")
    found: Mapping[str, str] = per_filter["check_settings"]["context_extensions"] if per_filter else {}
    return found


def envoy_route(configuration: Any, host: str, method: str, path: str) -> dict[str, Any] | None:
    """Return the route that Envoy takes: that of the closest virtual host, the first that matches."""
    hosts = {domain: one for one in configuration["virtual_hosts"] for domain in one["domains"]}
    wanted = [host, *(f"*.{rest}" for rest in _parents(host)), "*"]
    virtual_host = next((hosts[domain] for domain in wanted if domain in hosts), None)
    if virtual_host is None:
        return None
    routes: list[dict[str, Any]] = virtual_host["routes"]
    return next((route for route in routes if _matches(route["match"], method, path)), None)


def _parents(host: str) -> Iterator[str]:
    while "." in host:
        host = host.partition(".")[2]
        yield host


def _matches(match: Mapping[str, Any], method: str, path: str) -> bool:
    for header in match.get("headers", ()):
        text = header["string_match"]
        if not (
            text.get("exact") == method
            or re.fullmatch(text.get("safe_regex", {}).get("regex", "(?!)"), method)
        ):
            return False
    return covers(match, path)


def covers(match: Mapping[str, Any], path: str) -> bool:
    """Whether the path of a RouteMatch covers `path`."""
    match match:
        case {"path": exact}:
            return bool(path == exact)
        case {"prefix": prefix}:
            return path.startswith(prefix)
        case {"path_separated_prefix": prefix}:
            return path == prefix or path.startswith(f"{prefix}/")
        case {"safe_regex": {"regex": regex}}:
            return re.fullmatch(regex, path) is not None
        case _:
            raise AssertionError(match)


@dataclass(frozen=True, slots=True)
class BuiltEdge:
    """The built routes and policy, loaded once."""

    routes: Any
    policy: Policy

    @staticmethod
    def of(built: Built) -> "BuiltEdge":
        """Load what was built."""
        return BuiltEdge(
            route_configuration(built), parse_policy(built.files["policy.json"].decode(), "policy.json")
        )

    def decide(self, host: str, method: str, path: str, who: Authentication = None) -> Decision | None:
        """Return the decision about a request; None if Envoy has no route for it, and so does not ask."""
        path = _ESCAPE.sub(_plain, path)
        route = envoy_route(self.routes, host, method, path)
        if route is None:
            return None
        message = check_request(method, path, host=host)
        message.attributes.context_extensions.update({**extensions(self.routes), **extensions(route)})
        authorizer = Authorizer(self.policy, Says(who), decision_ids(lambda: 0.5))
        decision = authorizer.decide(Request(message), NOW)
        assert isinstance(decision, Decision)
        return decision
