"""Conditions about the request: what each means for a rule that allows and for one that denies."""

from typing import Any, ClassVar

import pytest

from authz.policy.compile.load import parse_policy
from authz.request.body import MAX_BODY_BYTES
from authz.request.request import MAX_QUERY_PARAMETERS
from common.configfile import ConfigError
from tests.support.asking import NOON, allowed, ask, denied


class TestHeaders:
    @pytest.mark.parametrize(
        ("asked", "value", "held"),
        [
            ("acme", "acme", True),
            ("acme", "Acme", False),
            ("[acme, other]", "other", True),
            ("[acme, other]", "third", False),
            ("{not_one_of: [acme]}", "third", True),
            ("{not_one_of: [acme]}", "acme", False),
            ("{prefix: ac}", "acme", True),
            ("{suffix: me}", "acme", True),
            ("{suffix: ma}", "acme", False),
            ("{matches: 'a[a-z]+'}", "acme", True),
            ("{matches: 'a[a-z]'}", "acme", False),
            ("{present: true}", "", True),
            ("{present: false}", "acme", False),
        ],
    )
    def test_a_value_is_compared(self, asked: str, value: str, held: bool) -> None:
        condition, headers = f"headers: {{x-tenant: {asked}}}", {"x-tenant": value}
        assert allowed(condition, headers=headers) is held
        assert denied(condition, headers=headers) is held

    @pytest.mark.parametrize("asked", ["acme", "{not_one_of: [acme]}", "{present: true}", "{matches: '.*'}"])
    def test_a_rule_that_names_an_absent_attribute_never_allows(self, asked: str) -> None:
        assert not allowed(f"headers: {{x-tenant: {asked}}}")
        assert not allowed(f"query: {{tenant: {asked}}}")

    @pytest.mark.parametrize("query", ["x=1;format=exe&format=csv", "format=csv;format=exe", "a;format=exe"])
    def test_cve_2021_23336_a_semicolon_separates_parameters_to_some(self, query: str) -> None:
        assert not allowed("query: {format: csv}", path=f"/?{query}")
        assert denied("query: {format: exe}", path=f"/?{query}")

    def test_a_semicolon_elsewhere_in_the_query_changes_nothing(self) -> None:
        assert allowed("query: {format: csv}", path="/?ids=1;2&format=csv")
        assert not denied("query: {format: exe}", path="/?ids=1;2&format=csv")

    def test_absence_can_be_asked_for(self) -> None:
        assert allowed("headers: {x-debug: {present: false}}")

    def test_a_denied_value_that_is_absent_is_not_there(self) -> None:
        assert not denied("headers: {x-tenant: acme}")

    def test_istio_a_deny_rule_about_what_a_value_is_not_holds_where_there_is_none(self) -> None:
        """Istio takes a missing attribute for a match in DENY rules."""
        assert denied("headers: {x-tenant: {not_one_of: [acme]}}")

    @pytest.mark.parametrize(
        "headers",
        [
            [("x-role", "guest"), ("x-role", "admin")],
            [("x-role", "admin"), ("x-role", "guest")],
            [("x-role", "guest, admin")],
            {"x-role": "guest,admin"},
        ],
    )
    def test_cve_2026_26308_every_value_counts(self, headers: Any) -> None:
        """GHSA-ghc4-35x6-crw5: a joined value hid one from an exact match, and so went around a deny rule."""
        assert denied("headers: {x-role: admin}", headers=headers)
        assert not allowed("headers: {x-role: guest}", headers=headers)
        assert not allowed("headers: {x-role: {prefix: g}}", headers=headers)
        assert allowed("headers: {x-role: [guest, admin]}", headers=headers)

    def test_cve_2021_32777_a_deny_rule_sees_more_than_the_last_value(self) -> None:
        assert denied("headers: {x-role: admin}", headers=[("x-role", "admin"), ("x-role", "x")])

    def test_a_value_with_a_comma_can_be_asked_for_as_a_whole(self) -> None:
        assert allowed("headers: {x-list: 'a, b'}", headers={"x-list": "a, b"})

    def test_a_value_too_long_to_match_is_not_known_to_be_good(self) -> None:
        headers = {"x-a": "a" * 10_000}
        assert not allowed("headers: {x-a: {matches: 'a+'}}", headers=headers)
        assert denied("headers: {x-a: {matches: 'b+'}}", headers=headers)


