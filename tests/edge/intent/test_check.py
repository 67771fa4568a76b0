"""What each service and the platform may say: callers, limits, logs."""

import pytest

from edge.intent.estate import load_estate
from tests.edge.estates import (
    ANYONE,
    EXAMPLE,
    PLATFORM,
    TODAY,
    accepted,
    problems,
    route,
    service,
)


def test_the_example_is_clean() -> None:
    assert len(load_estate(EXAMPLE, TODAY).services) == 3


class TestRules:
    ISSUERS = PLATFORM.replace("one: {owns", "one: {issuers: ['https://a'], owns")

    def test_each_route_says_who_may_call(self) -> None:
        [found] = problems(service("{id: a, paths: [/a]}"))
        assert found == (
            "services/0.yaml:6: routes[0]: who may call it? Write who: {allow: ...}; the "
            "platform has no defaults.who"
        )

    @pytest.mark.parametrize(
        ("who", "key"),
        [
            ("{allow: {issuers: ['https://b']}}", "allow"),
            ("{allow: [{roles: [r]}, {issuers: ['https://a', 'https://b']}]}", "allow"),
            ("{allow: authenticated, caller: {issuers: ['https://b']}}", "caller"),
        ],
    )
    def test_a_team_does_not_use_an_issuer_of_others(self, who: str, key: str) -> None:
        [found] = problems(service(route("/a", f"who: {who}")), platform=self.ISSUERS)
        assert found == (
            f"services/0.yaml:6: routes[0].who.{key}: the issuer https://b is not for this team: "
            "the team may use only https://a (teams.NAME.issuers of the platform)"
        )

    def test_issuers_and_conditions_exist(self) -> None:
        who = "who: {allow: {issuers: ['https://c']}, if: [office], deny: {issuers: ['https://d']}}"
        assert problems(service(route("/a", who))) == [
            (
                "services/0.yaml:6: routes[0].who.allow: the platform has no issuer "
                "'https://c'; did you mean 'https://b'?"
            ),
            (
                "services/0.yaml:6: routes[0].who.deny: the platform has no issuer "
                "'https://d'; did you mean 'https://b'?"
            ),
            "services/0.yaml:6: routes[0].who.if[0]: the platform has no condition 'office'; known: none",
        ]

    def test_a_condition_uses_variables_of_every_path(self) -> None:
        text = service(
            "{id: a, paths: ['/a/{id}', /b], who: {allow: authenticated, when: vars.id == subject}}"
        )
        assert problems(text) == [
            "services/0.yaml:6: routes[0].who.when: vars.id: the path /b has no variable of that name"
        ]

    def test_a_route_that_the_platform_denies_to_all_is_a_problem(self) -> None:
        rules = "overrides: {rules: [{name: shut, hosts: ['*.example'], paths: ['/one/**'], deny: anyone}]}\n"
        [found] = problems(service(), platform=PLATFORM + rules)
        assert found == (
            "services/0.yaml:6: routes[0].paths[0]: /one/a can never be called: the "
            "platform's rule shut denies it to "
            "all (platform.yaml:10)"
        )
        conditional = rules.replace("deny:", "client: [192.0.2.0/24], deny:")
        assert accepted(service(), platform=PLATFORM + conditional)

    def test_a_limit_above_one_of_the_platform_never_counts(self) -> None:
        platform = PLATFORM + "overrides: {limits: [{per: client, requests: 60, period: 1m}]}\n"
        limits = "limits: [{per: client, requests: 2}, {per: all, requests: 9}]"
        [found] = problems(service(route("/a", f"{limits}, {ANYONE}")), platform=platform)
        assert found == (
            "services/0.yaml:6: routes[0].limits[0].requests: 2 requests a second never "
            "pass: the platform's limit "
            "of 1 a second (platform.yaml:10) holds for every route; write at most that"
        )

    def test_a_limit_for_each_subject_needs_a_subject(self) -> None:
        [found] = problems(service(route("/a", f"limits: [{{per: subject, requests: 1}}], {ANYONE}")))
        text = (
            "anyone may call the route, also without a subject, which is not limited then: write per: client"
        )
        assert found == f"services/0.yaml:6: routes[0].limits[0].per: {text}"

    def test_redaction_of_the_platform_is_not_weakened(self) -> None:
        platform = PLATFORM + "overrides: {log: {redact: [{action: drop, headers: [x-card-number]}]}}\n"
        log = (
            "log: {redact: [{action: hash, headers: [X_Card_Number, x-other]}, {action: "
            "drop, headers: [xCardNumber]}]}"
        )
        [found] = problems(service(route("/a", f"{log}, {ANYONE}")), platform=platform)
        assert found == (
            "services/0.yaml:6: routes[0].log.redact[0].headers: the platform drops X_Card_Number "
            "(platform.yaml:10), so hash has no effect: remove it"
        )

    def test_expressions_of_redaction_are_valid(self) -> None:
        log = "log: {redact: [{action: mask, path_segments: ['[']}]}"
        [found] = problems(service(route("/a", f"{log}, {ANYONE}")))
        assert found.startswith("services/0.yaml:6: routes[0].log.redact[0]: ")

    def test_a_tier_exists_and_a_share_needs_one(self) -> None:
        platform = PLATFORM + "tiers: {gold: {requests: 9}}\ndefaults: {limits: [{share: 5%}]}\n"
        assert problems(service(more="tier: golden\n"), platform=platform) == [
            "services/0.yaml:5: tier: the platform has no tier 'golden'; did you mean 'gold'?",
            (
                "services/0.yaml:7: routes[0]: a share (as the platform's default in "
                "platform.yaml:11) is a part of the "
                "tier's limit, but the service has no tier: write tier"
            ),
        ]
        [found] = problems(service(route("/a", f"limits: [{{share: 5%}}], {ANYONE}")))
        assert found.startswith(
            "services/0.yaml:6: routes[0].limits[0].share: a share is a part of the tier's limit"
        )


