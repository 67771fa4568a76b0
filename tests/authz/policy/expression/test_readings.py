"""What denies, denies in every reading that an upstream may have; what allows is met by all of them."""

from typing import Any, ClassVar

import pytest

from authz.engine.decide import Authorizer, Decision, decision_ids
from authz.policy.compile.load import parse_policy
from authz.request.field_names import MAX_FIELDS
from authz.request.request import Request
from tests.support.asking import allowed, ask, denied
from tests.support.callers import Says
from tests.support.checks import check_request

ROLE = "'role' in query && query.role.exists(r, r == 'admin')"
FORM = {"content-type": "application/x-www-form-urlencoded"}
JSON = {"content-type": "application/json"}

SPELLINGS = (
    "role[]=admin", "role[0]=admin", "role[x]=admin", "+role=admin", "%20role=admin", "role%00=admin",
    "role%00x=admin", "ROLE=admin", "Role=admin", "rol%65=admin", "role.x=admin", "%u0072ole=admin",
    "x=1;role=admin", "role=user&role=admin", "role=user&role[]=admin",
)  # fmt: skip
UNKNOWN_VALUES = ("role=adm%ffin", "role=%zz", "role=%u0061dmin", "role=admin%00", "ROLE=%ff")


class TestQuery:
    @pytest.mark.parametrize("query", [*SPELLINGS, *UNKNOWN_VALUES])
    def test_a_deny_that_could_mean_it_denies(self, query: str) -> None:
        assert denied("query: {role: admin}", path=f"/?{query}")
        assert denied(f'when: "{ROLE}"', path=f"/?{query}")
        assert not allowed("query: {role: user}", path=f"/?role=user&{query}")
        assert not allowed("when: \"query.role == ['user']\"", path=f"/?role=user&{query}")

    @pytest.mark.parametrize(
        "query", ["roles=admin", "x=admin", "user[role]=admin", "role=user", "x=%ff", ""]
    )
    def test_what_means_something_else_does_not(self, query: str) -> None:
        assert not denied("query: {role: admin}", path=f"/?{query}")
        assert not denied(f'when: "{ROLE}"', path=f"/?{query}")

    def test_another_spelling_does_not_count_as_present_for_a_rule_that_denies_absence(self) -> None:
        assert denied("query: {role: {present: false}}", path="/?role[]=x")
        assert not allowed("query: {role: {present: false}}", path="/?role[]=x")
        assert denied("query: {role: {present: true}}", path="/?role[]=%ff")

    @pytest.mark.parametrize("query", ["user[role]=admin", "user.role=admin", "USER[ROLE][]=admin"])
    def test_a_name_with_brackets_can_be_asked_for(self, query: str) -> None:
        assert denied("query: {'user[role]': admin}", path=f"/?{query}")
        assert denied("when: \"query['user[role]'] == ['admin']\"", path=f"/?{query}")

    @pytest.mark.parametrize(
        "expression",
        [
            "query.exists(name, name == 'role')",
            "query.exists(name, name.startsWith('rol') && query[name].exists(v, v == 'admin'))",
        ],
    )
    @pytest.mark.parametrize("query", ["role[]=admin", "x=1;role=admin", "role=admin"])
    def test_an_expression_that_goes_through_all_names_finds_it(self, expression: str, query: str) -> None:
        assert denied(f'when: "{expression}"', path=f"/?{query}")

    def test_semicolons_count_as_parameters(self) -> None:
        path = "/?" + "x;" * MAX_FIELDS + "role=admin"
        assert denied("query: {role: admin}", path=path)
        assert denied(f'when: "{ROLE}"', path=path)