class TestQuery:
    def test_parameters_are_decoded_once(self) -> None:
        assert allowed("query: {name: 'a b'}", path="/?name=a%20b")
        assert allowed("query: {name: 'a b'}", path="/?name=a+b")
        assert not allowed("query: {name: 'a b'}", path="/?name=a%2520b")

    def test_every_value_counts(self) -> None:
        assert denied("query: {role: admin}", path="/?role=guest&role=admin")
        assert not allowed("query: {role: guest}", path="/?role=guest&role=admin")

    def test_more_parameters_than_are_read_do_not_hide_one(self) -> None:
        path = "/?" + "x=1&" * MAX_QUERY_PARAMETERS + "role=admin"
        assert denied("query: {role: admin}", path=path)
        assert not allowed("query: {x: '1'}", path=path)


class TestClient:
    @pytest.mark.parametrize(
        ("networks", "client", "held"),
        [
            ("[10.0.0.0/8]", "10.255.255.255", True),
            ("[10.0.0.0/8]", "11.0.0.0", False),
            ("[10.0.0.0/8]", "9.255.255.255", False),
            ("192.0.2.1/32", "192.0.2.1", True),
            ("[192.0.2.0/25, 192.0.2.128/25]", "192.0.2.200", True),
            ("['2001:db8::/32']", "2001:db8::1", True),
            ("['2001:db8::/32']", "10.0.0.1", False),
            ("[10.0.0.0/8]", "::ffff:10.0.0.1", True),
        ],
    )
    def test_an_address_is_in_a_network_or_not(self, networks: str, client: str, held: bool) -> None:
        assert allowed(f"client: {networks}", source=client) is held
        assert denied(f"client: {networks}", source=client) is held
        assert allowed(f"client_not: {networks}", source=client) is not held

    @pytest.mark.parametrize("client", ["::ffff:10.0.0.1", "::FFFF:a00:1", "10.0.0.1"])
    def test_an_ipv4_client_of_a_listener_for_both_is_one_to_expressions_too(self, client: str) -> None:
        assert denied("when: client == '10.0.0.1'", source=client)
        assert denied("when: client.startsWith('10.')", source=client)
        headers = {"x-forwarded-for": f"{client}, 192.0.2.1"}
        assert denied("when: client == '10.0.0.1'", headers=headers, trusted_hops=1)

    @pytest.mark.parametrize("key", ["client", "client_not"])
    def test_a_client_without_an_address_is_never_allowed_and_always_denied(self, key: str) -> None:
        assert not allowed(f"{key}: [10.0.0.0/8]", source="")
        assert denied(f"{key}: [10.0.0.0/8]", source="")

    def test_the_true_client_is_before_the_trusted_hops(self) -> None:
        headers = {"x-forwarded-for": "10.1.1.1, 203.0.113.9, 192.0.2.1"}
        assert not allowed("client: [10.0.0.0/8]", headers=headers)
        assert allowed("client: [203.0.113.0/24]", headers=headers, trusted_hops=1)
        assert not allowed("client: [10.0.0.0/8]", headers=headers, trusted_hops=1)