class TestPlatform:
    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ("overrides: {limits: [{share: 5%}]}", "overrides.limits[0].share: a share depends on the tier"),
            (
                "overrides: {rules: [{name: a, allow: anyone}]}",
                ("overrides.rules[0]: a rule of the platform denies"),
            ),
            (
                ("overrides: {rules: [{name: a, deny: anyone, inherit: b}]}"),
                "overrides.rules[0].inherit: a rule of",
            ),
            (
                "overrides: {rules: [{name: a, deny: anyone, if: b}]}",
                ("overrides.rules[0].if: policy.conditions has no"),
            ),
            (
                "overrides: {rules: [{name: a, deny: {roles: [r]}, when: vars.x == subject}]}",
                "overrides.rules[0].when: vars.x: the path /** has no variable",
            ),
            ("overrides: {log: {redact: [{action: drop, headers: ['/[/']}]}}", "overrides.log.redact[0]: "),
            ("defaults: {log: {redact: [{action: drop, headers: ['/[/']}]}}", "defaults.log.redact[0]: "),
            ("defaults: {who: {allow: authenticated, if: b}}", "defaults.who.if: policy.conditions has no"),
            (
                ("defaults: {who: {allow: authenticated, when: vars.x == subject}}"),
                "defaults.who.when: vars.x: a default",
            ),
            ("defaults: {who: {deny: anyone}}", "defaults.who: say who is allowed"),
        ],
    )
    def test_a_platform_that_contradicts_itself_is_refused(self, more: str, message: str) -> None:
        [found] = problems(platform=f"{PLATFORM}{more}\n")
        assert found.startswith(f"platform.yaml:10: {message}")

    def test_rules_of_the_platform_have_names_of_their_own(self) -> None:
        rules = "overrides:\n  rules:\n    - {name: a, deny: anyone}\n    - {name: a, deny: authenticated}\n"
        [found, _] = problems(service(), platform=PLATFORM + rules)
        assert (
            found == "platform.yaml:13: overrides.rules[1].name: 'a' is already the name of platform.yaml:12"
        )

    def test_the_issuers_of_a_team_exist_and_the_domain_is_there(self) -> None:
        platform = PLATFORM.replace("one: {owns", "one: {issuers: ['https://z'], owns").replace(
            "domain: edge\n", ""
        )
        assert problems(service(), platform=platform) == [
            "platform.yaml: domain is required: that of Envoy's ratelimit filter",
            (
                "platform.yaml:7: teams.one.issuers[0]: policy.credentials has no issuer "
                "'https://z'; it has https://a, https://b"
            ),
        ]

    def test_a_rule_of_the_platform_is_not_named_like_a_route(self) -> None:
        [found] = problems(platform=PLATFORM + "overrides: {rules: [{name: shop.a, deny: {roles: [r]}}]}\n")
        assert "overrides.rules[0].name: a name with a dot could be that of a route (SERVICE.ID)" in found