class TestMasked:
    """Envoy shows `!` for bytes that are not UTF-8, unless it is told to send headers as they came."""

    @pytest.mark.parametrize(
        ("condition", "asked"),
        [
            ("headers: {x-role: admin}", {"headers": {"x-role": "adm!in"}}),
            ("headers: {x-role: admin}", {"headers": {"x-role": "user, adm!in"}}),
            ("when: \"headers['x-role'].exists(v, v == 'admin')\"", {"headers": {"x-role": "adm!in"}}),
            ("when: \"headers.exists(n, headers[n].exists(v, v == 'evil'))\"", {"headers": {"x": "e!il"}}),
            ("query: {role: admin}", {"path": "/?role=adm!in"}),
            ("query: {role: admin}", {"path": "/?ro!le=admin"}),
            (f'when: "{ROLE}"', {"path": "/?role=adm!in"}),
        ],
    )
    def test_what_envoy_shows_in_place_of_bytes_denies(self, condition: str, asked: dict[str, Any]) -> None:
        assert denied(condition, **asked)

    @pytest.mark.parametrize(
        ("condition", "asked"),
        [
            ("headers: {x-role: 'hi!'}", {"headers": {"x-role": "hi!"}}),
            ("headers: {x-role: {not_one_of: [admin]}}", {"headers": {"x-role": "adm!in"}}),
            ("when: \"headers['x-role'] == ['hi!']\"", {"headers": {"x-role": "hi!"}}),
            ("query: {role: 'hi!'}", {"path": "/?role=hi!"}),
            ("when: \"query.role == ['hi!']\"", {"path": "/?role=hi!"}),
        ],
    )
    def test_and_never_allows(self, condition: str, asked: dict[str, Any]) -> None:
        assert not allowed(condition, **asked)

    def test_a_mark_elsewhere_changes_nothing(self) -> None:
        asked: dict[str, Any] = {"headers": {"x-other": "hi!", "x-role": "user"}, "path": "/?q=hi!"}
        assert not denied("headers: {x-role: admin}", **asked)
        assert not denied("query: {role: admin}", **asked)
        assert not denied("when: \"headers['x-role'] == ['admin']\"", **asked)
        assert allowed("headers: {x-role: user}", **asked)
        assert allowed("headers: {x-other: {present: true}}", **asked)

    def test_where_headers_come_as_bytes_it_is_itself(self) -> None:
        headers = [(":path", "/hi!?role=hi!"), ("x-role", "hi!")]
        asked: dict[str, Any] = {"headers": headers, "path": "/hi!?role=hi!"}
        assert allowed("headers: {x-role: 'hi!'}", **asked)
        assert allowed("query: {role: 'hi!'}", **asked)
        assert not denied("query: {role: admin}", **asked)

    def test_a_path_with_one_has_to_be_accepted(self) -> None:
        policy = """
rules:
  - {name: r, paths: ["/files/**"], allow: anyone ACCEPT}
  - {name: d, paths: [/files/x], deny: anyone}
"""
        assert ask(policy.replace("ACCEPT", ""), path="/files/hi!").verdict.reason == "path_masked"
        accepting = policy.replace("ACCEPT", ", accept_in_path: [masked]")
        assert ask(accepting, path="/files/hi!").verdict.rule == "r"
        assert ask(accepting, path="/files/x!").verdict.rule == "d"

    @pytest.mark.parametrize("packed", [True, False])
    def test_a_body_as_text_with_one_cannot_be_read(self, packed: bool) -> None:
        message = check_request("POST", headers={**JSON, "x-envoy-auth-partial-body": "false"})
        http = message.attributes.request.http
        if packed:
            http.raw_body = b'{"role": "adm!in"}'
        else:
            http.body = '{"role": "adm!in"}'
        for rule in ("body: {role: admin}", "when: body.role == 'admin'"):
            policy = f"rules: [{{name: o, allow: anyone}}, {{name: r, deny: anyone, {rule}}}]"
            assert decided(policy, Request(message)) == ("o" if packed else "r")


class TestHeaders:
    @pytest.mark.parametrize("name", ["x_role", "x.role", "x~role"])
    def test_a_deny_rule_sees_what_cgi_servers_take_for_the_header(self, name: str) -> None:
        headers = [(name, "admin")]
        assert denied("headers: {x-role: admin}", headers=headers)
        assert denied("headers: {x-role: {present: true}}", headers=headers)
        assert denied("headers: {x-role: {present: false}}", headers=headers)
        assert denied("when: \"'x-role' in headers && 'admin' in headers['x-role']\"", headers=headers)
        assert denied("when: \"headers.exists(n, n == 'x-role')\"", headers=headers)

    @pytest.mark.parametrize("name", ["x_role", "x.role"])
    def test_and_an_allow_rule_is_met_by_all_of_them(self, name: str) -> None:
        headers = [("x-role", "user"), (name, "admin")]
        assert not allowed("headers: {x-role: user}", headers=headers)
        assert not allowed("headers: {x-role: {present: false}}", headers=headers[1:])
        assert not allowed("when: \"headers['x-role'] == ['user']\"", headers=headers)
        assert allowed("headers: {x-role: user}", headers=[("x-role", "user"), (name, "user")])

    def test_an_unlike_name_is_another(self) -> None:
        assert not denied("headers: {x-role: admin}", headers=[("xrole", "admin"), ("x-roles", "admin")])


