"""What a change means: the words, their order, and what counts as wider."""

from typing import Final

import pytest

from edge.intent.diff.change import Kind
from edge.intent.diff.estates import diff
from tests.edge.estates import ANYONE, PLATFORM, ROUTE, read, route, service

SCOPED: Final = "who: {allow: {scopes: [write]}}"
OPENED: Final = "may now be called by anyone (before: callers with scope write)"


def changes(
    old: str | list[str], new: str | list[str], *, before: str = PLATFORM, after: str = PLATFORM
) -> list[str]:
    """Return the changes from one estate to the other, one line for each."""
    texts = [[one] if isinstance(one, str) else one for one in (old, new)]
    estates = (read(*texts[0], platform=before), read(*texts[1], platform=after))
    return [f"{one.kind.value}: {', '.join(one.subjects)}: {one.text}" for one in diff(*estates)]


def route_changes(old: str, new: str) -> list[str]:
    """Return the changes from one route to another, by what they have besides id and path."""
    return changes(service(route("/a", old)), service(route("/a", new)))


def test_an_estate_differs_in_nothing_from_itself() -> None:
    assert changes(service(), service()) == []
    assert changes(service(), service(more="# a comment\ndescription: other\n")) == []


class TestAccess:
    def test_a_route_that_anyone_may_call_now_is_said_in_plain_words(self) -> None:
        old, new = (f"methods: [POST], {who}" for who in (SCOPED, ANYONE))
        assert route_changes(old, new) == [
            "access wider: shop: POST /a may now be called by anyone (before: callers with scope write)"
        ]
        assert route_changes(new, old) == [
            "access narrower: shop: POST /a may be called only by callers with scope write (before: anyone)"
        ]

    def test_requests_with_one_change_are_one_sentence(self) -> None:
        more = "methods: [PUT, POST]"
        old = service(route("/a", f"{more}, {SCOPED}"), route("/b", f"{more}, {SCOPED}", "b"))
        new = service(route("/a", f"{more}, {ANYONE}"), route("/b", f"{more}, {ANYONE}", "b"))
        assert changes(old, new) == [f"access wider: shop: POST, PUT /a and /b {OPENED}"]

    def test_new_requests_and_those_that_are_gone_are_named(self) -> None:
        old = service(route("/a"), route("/b", f"methods: [GET], {ANYONE}", "b"))
        new = service(route("/a"), route("/c", f"methods: [GET], {SCOPED}", "b"))
        assert changes(old, new) == [
            "access wider: shop: GET /c is new and may be called by callers with scope write",
            "access narrower: shop: GET /b is no longer served (before: anyone)",
        ]

    def test_a_route_with_another_name_changes_nothing(self) -> None:
        assert changes(service(route("/a", name="one")), service(route("/a", name="two"))) == []

    def test_a_more_specific_route_changes_who_may_call_what_it_takes(self) -> None:
        wide = route("/a/{id}", f"methods: [GET], {SCOPED}")
        narrow = route("/a/export", f"methods: [GET], {ANYONE}", "export")
        text = "GET /a/export may now be called by anyone (before: callers with scope write)"
        assert f"access wider: shop: {text}" in changes(service(wide), service(wide, narrow))
        text = "GET /a/export may be called only by callers with scope write (before: anyone)"
        assert f"access narrower: shop: {text}" in changes(service(wide, narrow), service(wide))

    def test_a_route_that_covers_every_method_now_says_which_are_new(self) -> None:
        assert route_changes(f"methods: [GET], {ANYONE}", ANYONE) == [
            "access wider: shop: every method /a is new and may be called by anyone"
        ]
        other = route("/b", f"methods: [GET], {ANYONE}", "b")
        old = service(route("/a", f"methods: [GET], {ANYONE}"), other)
        assert changes(old, service(route("/a"), other)) == [
            "access wider: shop: every other method /a is new and may be called by anyone"
        ]

    def test_a_new_host_is_named(self) -> None:
        new = service(hosts="one.example, 'shared.example'")
        assert changes(service(), new) == [
            "access wider: shop: every method /one/a on shared.example is new and may be called by anyone"
        ]

    def test_requests_that_another_service_gets_are_named(self) -> None:
        old, new = service(name="old"), service(name="new")
        assert "other: new: every method /one/a is now served by new (before: old)" in changes(old, new)

    def test_variables_of_a_condition_that_mean_another_segment_are_wider(self) -> None:
        who = "who: {allow: authenticated, when: vars.id == subject}"
        [found] = changes(service(route("/{id}/{x}", who)), service(route("/{x}/{id}", who)))
        assert found.startswith("access wider: shop: every method /{x}/{id} may now be called by any")
        assert found.endswith("; the path was /{id}/{x}")

    @pytest.mark.parametrize(
        ("narrow", "wide"),
        [
            ("{allow: authenticated}", "{allow: anyone}"),
            ("{allow: {scopes: [a]}}", "{allow: authenticated}"),
            ("{allow: {scopes: [a, b]}}", "{allow: {scopes: [b]}}"),
            ("{allow: {scopes: [a]}}", "{allow: {any_scope: [a, b]}}"),
            ("{allow: {any_scope: [a]}}", "{allow: {any_scope: [a, b]}}"),
            ("{allow: {roles: [a]}}", "{allow: {roles: [a, b]}}"),
            ("{allow: {all_roles: [a, b]}}", "{allow: {roles: [a]}}"),
            ("{allow: {subjects: [a]}}", "{allow: {subjects: [b, a]}}"),
            ("{allow: {claims: {t: 1, u: x}}}", "{allow: {claims: {t: 1}}}"),
            ("{allow: {roles: [a]}}", "{allow: [{roles: [a]}, {roles: [b]}]}"),
            ("{allow: anyone, client: 192.0.2.0/24}", "{allow: anyone}"),
            ("{allow: anyone, client: 192.0.2.0/24}", "{allow: anyone, client: [192.0.2.0/24, 10.0.0.0/8]}"),
            ("{allow: anyone, client_not: ['::/8', 10.0.0.0/8]}", "{allow: anyone, client_not: 10.0.0.0/8}"),
            ("{allow: anyone, headers: {a: x, b: y}}", "{allow: anyone, headers: {a: x}}"),
            ("{allow: anyone, deny: {roles: [a]}}", "{allow: anyone}"),
            ("{allow: anyone, deny: {roles: [a, b]}}", "{allow: anyone, deny: {roles: [a]}}"),
            ("{allow: authenticated, when: subject == 'a'}", "{allow: authenticated}"),
        ],
    )  # fmt: skip
    def test_what_is_narrower_in_its_words_is_not_wider(self, narrow: str, wide: str) -> None:
        narrow, wide = f"who: {narrow}", f"who: {wide}"
        assert [line.partition(":")[0] for line in route_changes(wide, narrow)] == ["access narrower"]
        assert [line.partition(":")[0] for line in route_changes(narrow, wide)] == ["access wider"]

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("{allow: {scopes: [a]}}", "{allow: {roles: [a]}}"),
            ("{allow: {claims: {t: 1}}}", "{allow: {claims: {t: true}}}"),
            ("{allow: authenticated, when: subject == 'a'}", "{allow: authenticated, when: 'a' == subject}"),
            ("{allow: anyone, headers: {a: x}}", "{allow: anyone, headers: {a: 'y'}}"),
        ],
    )
    def test_what_cannot_be_compared_counts_as_wider(self, one: str, other: str) -> None:
        for old, new in ((one, other), (other, one)):
            new_text = new.replace("'a' == subject", "\"'a' == subject\"")
            old_text = old.replace("'a' == subject", "\"'a' == subject\"")
            [found] = route_changes(f"who: {old_text}", f"who: {new_text}")
            assert found.startswith("access wider: ")

    def test_other_words_for_the_same_callers_are_no_change(self) -> None:
        one, other = "who: {allow: {scopes: [a, b]}}", "who: {allow: [{scopes: [b, a]}]}"
        assert route_changes(one, other) == []


