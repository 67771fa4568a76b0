"""An estate is read from files and completed by the platform."""

from datetime import date
from pathlib import Path

import pytest

from authz.policy.compile.load import parse_policy
from common.configfile import ConfigError
from edge.intent.blocks import Per
from edge.intent.estate import EstateReader, load_estate
from edge.intent.find import most_specific, service_of
from edge.intent.model import Estate, Layer, Limit, Route
from tests.edge.estates import ANYONE, EXAMPLE, PLATFORM, TODAY, problems, read, service, texts_of


def route_of(estate: Estate, name: str) -> Route:
    [found] = [route for one in estate.services for route in one.routes if route.name == name]
    return found


@pytest.fixture(scope="module")
def example() -> Estate:
    return load_estate(EXAMPLE, TODAY)


def rates(limits: tuple[Limit, ...]) -> list[tuple[str, int, str, Layer]]:
    return [(one.per.value, one.requests, one.period, one.origin.layer) for one in limits]


def test_the_example_has_three_services_by_name(example: Estate) -> None:
    assert [one.name for one in example.services] == ["accounts", "checkout", "search"]
    assert example.domain == "edge"
    assert example.teams["search"].issuers == ("https://customers.idp.example",)


def test_a_route_has_its_own_limits_or_the_defaults_and_always_the_overrides(example: Estate) -> None:
    override = ("client", 6000, "1m", Layer.OVERRIDE)
    own = [("subject", 100, "1s", Layer.SERVICE), ("all", 1000, "1s", Layer.SERVICE), override]
    assert rates(route_of(example, "checkout.orders-read").limits) == own
    defaults = [("client", 50, "1s", Layer.DEFAULT), override]
    assert rates(route_of(example, "checkout.status").limits) == defaults


def test_a_share_is_of_the_limit_of_the_tier_rounded_up() -> None:
    platform = PLATFORM + "tiers: {gold: {requests: 100, period: 1m, burst: 3}}\n"
    route = "{id: all, paths: [/a], who: {allow: anyone}, limits: [{share: 29%}, {share: 0.5%, per: client}]}"
    limits = read(service(route, more="tier: gold\n"), platform=platform).services[0].routes[0].limits
    assert [(one.requests, one.burst, one.per) for one in limits] == [(29, 1, Per.ALL), (1, 1, Per.CLIENT)]


def test_each_key_of_the_log_comes_from_the_route_the_service_or_the_platform() -> None:
    platform = PLATFORM + "defaults: {log: {sample: 0.5, fields: [time, code]}}\n"
    own = "{id: own, paths: [/a], who: {allow: anyone}, log: {fields: [path]}}"
    other = "{id: other, paths: [/b], who: {allow: anyone}}"
    text = service(own, other, more="log: {sample: 0.2}\n")
    found = [route.log for route in read(text, platform=platform).services[0].routes]
    assert [(log.sample.value, log.fields.value) for log in found] == [
        (0.2, ("path",)),
        (0.2, ("time", "code")),
    ]
    layers = [(log.sample.origin.layer, log.fields.origin.layer) for log in found]
    assert layers == [(Layer.SERVICE, Layer.SERVICE), (Layer.SERVICE, Layer.DEFAULT)]


def test_the_sample_and_redaction_of_the_platform_win() -> None:
    platform = PLATFORM + "overrides: {log: {sample: 0.1, redact: [{action: drop, headers: [x-a]}]}}\n"
    log = "{sample: 0.9, redact: [{action: hash, headers: [x-b]}]}"
    text = service(f"{{id: a, paths: [/a], who: {{allow: anyone}}, log: {log}}}")
    found = read(text, platform=platform).services[0].routes[0].log
    assert found.sample.value == 0.1
    assert [rule.value.headers for rule in found.redact] == [("x-a",), ("x-b",)]