class TestForms:
    IS_ADMIN: ClassVar = "when: body.role == 'admin'"

    @pytest.mark.parametrize("body", [*SPELLINGS, *UNKNOWN_VALUES])
    def test_a_deny_that_could_mean_it_denies(self, body: str) -> None:
        asked: dict[str, Any] = {"headers": FORM, "body": body.encode()}
        assert denied("body: {role: admin}", **asked)
        assert not allowed("body: {role: user}", **{**asked, "body": b"role=user&" + body.encode()})
        assert denied(self.IS_ADMIN, **asked)
        assert denied("when: has(body.role) && body.role == 'admin'", **asked)
        assert denied("when: \"has(body.role) && 'admin' in body.role\"", **asked)

    def test_a_deny_about_one_value_is_held_against_the_values_of_a_form(self) -> None:
        """A form has lists of values, and a client chooses whether it sends a form or JSON."""
        for body in (b"role=admin", b"role=user&role=admin&role=user", b"kind=a&role=admin"):
            assert denied(self.IS_ADMIN, headers=FORM, body=body)
            assert denied("when: \"'admin' in body.role\"", headers=FORM, body=body)
        assert not denied(self.IS_ADMIN, headers=FORM, body=b"role=user")

    @pytest.mark.parametrize(
        "expression",
        [
            "'admin' in body.role",
            "body.role.exists(r, r == 'admin')",
            "body.role[0] == 'admin'",
            "body.role == 'admin'",
            "body.role.startsWith('adm')",
            "body.role == ['admin']",
        ],
    )
    def test_an_expression_may_be_about_the_list_or_about_a_value(self, expression: str) -> None:
        assert denied(f'when: "{expression}"', headers=FORM, body=b"role=admin")
        assert not denied(f'when: "{expression}"', headers=FORM, body=b"role=user")

    @pytest.mark.parametrize("body", [b"role=x&level=high", b"role=x", b"role=y&level="])
    def test_what_fails_on_a_value_still_denies(self, body: bytes) -> None:
        rule = "when: (body.role == 'x' && int(body.level) > 5) || int(body.level) > 9"
        assert denied(rule, headers=FORM, body=body)
        assert not denied(rule, headers=FORM, body=b"role=x&level=1")

    @pytest.mark.parametrize("body", [b"user[role]=admin", b"user.role=admin", b"USER[0][role]=admin"])
    def test_a_member_is_found_within_brackets(self, body: bytes) -> None:
        assert denied("body: {user.role: admin}", headers=FORM, body=body)
        assert denied("when: has(body.user) && body.user.role == 'admin'", headers=FORM, body=body)
        assert not allowed("body: {user.role: {present: false}}", headers=FORM, body=body)

    def test_another_member_is_another(self) -> None:
        body = b"user[role]=guest&user[name]=admin"
        assert not denied("when: has(body.user) && body.user.role == 'admin'", headers=FORM, body=body)
        assert not denied("body: {role: guest}", headers=FORM, body=body)

    def test_an_allow_rule_sees_lists(self) -> None:
        assert allowed("when: \"body.role == ['user']\"", headers=FORM, body=b"role=user")
        assert not allowed("when: body.role != 'admin'", headers=FORM, body=b"role=admin")
        assert not allowed("when: \"body.role == ['user']\"", headers=FORM, body=b"role=user&role[]=admin")

    def test_a_name_with_a_dot_can_be_asked_for_as_it_is(self) -> None:
        assert allowed(r"body: {user\.role: guest}", headers=FORM, body=b"user.role=guest")

    def test_names_within_names_deny_beyond_a_depth(self) -> None:
        assert denied(self.IS_ADMIN, headers=FORM, body=b"role=user&role" + b"[x]" * 10_000 + b"=1")
        assert denied(self.IS_ADMIN, headers=FORM, body=b"role=user&" + b"&".join([b"x=1"] * MAX_FIELDS))
        assert not denied(self.IS_ADMIN, headers=FORM, body=b"role=user&x" + b"[x]" * 20 + b"=1")

    def test_more_values_than_are_tried_deny(self) -> None:
        many = b"&".join([b"role=user"] * 100)
        assert denied(self.IS_ADMIN, headers=FORM, body=many)
        others = b"&".join([b"id=1"] * 100)
        assert not denied(self.IS_ADMIN, headers=FORM, body=b"role=user&" + others)

    def test_fields_of_many_names_and_values_deny_where_the_expression_asks_for_all_of_them(self) -> None:
        several = b"&".join([b"role=user"] * 60 + [b"user[x%d]=1" % number for number in range(900)])
        assert denied("when: body.role == 'admin' || body.user.x == '2'", headers=FORM, body=several)
        assert not denied(self.IS_ADMIN, headers=FORM, body=several)

    @pytest.mark.parametrize(
        "body",
        [
            b'{"role":"admin","x":"="}',
            b' \r\n{"role":"admin","x":"="}',
            b'\xef\xbb\xbf{"role":"admin","x":"="}',
            b'{"role":"admin"}&x=1',
            b'[{"role":"admin","x":"="}]',
            b'/*=*/{"role":"admin"}',
        ],
    )
    @pytest.mark.parametrize(
        "rule", ["body: {role: admin}", "when: has(body.role) && body.role == 'admin'", IS_ADMIN]
    )
    def test_json_that_calls_itself_a_form_is_unknown(self, body: bytes, rule: str) -> None:
        """Go's json.NewDecoder does not ask for the content type, and stops behind the first value."""
        assert denied(rule, headers=FORM, body=body)

    def test_a_form_whose_value_is_json_is_a_form(self) -> None:
        body = b'note={"role":"admin"}&role=user&list=[1]'
        assert not denied("body: {role: admin}", headers=FORM, body=body)
        assert allowed("body: {role: user}", headers=FORM, body=body)


