"""An explanation says which route decides, what holds for it, and where that is written."""

import pytest

from edge.intent.estate import load_estate
from edge.intent.explain import Explanation, explain
from edge.intent.model import Layer
from tests.edge.estates import ANYONE, EXAMPLE, PLATFORM, TODAY, read, route, service


def example(host: str, path: str, method: str = "GET") -> Explanation:
    return explain(load_estate(EXAMPLE, TODAY), host, path, method)


def written(place: str) -> str:
    """Return the line of the example that a reason names."""
    file, _, number = place.partition(":")
    return (EXAMPLE / file).read_text(encoding="utf-8").splitlines()[int(number) - 1].strip()


def test_each_reason_names_the_line_that_decided() -> None:
    found = example("checkout.example.com", "/orders/7", "PUT")
    assert found.route == "checkout.orders-write"
    reasons = [
        (one.what, one.text, one.layer, written(one.place) if one.place else "") for one in found.reasons
    ]
    override, own, tier = Layer.OVERRIDE, Layer.SERVICE, Layer.TIER
    for expected in (
        ("service", "checkout of the team checkout", own, "service: checkout"),
        ("route", "orders-write: POST, PUT /orders/{id}", own, "- id: orders-write"),
        ("allow", "callers with scope orders:write", own, 'who: {allow: {scopes: ["orders:write"]}}'),
        ("limit", "10 requests in 1s, 20 at once for each subject", own,
         "- {per: subject, requests: 10, period: 1s, burst: 20}"),
        ("limit", "6000 requests in 1m for each client address", override,
         "- {per: client, requests: 6000, period: 1m}"),
        ("limit", "2000 requests in 1s, 4000 at once for all together, on all routes of checkout", tier,
         "gold: {requests: 2000, period: 1s, burst: 4000}"),
        ("timeout", "15s", Layer.SUITE, ""),
        ("log sample", "0.5 of ordinary requests", own, "sample: 0.5"),
        ("log fields", "all", Layer.SUITE, ""),
        ("redact", "header x-card-number: left out", override, "- {action: drop, headers: [x-card-number]}"),
        ("redact", "query parameter coupon: masked", own, "- {action: mask, query_parameters: [coupon]}"),
        ("latency", "300ms", own, "objectives: {availability: 99.95, latency: 300ms}"),
        ("deny", "anyone, if client 198.51.100.0/24, by the rule platform-blocked-networks", override,
         "- name: platform-blocked-networks"),
    ):  # fmt: skip
        assert expected in reasons


def test_a_default_and_the_issuers_of_the_team_are_named() -> None:
    found = example("api.example.com", "/search/saved/7")
    assert found.verdict == "callers with issuer https://customers.idp.example"
    [allow] = [one for one in found.reasons if one.what == "allow"]
    assert (allow.layer, written(allow.place)) == (Layer.DEFAULT, "who: {allow: authenticated}")
    [issuers] = [one for one in found.reasons if one.what == "issuers"]
    assert written(issuers.place) == "issuers: [https://customers.idp.example]"


@pytest.mark.parametrize(
    ("host", "path", "method", "verdict"),
    [
        ("no.example", "/", "GET", "not served: no service has the host no.example"),
        ("api.example.com", "/x", "GET", "not served: no route covers the path; the host is that of search"),
        ("api.example.com", "/search", "POST", "not served: search has the path for GET, but not for POST"),
        ("CHECKOUT.example.com.:443", "/orders/7/refund?a=/b", "POST",
         "callers with role support, if from-the-office"),
        ("a.b.accounts.example.com", "/v1/profiles/7", "GET",
         "any authenticated caller, if vars.id == subject, but not callers with credential api_key"),
        ("checkout.example.com", "/orders/a%2Fb", "GET",
         "callers with scope orders:read; but authz refuses the path, which has encoded_slash"),
    ],
)  # fmt: skip
def test_the_verdict_says_who_may_call_or_why_the_request_is_not_served(
    host: str, path: str, method: str, verdict: str
) -> None:
    assert example(host, path, method).verdict == verdict


@pytest.mark.parametrize(("host", "path"), [("a b", "/"), ("one.example/x", "/"), ("one.example", "x")])
def test_what_is_not_a_host_and_a_path_is_refused(host: str, path: str) -> None:
    with pytest.raises(ValueError, match=r"host|path"):
        explain(read(service(route("/one/a"))), host, path, "GET")


def test_a_rule_in_shadow_mode_only_counts() -> None:
    rules = "overrides: {rules: [{name: r, mode: shadow, deny: {roles: [x]}}]}\n"
    estate = read(service(route("/a", ANYONE)), platform=PLATFORM + rules)
    assert explain(estate, "one.example", "/a", "GET").reasons[-1].text == (
        "callers with role x, by the rule r (shadow: it only counts)"
    )