HIGHER: Final = "limit higher: shop.a"
LOWER: Final = "limit lower: shop.a"


class TestLimitsAndLogs:
    def test_limits_are_raised_lowered_new_and_removed(self) -> None:
        limits = "{per: subject, requests: 10}, {requests: 9}, {per: client, requests: 5}"
        old = f"limits: [{limits}], {SCOPED}"
        new = "limits: [{per: subject, requests: 2, period: 1m, burst: 9}, {requests: 90}], " + SCOPED
        slow = "2 requests in 1m, 9 at once"
        assert route_changes(old, new) == [
            f"{HIGHER}: limit for all together is raised from 9 requests in 1s to 90 requests in 1s",
            f"{HIGHER}: limit for each client address is removed (before: 5 requests in 1s)",
            f"{LOWER}: limit for each subject is lowered from 10 requests in 1s to {slow}",
        ]  # fmt: skip
        assert "limit lower: shop.a: limit for each client address is new: 5 requests in 1s" in route_changes(
            new, old
        )

    def test_a_limit_that_only_counts_now_is_removed(self) -> None:
        old, new = (f"limits: [{{requests: 9{shadow}}}], {ANYONE}" for shadow in ("", ", shadow: true"))
        assert route_changes(old, new) == [
            "limit higher: shop.a: limit for all together is removed (before: 9 requests in 1s)",
            "other: shop.a: limits that only count are changed",
        ]

    def test_the_limit_of_the_tier_is_that_of_all_routes(self) -> None:
        platform = PLATFORM + "tiers: {gold: {requests: 9}, silver: {requests: 5}}\n"
        old, new = (service(more=f"tier: {tier}\n") for tier in ("silver", "gold"))
        [found] = changes(old, new, before=platform, after=platform)
        text = "the limit of all routes for all together is raised from 5 requests in 1s to 9 requests in 1s"
        assert found == f"limit higher: shop: {text}"

    def test_weaker_redaction_comes_first(self) -> None:
        rules = "[{action: mask, headers: [X-A], query_parameters: [q]}, {action: drop, headers: [x_a, b]}]"
        old = f"log: {{redact: {rules}}}, {SCOPED}"
        rules = "{action: hash, headers: [xa]}, {action: drop, query_parameters: [q]}"
        new = f"log: {{redact: [{rules}]}}, {ANYONE}"
        assert route_changes(old, new) == [
            "redaction weaker: shop.a: header b is no longer redacted in the log (before: left out)",
            "redaction weaker: shop.a: header xa is now hashed in the log (before: masked)",
            f"access wider: shop: every method /a {OPENED}",
            "other: shop.a: query parameter q is now left out in the log (before: masked)",
        ]

    def test_sample_fields_and_objectives_are_named(self) -> None:
        old = f"log: {{sample: 0.1}}, objectives: {{availability: 99.9, latency: 2s}}, {ANYONE}"
        new = f"log: {{sample: 0.5, fields: [code]}}, objectives: {{latency: 300ms}}, {ANYONE}"
        assert route_changes(old, new) == [
            "other: shop.a: fields of the log: code (before: all)",
            "other: shop.a: the objective of availability is removed: none (before: 99.9 %)",
            "other: shop.a: the objective of latency is lowered: 300ms (before: 2s)",
            "other: shop.a: the part of ordinary requests that is logged is raised from 0.1 to 0.5",
        ]

    def test_timeouts_are_compared_by_their_length(self) -> None:
        assert route_changes(ANYONE, f"timeout: 15000ms, {ANYONE}") == []
        assert route_changes(ANYONE, f"timeout: 60s, {ANYONE}") == [
            "other: shop.a: the timeout is raised from 15s to 60s"
        ]
        assert route_changes(f"timeout: 2s, {ANYONE}", f"timeout: 500ms, {ANYONE}") == [
            "other: shop.a: the timeout is lowered from 2s to 500ms"
        ]