class TestTypes:
    """A client chooses the type of each value, and many upstreams convert it."""

    IS_ADMIN: ClassVar = "when: has(body.admin) && body.admin == true"

    @pytest.mark.parametrize(
        ("headers", "body"),
        [
            (FORM, b"admin=true"),
            (FORM, b"admin=1"),
            (FORM, b"ADMIN[]=on"),
            (JSON, b'{"admin": true}'),
            (JSON, b'{"admin": "true"}'),
            (JSON, b'{"admin": 1}'),
            (JSON, b'{"admin": [true]}'),
            (JSON, b'{"admin": ["True"]}'),
        ],
    )
    def test_what_may_be_true_denies(self, headers: dict[str, str], body: bytes) -> None:
        asked: dict[str, Any] = {"headers": headers, "body": body}
        assert denied(self.IS_ADMIN, **asked)
        assert denied("when: \"has(body.admin) && body['admin'] in [true]\"", **asked)
        assert denied("body: {admin: true}", **asked)
        assert not allowed("when: body.admin != true", **asked)

    @pytest.mark.parametrize(
        ("headers", "body"),
        [(FORM, b"admin=false"), (FORM, b"admin=0"), (JSON, b'{"admin": false}'), (JSON, b'{"x": "true"}')],
    )
    def test_what_may_not_does_not(self, headers: dict[str, str], body: bytes) -> None:
        assert not denied(self.IS_ADMIN, headers=headers, body=body)

    @pytest.mark.parametrize("body", [b'{"n": 5}', b'{"n": "5"}', b'{"n": "5.0"}', b'{"n": [5]}'])
    @pytest.mark.parametrize("when", ["body.n == 5", "5 == body.n", "body.n in [4, 5]", "body.n == '5'"])
    def test_numbers_and_texts(self, body: bytes, when: str) -> None:
        if "'5'" in when and b"5.0" in body:
            return
        assert denied(f'when: "{when}"', headers=JSON, body=body)
        assert not denied(f'when: "{when}"', headers=JSON, body=body.replace(b"5", b"6"))

    @pytest.mark.parametrize("body", [b'{"role": ["admin"]}', b'{"role": [["user", ["admin"]]]}'])
    def test_a_list_of_one_is_that_one_to_javascript(self, body: bytes) -> None:
        assert denied("when: body.role == 'admin'", headers=JSON, body=body)
        assert denied("body: {role: admin}", headers=JSON, body=body)
        assert not allowed("when: body.role != 'admin'", headers=JSON, body=body)

    @pytest.mark.parametrize("when", ["'admin' in body.roles", "body.roles.exists(r, r == 'admin')"])
    def test_an_object_is_a_list_of_its_values_to_php(self, when: str) -> None:
        body = b'{"roles": {"0": "admin"}}'
        assert denied(f'when: "{when}"', headers=JSON, body=body)
        assert denied("body: {roles: admin}", headers=JSON, body=body)
        assert denied("body: {roles: {prefix: adm}}", headers=JSON, body=body)
        assert not allowed("body: {roles: {not_one_of: [admin]}}", headers=JSON, body=body)
        assert not allowed(f'when: "!({when})"', headers=JSON, body=body)
        assert not denied(f'when: "{when}"', headers=JSON, body=b'{"roles": {"x": "user"}}')

    @pytest.mark.parametrize("operator", ["{prefix: adm}", "{suffix: min}", "{matches: 'a.*'}"])
    def test_a_text_may_be_within_lists(self, operator: str) -> None:
        assert denied(f"body: {{role: {operator}}}", headers=JSON, body=b'{"role": [["admin"]]}')
        assert not denied(f"body: {{role: {operator}}}", headers=JSON, body=b'{"role": [["user"], {}]}')

    def test_a_number_may_be_a_text(self) -> None:
        assert denied("body: {n: {prefix: '5'}}", headers=JSON, body=b'{"n": 57}')
        assert not denied("body: {n: {prefix: '5'}}", headers=JSON, body=b'{"n": 7}')

    def test_items_of_a_list_count_too(self) -> None:
        rule = 'when: "body.users.exists(user, user.admin == true)"'
        assert denied(rule, headers=JSON, body=b'{"users": [{"admin": "yes"}]}')
        assert not denied(rule, headers=JSON, body=b'{"users": [{"admin": "no"}]}')

    def test_an_expression_that_looks_into_lists_knows_of_them(self) -> None:
        rule = "when: \"'user' in body.role || body.role == 'user'\""
        assert allowed(rule, headers=JSON, body=b'{"role": ["user"]}')

    def test_types_that_fit_are_compared_as_they_are(self) -> None:
        assert allowed(
            "when: body.admin == false && body.n <= 5", headers=JSON, body=b'{"admin":false,"n":1}'
        )
        assert allowed("when: body.n == 5 && body.kind == '1'", headers=JSON, body=b'{"n":5,"kind":"1"}')