class TestTime:
    @pytest.mark.parametrize(
        ("window", "now", "held"),
        [
            ("{zone: UTC, days: mon}", NOON, True),
            ("{zone: UTC, days: [tue-sun]}", NOON, False),
            ("{zone: UTC, days: [sat-mon]}", NOON, True),
            ("{zone: UTC, from: '11:30', until: '12:00'}", NOON, True),
            ("{zone: UTC, from: '08:00', until: '11:30'}", NOON, False),
            ("{zone: Europe/Berlin, from: '12:30', until: '12:31'}", NOON, True),
            # Summer time: 10:30 UTC is 12:30 in Berlin on 2026-07-06.
            ("{zone: Europe/Berlin, from: '12:30', until: '12:31'}", 1_783_333_800.0, True),
            ("{zone: UTC, from: '00:00', until: '24:00'}", NOON, True),
            # Over midnight: the day is that of the beginning.
            ("{zone: UTC, days: [sun], from: '22:00', until: '06:00'}", NOON - 6 * 3600, True),
            ("{zone: UTC, days: [mon], from: '22:00', until: '06:00'}", NOON - 6 * 3600, False),
            ("{zone: UTC, days: [mon], from: '22:00', until: '06:00'}", NOON + 11 * 3600, True),
            ("{zone: UTC, after: 2026-01-05}", NOON, True),
            ("{zone: UTC, before: 2026-01-05}", NOON, False),
            ("{zone: UTC, after: 2026-01-05T11:30:00Z}", NOON, True),
            ("{zone: America/New_York, before: '2026-01-05T06:30:00'}", NOON, False),
            ("{zone: America/New_York, before: '2026-01-05T06:30:01'}", NOON, True),
        ],
    )
    def test_a_window_is_open_by_the_clock_of_its_zone(self, window: str, now: float, held: bool) -> None:
        assert allowed(f"time: {window}", now=now) is held
        assert denied(f"time: {window}", now=now) is held