class TestServicesAndPlatform:
    def test_services_come_and_go(self) -> None:
        more = service(route("/b"), name="more")
        assert changes(service(), [service(), more]) == [
            "access wider: more: every method /b is new and may be called by anyone",
            "other: more: the service of the team one is new",
        ]
        assert changes([service(), more], service()) == [
            "access narrower: more: every method /b is no longer served (before: anyone)",
            "other: more: the service of the team one is removed",
        ]

    def test_owner_upstream_and_exceptions_are_named(self) -> None:
        platform = PLATFORM + "ceilings: {sample: 0.5}\ndefaults: {log: {sample: 0.5}}\n"
        exception = "exceptions: [{ceiling: sample, value: 1, reason: why, until: 2027-01-01}]\n"
        upstream = "{address: 'up:81', tls: true, http2: true}"
        new = service(more=exception).replace("{address: 'up:80'}", upstream)
        assert changes(service(), new, before=platform, after=platform) == [
            "other: shop: new exception: sample up to 1 until 2027-01-01 (why)",
            "other: shop: the upstream is up:81 with TLS and HTTP/2 (before: up:80)",
        ]

    def test_changes_of_the_platform_are_named(self) -> None:
        old, new = (f"  conditions: {{c: {{client: 10.0.0.0/{bits}}}}}\n" for bits in (8, 7))
        old = PLATFORM.replace("teams:", f"{old}  login: {{url: /a}}\nteams:")
        new = PLATFORM.replace("https://b", "https://c").replace("teams:", f"{new}teams:")
        rule = "{name: a, deny: anyone, client: 10.0.0.0/8}"
        old += f"overrides: {{rules: [{rule}, {{name: b, deny: {{roles: [x]}}}}]}}\n"
        new += "overrides: {rules: [{name: b, deny: {roles: [y]}}, {name: c, deny: {roles: [z]}}]}\n"
        new += "ceilings: {routes: 5}\n"
        wider = "access wider: platform"
        assert changes(service(), service(), before=old, after=new) == [
            'access wider: platform: policy.login is not set (before: {"url":"/a"})',
            f'{wider}: the condition c is {{"client":"10.0.0.0/7"}} (before: {{"client":"10.0.0.0/8"}})',
            "access wider: platform: the rule a is removed (before: it denies anyone, if client 10.0.0.0/8)",
            "access wider: platform: the rule b denies callers with role y (before: callers with role x)",
            "access wider: platform: tokens of the issuer https://c are accepted now",
            "access narrower: platform: the rule c is new: it denies callers with role z",
            "access narrower: platform: tokens of the issuer https://b are no longer accepted",
            "other: platform: ceiling routes is 5 (before: not set)",
        ]

    def test_settings_of_the_envoys_that_open_or_reveal_come_first(self) -> None:
        new = "envoy: {listen: '0.0.0.0:8080', trusted_hops: 1, log_request_headers: [x-a], "
        after = PLATFORM + new + "log_response_headers: [location]}\n"
        assert [text.partition(" is ")[0] for text in changes(service(), service(), after=after)] == [
            "redaction weaker: platform: envoy.log_request_headers",
            "access wider: platform: envoy.trusted_hops",
            "other: platform: envoy.listen",
            "other: platform: envoy.log_response_headers",
        ]

    def test_secrets_of_credentials_are_not_shown(self) -> None:
        keys = "    api_keys: {keys: [{id: k, sha256: %s, subject: s}]}\nteams:"
        old, new = (PLATFORM.replace("teams:", keys % (digit * 64)) for digit in ("a", "b"))
        assert changes(service(), service(), before=old, after=new) == [
            "access wider: platform: policy.credentials.api_keys is changed"
        ]

    def test_a_change_for_many_routes_is_one_line(self) -> None:
        before, after = (PLATFORM + f"defaults: {{limits: [{{requests: {n}}}]}}\n" for n in (5, 6))
        texts = [service(ROUTE, route("/b", name="b"))]
        [found] = changes(texts, texts, before=before, after=after)
        assert found.startswith("limit higher: shop.all, shop.b: limit for all together is raised from 5")


def test_the_kinds_are_in_the_order_of_a_review() -> None:
    assert list(Kind)[:2] == [Kind.REDACTION_WEAKER, Kind.ACCESS_WIDER]
