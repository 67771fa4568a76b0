"""For random intents, what is built allows exactly what the intents say.

The oracle interprets the intent as it was written, without the model: it knows no rules, no indices and no
Envoy.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.request.identity import CredentialKind, Identity
from edge.build.build import build
from tests.edge.build.interpreted import BuiltEdge
from tests.edge.estates import read

CALLERS = (
    None,
    Identity(CredentialKind.JWT, "al", "https://a", frozenset({"read"})),
    Identity(CredentialKind.JWT, "bo", "https://b", frozenset({"read", "write"}), frozenset({"admin"})),
    Identity(CredentialKind.API_KEY, "key", "", frozenset({"write"})),
)
WHOS: Sequence[Any] = (
    "anyone",
    "authenticated",
    {"scopes": ["read"]},
    {"scopes": ["read", "write"]},
    {"roles": ["admin"]},
    {"issuers": ["https://a"]},
    [{"subjects": ["key"]}, {"roles": ["admin"]}],
)
DENIED: Sequence[Any] = (None, None, None, {"kinds": ["api_key"]}, {"subjects": ["bo"]}, "authenticated")
METHODS: Sequence[Any] = (None, None, ["GET"], ["GET", "POST"], ["POST"], ["DELETE"])
PATHS = (
    "",
    "/a",
    "/a/b",
    "/a/{x}",
    "/{x}",
    "/{x}/b",
    "/{x}/{y}",
    "/a/{r=**}",
    "/{x}/{r=**}",
    "/{r=**}",
    "/a b",
    "/a/",
)
REQUESTED = (
    "",
    "/a",
    "/b",
    "/a/b",
    "/a/c",
    "/c/b",
    "/c/d",
    "/a/b/c",
    "/c/d/e",
    "/a%20b",
    "/a/",
    "/%61/b",
    "/z/a/b",
)
SERVICES = {
    # Services on one host, on a wildcard, and on a host that the wildcard includes: their paths differ.
    "first": ("one", ["shared.example"], "/one/first"),
    "second": ("one", ["shared.example", "one.example"], "/one/second"),
    "wide": ("two", ["*.two.example"], "/wide"),
    "narrow": ("two", ["*.two.example", "x.two.example"], "/narrow"),
    "exact": ("two", ["x.two.example"], "/exact"),
}
HOSTS = (
    "shared.example",
    "one.example",
    "x.two.example",
    "y.two.example",
    "z.y.two.example",
    "two.example",
    "other",
)


@dataclass(frozen=True)
class Intent:
    """The routes of each service, as its file has them."""

    services: Mapping[str, Sequence[Mapping[str, Any]]]

    def texts(self) -> list[str]:
        return [orjson.dumps(self._file(name)).decode() for name in self.services]

    def _file(self, name: str) -> dict[str, Any]:
        owner, hosts, _ = SERVICES[name]
        file = {"service": name, "owner": owner, "hosts": hosts, "upstream": {"address": "up:80"}}
        return {**file, "routes": self.services[name]}


@st.composite
def intents(draw: st.DrawFn) -> Intent:
    services = {}
    for name in draw(st.lists(st.sampled_from(sorted(SERVICES)), min_size=1, unique=True)):
        taken: set[tuple[str, str]] = set()
        routes = []
        for number in range(draw(st.integers(1, 5))):
            methods = draw(st.sampled_from(METHODS))
            paths = [
                SERVICES[name][2] + path
                for path in draw(st.lists(st.sampled_from(PATHS), min_size=1, max_size=3))
            ]
            own = {(path, method) for path in paths for method in methods or ["*"]}
            if own & taken:
                continue
            taken |= own
            who = {"allow": draw(st.sampled_from(WHOS)), "deny": draw(st.sampled_from(DENIED))}
            route: dict[str, Any] = {"id": f"r{number}", "paths": sorted(set(paths))}
            route["who"] = {key: value for key, value in who.items() if value is not None}
            routes.append(route if methods is None else {**route, "methods": methods})
        services[name] = routes
    return Intent(services)


def deciding(intent: Intent, host: str, method: str, path: str) -> tuple[str, Mapping[str, Any]] | None:
    """Return the route that decides, with its name; None if no service offers the request."""
    found: list[tuple[list[int], bool, str, Mapping[str, Any]]] = [
        (ranks, "methods" not in route, f"{name}.{route['id']}", route)
        for name, routes in intent.services.items()
        if any(host == one or (one[0] == "*" and host.endswith(one[1:])) for one in SERVICES[name][1])
        for route in routes
        if method in route.get("methods", [method])
        for template in route["paths"]
        for ranks in covering(
            template.split("/")[1:], path.replace("%20", " ").replace("%61", "a").split("/")[1:]
        )
    ]
    if not found:
        return None
    *_, name, route = min(found, key=lambda one: one[:2])
    return name, route


def covering(template: Sequence[str], path: Sequence[str]) -> Iterator[list[int]]:
    """Yield how general the template is, segment by segment, if it covers the path."""
    ranks: list[int] = []
    for position, piece in enumerate(template):
        if piece.endswith("=**}"):
            yield [*ranks, 2]
            return
        if position >= len(path) or (
            path[position] != piece and not (piece.startswith("{") and path[position])
        ):
            return
        ranks.append(1 if piece.startswith("{") else 0)
    if len(template) == len(path):
        yield ranks


def includes(whos: Any, caller: Identity | None) -> bool:
    """Whether a description in `allow` or `deny` includes the caller."""
    if isinstance(whos, list):
        return any(includes(who, caller) for who in whos)
    if whos == "anyone" or caller is None:
        return bool(whos == "anyone")
    if whos == "authenticated":
        return True
    facts = {
        "scopes": caller.scopes.issuperset(whos.get("scopes", ())),
        "roles": not caller.roles.isdisjoint(whos.get("roles", ())),
        "issuers": caller.issuer in whos.get("issuers", ()),
        "subjects": caller.subject in whos.get("subjects", ()),
        "kinds": caller.kind.value in whos.get("kinds", ()),
    }
    return all(facts[key] for key in whos)


_PREFIXES = st.sampled_from([prefix for _, _, prefix in SERVICES.values()])
REQUESTS = st.tuples(
    st.sampled_from(HOSTS), st.sampled_from(["GET", "POST"]), _PREFIXES, st.sampled_from(REQUESTED)
)


@settings(max_examples=60)
@given(intents(), st.lists(REQUESTS, min_size=5, max_size=20))
def test_what_is_built_allows_exactly_what_the_intents_say(
    intent: Intent, requests: Sequence[tuple[str, str, str, str]]
) -> None:
    edge = BuiltEdge.of(build(read(*intent.texts())))
    for host, method, prefix, rest in requests:
        path = prefix + rest
        found = deciding(intent, host, method, path)
        for caller in CALLERS:
            decision = edge.decide(host, method, path, caller)
            if found is None:
                assert decision is None, (host, method, path)
                continue
            assert decision is not None, (host, method, path)
            name, route = found
            who = route["who"]
            allowed = includes(who["allow"], caller) and not ("deny" in who and includes(who["deny"], caller))
            assert (decision.verdict.status == 200) == allowed, (host, method, path, caller, decision)
            assert decision.verdict.rule in {name, f"{name}.deny"}


@settings(max_examples=40)
@given(intents(), st.lists(REQUESTS, min_size=5, max_size=20), st.sampled_from(sorted(SERVICES)))
def test_what_one_service_says_changes_no_answer_of_another(
    intent: Intent, requests: Sequence[tuple[str, str, str, str]], changed: str
) -> None:
    """The answers about a service are the same whatever another service says, or if it is not there."""
    others = Intent({name: routes for name, routes in intent.services.items() if name != changed})
    if len(others.services) in {0, len(intent.services)}:
        return
    whole, without = (BuiltEdge.of(build(read(*one.texts()))) for one in (intent, others))
    for host, method, prefix, rest in requests:
        path = prefix + rest
        found = deciding(others, host, method, path)
        if found is None:
            continue
        for caller in CALLERS:
            one, other = (edge.decide(host, method, path, caller) for edge in (whole, without))
            assert one is not None
            assert other is not None
            assert (one.verdict.status, one.verdict.rule) == (other.verdict.status, other.verdict.rule)
