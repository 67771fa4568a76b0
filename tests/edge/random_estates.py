"""Random estates without problems, and random requests to them, for Hypothesis.

Few words, so that routes overlap within a service, and requests often hit the border between two routes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st

from authz.request.identity import ANONYMOUS, CredentialKind, Identity
from edge.intent.claims import parse_claim

TEAMS: Final = ("one", "two", "three")
ISSUERS: Final = ("https://a.example", "https://b.example")
WORDS: Final = ("a", "b", "c")
METHODS: Final = ("GET", "POST", "PUT")
SCOPES: Final = ("read", "write")
ROLES: Final = ("admin", "support")
SUBJECTS: Final = ("alice", "bob")
CLIENTS: Final = ("192.0.2.7", "198.51.100.7")
NETWORKS: Final = ("192.0.2.0/24", "198.51.100.0/24")
KINDS: Final = (CredentialKind.ANONYMOUS, *[CredentialKind.JWT] * 2, CredentialKind.API_KEY)
SHARED_HOST: Final = "shared.example"


@dataclass(frozen=True, slots=True)
class Question:
    """A request, and who sends it."""

    host: str
    method: str
    segments: tuple[str, ...]
    identity: Identity
    client: str
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        """The path as it is sent; none of the words needs an escape."""
        return "/" + "/".join(self.segments)


Texts = Mapping[str, str]


@st.composite
def estates(draw: st.DrawFn) -> dict[str, str]:
    """Return the texts of an estate, by name: a platform, and one or two services of each of three teams."""
    platform = draw(_platforms())
    texts = {"platform.yaml": _yaml(platform)}
    for team in TEAMS:
        for number in range(draw(st.integers(1, 2))):
            texts[f"services/{team}-{number}.yaml"] = _yaml(draw(services(team, number)))
    return texts


@st.composite
def services(draw: st.DrawFn, team: str, number: int) -> dict[str, Any]:
    """Return the content of a service file of a team, on its own hosts or on the one that all share."""
    # Two services of a team never share a host and a path: one has the shared host, or both have a prefix.
    hosts, prefix = draw(st.sampled_from([
        ([f"{team}.example"], f"/s{number}"),
        ([f"{team}.example", f"*.{team}.example"], f"/s{number}"),
        ([f"*.{team}.example"], f"/s{number}"),
        ([f"x.{team}.example"], f"/s{number}"),
        ([SHARED_HOST], f"/{team}/s{number}"),
    ]))  # fmt: skip
    routes: list[dict[str, Any]] = []
    taken: _Taken = {}
    for place in range(draw(st.integers(1, 4))):
        methods = draw(st.none() | st.lists(st.sampled_from(METHODS), min_size=1, max_size=2, unique=True))
        said = None if methods is None else tuple(methods)
        paths = [
            path
            for path in draw(st.lists(_paths(prefix), min_size=1, max_size=2, unique=True))
            if _is_free(taken, path, said)
        ]
        if paths:
            route: dict[str, Any] = {"id": f"r{place}", "paths": paths}
            if methods is not None:
                route["methods"] = methods
            who = draw(st.none() | access_blocks())
            # Without a credential there is no subject to count.
            known = who is not None and who["allow"] != "anyone"
            pers = ["client", "all", *(["subject"] if known else [])]
            routes.append(route | ({} if who is None else {"who": who}) | draw(_limits_and_log(pers)))
    routes = routes or [{"id": "only", "paths": [prefix]}]
    name = f"{team}-{number}"
    head = {"service": name, "owner": team, "hosts": hosts, "upstream": {"address": f"{name}.internal:80"}}
    return {**head, "routes": routes}


_Taken = dict[tuple[Any, ...], list[tuple[str, ...] | None]]
"""The methods that routes of a service have, by the shape of their path."""


def _is_free(taken: _Taken, path: str, methods: tuple[str, ...] | None) -> bool:
    """Return whether no route has the path for one of the methods, and take it."""
    template = parse_claim(f"h{path}").path
    others = taken.setdefault((template.segments, template.rest), [])
    for other in others:
        if methods is None or other is None:
            if methods is other:
                return False
        elif set(methods) & set(other):
            return False
    others.append(methods)
    return True


@st.composite
def _paths(draw: st.DrawFn, prefix: str) -> str:
    pieces = draw(st.lists(st.sampled_from((*WORDS, "{}")), max_size=3))
    named = [f"{{v{place}}}" if piece == "{}" else piece for place, piece in enumerate(pieces)]
    end = draw(st.sampled_from(["", "", "", "/{rest=**}", "/**", "/"]))
    return "/".join([prefix, *named]) + end


def _callers() -> st.SearchStrategy[Any]:
    blocks: st.SearchStrategy[Any] = st.fixed_dictionaries(
        {},
        optional={
            "scopes": st.lists(st.sampled_from(SCOPES), min_size=1, max_size=2, unique=True),
            "any_scope": st.lists(st.sampled_from(SCOPES), min_size=1, max_size=2, unique=True),
            "roles": st.lists(st.sampled_from(ROLES), min_size=1, max_size=2, unique=True),
            "subjects": st.lists(st.sampled_from(SUBJECTS), min_size=1, max_size=1),
            "kinds": st.lists(st.sampled_from(["jwt", "api_key"]), min_size=1, max_size=2, unique=True),
        },
    ).filter(bool)
    return st.just("authenticated") | blocks


@st.composite
def access_blocks(draw: st.DrawFn) -> dict[str, Any]:
    """Return who may call a route, as a service file says it."""
    allow = draw(st.just("anyone") | _callers() | st.lists(_callers(), min_size=1, max_size=2))
    access: dict[str, Any] = {"allow": allow}
    if draw(st.integers(0, 3)) == 0:
        access["deny"] = draw(_callers())
    if draw(st.integers(0, 3)) == 0:
        access["client"] = [draw(st.sampled_from(NETWORKS))]
    if draw(st.integers(0, 3)) == 0:
        access["headers"] = {"x-tenant": draw(st.sampled_from(WORDS))}
    if draw(st.integers(0, 5)) == 0:
        access["if"] = "named"
    return access


@st.composite
def _limits_and_log(draw: st.DrawFn, pers: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if draw(st.booleans()):
        chosen = draw(st.lists(st.sampled_from(pers), max_size=2, unique=True))
        found["limits"] = [{"per": per, "requests": draw(st.integers(1, 50))} for per in chosen]
    if draw(st.booleans()):
        found["log"] = {"sample": draw(st.sampled_from([0.0, 0.25, 1.0]))}
    return found


@st.composite
def _platforms(draw: st.DrawFn) -> dict[str, Any]:
    teams: dict[str, dict[str, Any]] = {}
    for team in TEAMS:
        prefix = f"{SHARED_HOST}/{team}/{{rest=**}}"
        teams[team] = {"owns": [f"{team}.example", f"*.{team}.example", prefix]}
        if draw(st.integers(0, 2)) == 0:
            teams[team]["issuers"] = [draw(st.sampled_from(ISSUERS))]
    # The last condition keeps a rule from shutting a route completely, which `check` refuses.
    rules = [
        {"name": f"deny-{place}", "deny": draw(_callers())} | draw(_where())
        for place in range(draw(st.integers(0, 2)))
    ]
    named = draw(st.sampled_from([{"client": ["192.0.2.0/24"]}, {"headers": {"x-tenant": "a"}}]))
    issuers = [
        {"issuer": issuer, "audiences": ["x"], "max_lifetime_seconds": 600, "jwks": {"url": f"{issuer}/keys"}}
        for issuer in ISSUERS
    ]
    return {
        "domain": "edge",
        "policy": {"credentials": {"issuers": issuers}, "conditions": {"named": named}},
        "teams": teams,
        "defaults": {"who": draw(access_blocks())},
        "overrides": {"rules": rules, "limits": [{"per": "client", "requests": 60}]},
    }


@st.composite
def _where(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if draw(st.booleans()):
        found["hosts"] = [draw(st.sampled_from(["one.example", "*.two.example", SHARED_HOST, "*"]))]
    if draw(st.booleans()):
        found["paths"] = [draw(st.sampled_from(["/s0/**", "/s0/a/{rest=**}", "/one/**", "/{x}/s0/{y}"]))]
    if draw(st.booleans()):
        found["methods"] = [draw(st.sampled_from(METHODS))]
    if draw(st.booleans()):
        found["client"] = [draw(st.sampled_from(NETWORKS))]
    return found


@st.composite
def questions(draw: st.DrawFn) -> Question:
    """Return a request to one of the hosts that estates may have, or to none of them."""
    team = draw(st.sampled_from(TEAMS))
    own = [f"{team}.example", f"x.{team}.example", f"y.x.{team}.example"]
    host = draw(st.sampled_from([*own, SHARED_HOST, "no.example"]))
    prefix = [draw(st.sampled_from(["s0", "s1"]))]
    if host == SHARED_HOST:
        prefix = [team, *prefix]
    rest = draw(st.lists(st.sampled_from((*WORDS, "d")), max_size=4))
    end = draw(st.sampled_from([(), (), ("",)]))
    return Question(
        host,
        draw(st.sampled_from((*METHODS, "HEAD"))),
        (*prefix, *rest, *end),
        draw(identities()),
        draw(st.sampled_from(CLIENTS)),
        draw(st.sampled_from([{}, {"x-tenant": "a"}, {"x-tenant": "b"}])),
    )


@st.composite
def identities(draw: st.DrawFn) -> Identity:
    """Return a caller: anonymous, with a token of one of the issuers, or with an API key."""
    kind = draw(st.sampled_from(KINDS))
    if kind is CredentialKind.ANONYMOUS:
        return ANONYMOUS
    return Identity(
        kind,
        draw(st.sampled_from(SUBJECTS)),
        draw(st.sampled_from(ISSUERS)) if kind is CredentialKind.JWT else "",
        frozenset(draw(st.lists(st.sampled_from(SCOPES), unique=True))),
        frozenset(draw(st.lists(st.sampled_from(ROLES), unique=True))),
    )


def _yaml(content: Any) -> str:
    """Return `content` as JSON, which is YAML, and written and read much faster."""
    return json.dumps(content)
