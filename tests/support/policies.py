"""Hypothesis strategies for policies, requests and callers."""

from ipaddress import ip_network
from typing import Any

import orjson
from hypothesis import strategies as st

from authz.engine.decide import Authorizer, Decision
from authz.policy.compile.compile import Policy
from authz.policy.compile.load import parse_policy
from authz.request.identity import Authentication, CredentialKind, Identity, Refusal, RefusalReason
from authz.request.request import Request
from authz.tools.examples import Given
from tests.support.checks import request

NOW = 1_770_000_000.0


hosts = st.sampled_from(["a.example", "b.a.example", "c.b.a.example", "other.example", "*.a.example", "*"])


paths = st.sampled_from(["/", "/x", "/x/y", "/x/{id}", "/{id}", "/{rest=**}", "/x/{rest=**}", "/admin/**"])


methods = st.sampled_from(["GET", "POST", "OPTIONS"])


scopes = st.sampled_from(["read", "write", "admin"])


whos: st.SearchStrategy[Any] = st.one_of(
    st.just("anyone"),
    st.just("authenticated"),
    st.builds(lambda one: {"scopes": [one]}, scopes),
    st.builds(lambda one: {"roles": [one]}, scopes),
    st.builds(
        lambda one, two: [{"scopes": [one]}, {"subjects": [two]}], scopes, st.sampled_from(["al", "bo"])
    ),
    st.just({"claims": {"tenant": "acme"}}),
)


conditions: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {},
        {"headers": {"x-tenant": "acme"}},
        {"headers": {"x-tenant": {"not_one_of": ["acme"]}}},
        {"query": {"debug": {"present": False}}},
        {"client": ["10.0.0.0/8"]},
        {"client_not": [str(ip_network("10.0.0.0/8"))]},
        {"when": "claims.tenant == 'acme'"},
        {"when": "method == 'GET' && headers['x-tenant'][0] == 'acme'"},
        {"caller": {"kinds": ["jwt"]}},
        {"share": "50%"},
        {"share": {"percent": 50, "by": "subject"}},
        {"context_extensions": {"audience": "internal"}},
        {"time": {"zone": "UTC", "days": ["mon-fri"]}},
        {"if": ["office"]},
        {"inherit": "tenants"},
    ]
)


oddities = st.lists(
    st.sampled_from(["empty_segment", "encoded_slash", "parameters"]), max_size=2, unique=True
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    rules = []
    for number in range(draw(st.integers(0, 6))):
        allows = draw(st.booleans())
        rule: dict[str, Any] = {
            "name": f"rule-{number}",
            "hosts": draw(st.lists(hosts, min_size=1, max_size=2, unique=True)),
            "paths": draw(st.lists(paths, min_size=1, max_size=2, unique=True)),
            "allow" if allows else "deny": draw(whos),
            "mode": draw(st.sampled_from(["enforce", "enforce", "shadow"])),
            **draw(conditions),
        }
        if draw(st.booleans()):
            rule["methods"] = draw(st.lists(methods, min_size=1, max_size=2, unique=True))
        if allows and (accepted := draw(oddities)):
            rule["accept_in_path"] = accepted
        if allows and draw(st.integers(0, 4)) == 0:
            rule["cors"] = {"origins": ["https://app.example"]}
        if rule.get("allow") == "anyone":
            rule["identify"] = draw(st.sampled_from(["optional", "never"]))
        rules.append(rule)
    text = {
        "conditions": {"office": {"client": ["10.0.0.0/8"]}},
        "defaults": {"tenants": {"headers": {"x-tenant": {"present": True}}, "methods": ["GET"]}},
        "rules": rules,
    }
    return parse_policy(orjson.dumps(text).decode())


requests = st.builds(
    request,
    method=methods,
    path=st.sampled_from(
        [
            "/",
            "/x",
            "/x/",
            "/x/y",
            "/x/y?debug=1",
            "/admin/u",
            "//admin/u",
            "/x/..%2fadmin",
            "/x/a%2Fb",
            "/x;v=1/y",
        ]
    ),
    host=st.sampled_from(["a.example", "b.a.example", "c.b.a.example", "nowhere.example"]),
    headers=st.sampled_from(
        [
            {},
            {"x-tenant": "acme"},
            {"x-tenant": "acme,other"},
            {"origin": "https://app.example", "access-control-request-method": "GET"},
        ]
    ),
    source=st.sampled_from(["10.1.2.3", "192.0.2.1", ""]),
)


outcomes: st.SearchStrategy[Authentication] = st.one_of(
    st.none(),
    st.builds(Refusal, st.sampled_from(RefusalReason)),
    st.builds(
        Identity,
        st.sampled_from([CredentialKind.JWT, CredentialKind.API_KEY]),
        st.sampled_from(["al", "bo"]),
        scopes=st.frozensets(scopes),
        roles=st.frozensets(scopes),
        claims=st.sampled_from([{}, {"tenant": "acme"}, {"tenant": ["other"]}]),
    ),
)


def decided(policy: Policy, asked: Request, outcome: Authentication, now: float = NOW) -> Decision:
    decision = Authorizer(policy, Given(outcome), lambda: "0" * 24).decide(asked, now)
    assert isinstance(decision, Decision)
    return decision