def test_what_nothing_says_is_the_default_of_the_suite() -> None:
    found = read(service()).services[0].routes[0].log.sample
    assert (found.value, found.origin.layer, found.origin.place) == (1.0, Layer.SUITE, "")


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ("{allow: authenticated}", [{"issuers": ["https://a"]}]),
        ("{allow: [{scopes: [s]}, {roles: [r]}]}", [
            {"issuers": ["https://a"], "scopes": ["s"]}, {"issuers": ["https://a"], "roles": ["r"]},
        ]),
        ("{allow: {kinds: [api_key]}}", [{"kinds": ["api_key"]}]),
        ("{allow: anyone}", "anyone"),
    ],
)  # fmt: skip
def test_a_team_with_issuers_accepts_no_others(who: str, expected: object) -> None:
    platform = PLATFORM.replace("one: {owns", "one: {issuers: ['https://a'], owns")
    found = read(service(f"{{id: a, paths: [/a], who: {who}}}"), platform=platform).services[0]
    assert found.routes[0].access.written["allow"] == expected


def test_what_a_route_says_of_access_is_a_rule_of_the_policy_language(example: Estate) -> None:
    for one in example.services:
        for route in one.routes:
            rule = {key: value for key, value in route.access.written.items() if key != "deny"}
            text = repr(
                {
                    "conditions": example.policy["conditions"],
                    "rules": [{"name": "a", "paths": list(map(str, route.paths)), **rule}],
                }
            )
            assert parse_policy(text).rules


def test_each_value_knows_its_line(example: Estate) -> None:
    route = route_of(example, "checkout.orders-write")
    lines = (EXAMPLE / "services/checkout.yaml").read_text(encoding="utf-8").splitlines()
    file, _, line = route.log.sample.origin.place.partition(":")
    assert (file, lines[int(line) - 1].strip()) == ("services/checkout.yaml", "sample: 0.5")


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", ["orders"], "read"),
        ("GET", ["orders", "7"], "read"),
        ("GET", ["orders", "export"], "export"),
        ("POST", ["orders", "export"], "write"),
        ("GET", ["orders", "7", "items"], "rest"),
        ("DELETE", ["orders", "7"], "rest"),
        ("GET", ["other"], None),
    ],
)
def test_the_most_specific_route_decides(method: str, path: list[str], name: str | None) -> None:
    who = "who: {allow: anyone}"
    estate = read(
        service(
            f"{{id: rest, paths: ['/orders/{{rest=**}}'], {who}}}",
            f"{{id: read, methods: [GET], paths: [/orders, '/orders/{{id}}'], {who}}}",
            f"{{id: write, methods: [POST], paths: ['/orders/{{id}}'], {who}}}",
            f"{{id: export, methods: [GET], paths: [/orders/export], {who}}}",
        )
    )
    found = service_of(estate, "one.example", path)
    decided = most_specific(found.routes, method, path) if found else None
    assert (decided[0].id if decided else None) == name


def test_a_request_to_an_unknown_host_has_no_service(example: Estate) -> None:
    assert service_of(example, "other.example.com", ["orders"]) is None
    found = service_of(example, "eu.accounts.example.com", ["v1", "profiles", "7"])
    assert found is not None
    assert found.name == "accounts"


def test_platform_files_are_one_platform_and_each_key_is_in_one_of_them() -> None:
    texts = {
        "platform/base.yaml": "domain: edge\nteams: {one: {owns: [one.example]}}\n",
        "platform/more.yaml": "teams: {two: {owns: [two.example]}}\ntiers: {gold: {requests: 1}}\n",
        "services/shop.yaml": service(),
    }
    assert sorted(EstateReader().read(texts, TODAY).teams) == ["one", "two"]
    texts["platform/more.yaml"] += "domain: other\n"
    with pytest.raises(
        ConfigError, match=r"platform/more.yaml:3: domain: is already in platform/base.yaml:1"
    ):
        EstateReader().read(texts, TODAY)