class TestJson:
    @pytest.mark.parametrize("body", [b'{"Role": "admin"}', b'{"u": [{"ROLE": "admin"}]}', b'{"r_ole": 1}'])
    def test_has_with_another_case_is_unknown(self, body: bytes) -> None:
        assert denied("when: has(body.role) && body.role == 'admin'", headers=JSON, body=body)
        assert not allowed("when: '!has(body.role)'", headers=JSON, body=body)

    def test_values_of_the_expression_are_not_names(self) -> None:
        body = b'{"role": "user", "Admin": false, "Size": 1}'
        assert not denied("when: body.role == 'admin' && body.role.size() > 1", headers=JSON, body=body)

    @pytest.mark.parametrize("body", [rb'{"role": "admin\u0000"}', rb'{"role": "adm\ud800in"}'])
    @pytest.mark.parametrize("rule", ["body: {role: admin}", "when: body.role == 'admin'"])
    def test_a_text_that_readers_truncate_or_repair_is_unknown(self, body: bytes, rule: str) -> None:
        assert denied(rule, headers=JSON, body=body)
        assert not allowed("body: {role: {present: true}}", headers=JSON, body=body)

    @pytest.mark.parametrize("note", [rb"\ud83d\ude00", rb"\\u0000", rb"\\\\ud800", rb"\u00e9"])
    def test_other_escapes_are_texts(self, note: bytes) -> None:
        assert allowed("body: {role: user}", headers=JSON, body=b'{"role": "user", "note": "%s"}' % note)


class TestComputedNames:
    @pytest.mark.parametrize(
        "expression",
        [
            "['role'].exists(name, name in query && query[name].exists(v, v == 'admin'))",
            "TQroleTQ in query && query[TQroleTQ].exists(v, v == 'admin')".replace("TQ", "'" * 3),
            "r'role' in query && query[r'role'].exists(v, v == 'admin')",
        ],
    )
    @pytest.mark.parametrize("query", ["role=admin", "ROLE=admin"])
    def test_they_are_found_in_every_spelling(self, expression: str, query: str) -> None:
        assert denied(f'when: "{expression}"', path=f"/?{query}")
        assert not denied(f'when: "{expression}"', path="/?x=admin")


def decided(policy: str, asked: Request) -> str:
    decision = Authorizer(parse_policy(policy), Says(None), decision_ids(lambda: 0.5)).decide(asked, 0.0)
    assert isinstance(decision, Decision)
    return decision.verdict.rule