class TestBody:
    JSON: ClassVar = {"content-type": "application/json; charset=utf-8"}

    @pytest.mark.parametrize(
        ("asked", "content", "held"),
        [
            ("{amount: {at_most: 100}}", b'{"amount": 100}', True),
            ("{amount: {at_most: 100}}", b'{"amount": 100.5}', False),
            ("{amount: {at_least: 1, at_most: 9}}", b'{"amount": 0}', False),
            ("{live: true}", b'{"live": true}', True),
            ("{order.kind: gift}", b'{"order": {"kind": "gift"}}', True),
            ("{order.kind: gift}", b'{"order.kind": "gift"}', False),
            (r"{order\.kind: gift}", b'{"order.kind": "gift"}', True),
            ("{tags: {contains: a}}", b'{"tags": ["b", "a"]}', True),
            ("{tags: {contains: a}}", b'{"tags": "a"}', False),
            ("{tags: [a, b]}", b'{"tags": ["b", "a"]}', True),
            ("{tags: {present: true}}", b'{"tags": null}', False),
        ],
    )
    def test_a_field_of_json_is_compared(self, asked: str, content: bytes, held: bool) -> None:
        assert allowed(f"body: {asked}", headers=self.JSON, body=content) is held
        assert denied(f"body: {asked}", headers=self.JSON, body=content) is held

    @pytest.mark.parametrize(
        ("asked", "content"),
        [
            ("{live: true}", b'{"live": 1}'),
            ("{live: true}", b'{"live": "True"}'),
            ("{live: [no, false]}", b'{"live": "0"}'),
            ("{live: 'true'}", b'{"live": true}'),
            ("{level: 5}", b'{"level": "5.0"}'),
            ("{level: '5'}", b'{"level": 5}'),
            ("{levels: {contains: 5}}", b'{"levels": ["5"]}'),
        ],
    )
    def test_what_spells_the_same_in_another_type_is_unknown(self, asked: str, content: bytes) -> None:
        """Many readers convert types; a form has nothing but text."""
        assert not allowed(f"body: {asked}", headers=self.JSON, body=content)
        assert denied(f"body: {asked}", headers=self.JSON, body=content)

    @pytest.mark.parametrize("value", ["true", "1", "on"])
    def test_a_form_says_true_in_text(self, value: str) -> None:
        form = {"content-type": "application/x-www-form-urlencoded"}
        asked: dict[str, Any] = {"headers": form, "body": f"admin={value}".encode()}
        assert denied("body: {admin: true}", **asked)
        assert not allowed("body: {admin: {not_one_of: [true]}}", **asked)
        assert not denied("body: {admin: false}", **asked)

    @pytest.mark.parametrize("amount", ['"5000"', "true", "{}", '["5000"]'])
    def test_what_is_not_a_number_is_not_known_to_be_small_or_large(self, amount: str) -> None:
        """Many readers take "5000" for 5000: it gets past neither a limit nor a deny rule about one."""
        asked: dict[str, Any] = {"headers": self.JSON, "body": f'{{"amount": {amount}}}'.encode()}
        assert not allowed("body: {amount: {at_most: 9000}}", **asked)
        assert denied("body: {amount: {at_least: 1000}}", **asked)

    @pytest.mark.parametrize(
        "content",
        [
            b'{"role": "user", "Role": "admin"}',
            b'{"ROLE": "admin"}',
            b'{"u": {"role": "user", "rol\\u0045": "admin"}}',
            '{"u": {"\u017f": 1, "s": 2}}'.encode(),
        ],
    )
    def test_names_that_differ_in_letter_case_only_are_one_to_some(self, content: bytes) -> None:
        """Go's encoding/json takes `Role` for `role`, and the last of both."""
        asked: dict[str, Any] = {"headers": self.JSON, "body": content}
        for field in ("role", "u.role"):
            assert not allowed(f"body: {{{field}: user}}", **asked)
        assert denied("body: {role: admin}", **asked)
        assert not allowed("body: {role: {present: false}}", **asked)

    def test_a_form_that_a_semicolon_separates_to_some_is_not_read(self) -> None:
        form = {"content-type": "application/x-www-form-urlencoded"}
        assert not allowed("body: {role: {not_one_of: [admin]}}", headers=form, body=b"role=user;role=admin")
        assert denied("body: {role: admin}", headers=form, body=b"x=1;role=admin")

    @pytest.mark.parametrize(
        "asked", ["équipe", "{prefix: é}", "[a, ß]", "{not_one_of: [ü]}", "{matches: 'é.*'}"]
    )
    def test_text_that_no_header_holds_in_one_way_is_refused(self, asked: str) -> None:
        """RFC 9110 section 5.5: what is not ASCII comes as UTF-8 from one client, as Latin-1 from another."""
        with pytest.raises(ConfigError, match="ASCII"):
            parse_policy(f"rules: [{{name: r, deny: anyone, headers: {{x-team: {asked}}}}}]")

    @pytest.mark.parametrize(
        "content",
        [b'{"items": [{"role": "admin"}]}', b'[{"items": {"role": "user"}}]', b'{"items": [[{"role": 1}]]}'],
    )
    def test_a_field_below_a_list_is_unknown(self, content: bytes) -> None:
        asked: dict[str, Any] = {"headers": self.JSON, "body": content}
        assert denied("body: {items.role: admin}", **asked)
        assert not allowed("body: {items.role: {present: false}}", **asked)
        assert not allowed("body: {items.role: user}", **asked)

    def test_a_list_of_plain_values_has_no_fields(self) -> None:
        assert allowed("body: {items.role: {present: false}}", headers=self.JSON, body=b'{"items": [1, "a"]}')

    def test_an_empty_body_of_some_length_was_not_sent_to_us(self) -> None:
        """The header about it is forged, then: Envoy was not told to send bodies."""
        for headers in ([("content-length", "20")], []):  # over HTTP/2 a body needs no length
            assert not allowed("body: {admin: {present: false}}", headers=headers, body=b"")
            assert denied("body: {admin: true}", headers=headers, body=b"")
        assert allowed("body: {admin: {present: false}}", headers=[("content-length", "0")], body=b"")

    def test_every_value_of_a_list_counts(self) -> None:
        body = b'{"to": ["alice", "mallory"]}'
        assert not allowed("body: {to: alice}", headers=self.JSON, body=body)
        assert denied("body: {to: mallory}", headers=self.JSON, body=body)

    def test_a_field_of_a_form_is_compared(self) -> None:
        form = {"content-type": "application/x-www-form-urlencoded"}
        assert allowed("body: {to: a b}", headers=form, body=b"x=1&to=a+b")
        assert not allowed("body: {to: a}", headers=form, body=b"to=a&to=b")

    @pytest.mark.parametrize(
        ("headers", "body", "partial"),
        [
            ({"content-type": "application/json"}, b'{"a": 1}', "true"),
            ({"content-type": "application/json"}, b'{"a": 1, "a": 2}', "false"),
            ({"content-type": "application/json"}, b'{"a": 1', "false"),
            ({"content-type": "application/json"}, b'{"a": 1, "b": NaN}', "false"),
            ({"content-type": "application/json"}, b"[" * 100_000, "false"),
            ({"content-type": "application/json"}, b'{"a": 1}\xff', "false"),
            ({"content-type": "application/json"}, b'{"a":1}' + b" " * MAX_BODY_BYTES, "false"),
            ({"content-type": "application/json; charset=utf-16"}, b'{"a": 1}', "false"),
            ({"content-type": "application/json", "content-encoding": "gzip"}, b'{"a": 1}', "false"),
            ({"content-type": "text/plain"}, b'{"a": 1}', "false"),
            ({}, b'{"a": 1}', "false"),
        ],
    )
    def test_a_body_that_is_cut_off_or_read_in_two_ways_never_allows_and_always_denies(
        self, headers: dict[str, str], body: bytes, partial: str
    ) -> None:
        """opa-envoy-plugin#809: x-envoy-auth-partial-body says whether it is all there."""
        assert not allowed("body: {a: 1}", headers=headers, body=body, partial=partial)
        assert denied("body: {b: 1}", headers=headers, body=body, partial=partial)

    def test_a_client_cannot_say_that_nothing_was_cut_off(self) -> None:
        headers = [
            ("content-type", "application/json"),
            ("x-envoy-auth-partial-body", "false"),
            ("x-envoy-auth-partial-body", "true"),
        ]
        policy = "rules: [{name: r, allow: anyone, body: {a: 1}}]"
        assert ask(policy, headers=headers).verdict.status == 403

    def test_without_bodies_from_envoy_everything_is_unknown(self) -> None:
        assert not allowed("body: {a: {present: false}}")
        assert denied("body: {a: 1}")

    def test_a_request_without_a_body_has_no_fields(self) -> None:
        assert not denied("body: {a: 1}", headers=[("content-length", "0")], body=b"")


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("headers: {X-A: b}", "as in x-tenant"),
        ("headers: {x-a: 1}", 'write it in quotes: "1"'),
        ("headers: {x-a: {}}", "exactly one of"),
        ("headers: {x-a: {prefix: a, suffix: b}}", "exactly one of"),
        ("headers: {x-a: {matches: '('}}", "not a regular expression"),
        ("headers: {x-a: {matches: '(?=a)'}}", "not a regular expression"),
        ("client: [10.0.0.1/8]", "expected a network, as in 10.0.0.0/8"),
        ("client: []", "at least one"),
        ("client: ['::ffff:10.0.0.0/104']", "write 10.0.0.0/8"),
        ("client_not: '::ffff:0:0/96'", "write 0.0.0.0/0"),
        ("time: {days: [mon]}", "is required"),
        ("time: {zone: Mars/Base, days: [mon]}", "not a time zone"),
        ("time: {zone: ../../etc/passwd, days: [mon]}", "not a time zone"),
        ("time: {zone: UTC}", "say when"),
        ("time: {zone: UTC, from: '08:00'}", "belong together"),
        ("time: {zone: UTC, from: '8:00', until: '9:00'}", "between quotes"),
        ("time: {zone: UTC, from: '08:00', until: '08:00'}", "same time"),
        ("time: {zone: UTC, days: [monday]}", "mon-fri"),
        ("body: {a..b: 1}", "joined by dots"),
        ("body: {a: {at_least: 1, prefix: a}}", "exactly one of"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused_at_its_line(condition: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(f"rules:\n  - name: r\n    allow: anyone\n    {condition}\n", "p.yaml")
    assert message in str(caught.value)
    assert all(problem.line == 4 for problem in caught.value.problems)