def test_every_problem_of_every_file_is_reported_at_its_line() -> None:
    bad_routes = service(
        "{id: a, paths: [a], who: {allow: anyone}}",
        "{id: b, paths: [/b], who: {when: true}}",
        "{id: c, paths: [/c], limits: [{requests: 1, share: 5%}]}",
    )
    example = ", as in claims.tenant == vars.tenant"
    assert problems(bad_routes, service(name="Shop"), platform="domain: ''\n") == [
        "platform.yaml:1: domain: must not be empty",
        "services/0.yaml:6: routes[0].paths[0]: 'a': a path begins with /, as in /users/{id}",
        f"services/0.yaml:7: routes[1].who.when: true: expected a CEL expression{example}",
        "services/0.yaml:8: routes[2].limits[0]: write either requests (with period), or share",
        "services/1.yaml:1: service: 'Shop': expected text as in checkout (it matches [a-z][a-z0-9-]{0,62})",
    ]


def test_an_exception_that_has_ended_is_a_problem_from_the_next_day() -> None:
    more = "exceptions: [{ceiling: sample, value: 1, reason: r, until: 2026-06-01}]\n"
    platform = PLATFORM + "ceilings: {sample: 0.5}\ndefaults: {log: {sample: 0.5}}\n"
    read(service(more=more), platform=platform, today=date(2026, 6, 1))
    [found] = problems(service(more=more), platform=platform, today=date(2026, 6, 2))
    assert found.startswith("services/0.yaml:5: exceptions[0].until: the exception ended on 2026-06-01: ")


@pytest.mark.parametrize("until", ["tomorrow", "2026-13-01", "2026-06-01T00:00:00Z", "20260601"])
def test_an_exception_ends_on_a_day(until: str) -> None:
    more = f"exceptions: [{{ceiling: sample, value: 1, reason: r, until: '{until}'}}]\n"
    assert problems(service(more=more)) == [
        f"services/0.yaml:5: exceptions[0].until: '{until}': expected a date, as in 2026-12-31"
    ]


def test_a_file_that_did_not_change_is_not_read_again() -> None:
    reader = EstateReader()
    texts = dict(texts_of(service(), service(name="other", hosts="x.two.example", owner="two")))
    before = reader.read(texts, TODAY)
    texts["services/0.yaml"] += "description: changed\n"
    after = reader.read(texts, TODAY)
    assert before.revision != after.revision
    documents = [[one.origin.document for one in estate.services] for estate in (before, after)]
    assert documents[0][0] is documents[1][0]
    assert documents[0][1] is not documents[1][1]
    del texts["services/0.yaml"]
    assert [one.name for one in reader.read(texts, TODAY).services] == ["other"]


def test_a_folder_that_is_no_estate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        load_estate(tmp_path / "none", TODAY)


def test_half_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    (tmp_path / "services/shop.yaml").write_text(service())
    with pytest.raises(ConfigError, match=r"has neither platform.yaml nor YAML files in platform/"):
        load_estate(tmp_path, TODAY)
    (tmp_path / "platform.yaml").write_text(PLATFORM)
    (tmp_path / "services/shop.yaml").unlink()
    with pytest.raises(ConfigError, match=r"has no YAML file in services/"):
        load_estate(tmp_path, TODAY)


def test_files_are_found_below_services_and_hidden_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "platform.yaml").write_text(PLATFORM)
    for name in ("services/one/shop.yaml", "services/.old/shop.yaml", "services/notes.txt", "other.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(service())
    assert [one.file for one in load_estate(tmp_path, TODAY).services] == ["services/one/shop.yaml"]


def test_fields_that_the_platform_wants_are_in_each_record() -> None:
    platform = PLATFORM + "overrides: {log: {fields: [time, code]}}\n"
    own = f"{{id: a, paths: [/a], {ANYONE}, log: {{fields: [path, code]}}}}"
    every = f"{{id: b, paths: [/b], {ANYONE}}}"
    found = read(service(own, every), platform=platform).services[0].routes
    assert [route.log.fields.value for route in found] == [("path", "code", "time"), None]
