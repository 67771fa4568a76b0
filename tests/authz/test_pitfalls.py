"""Where others were broken: one test for each published hole and each known misreading, named after it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from structlog.testing import capture_logs

from authz.engine.decide import INTERNAL_ERROR, Authorizer, decision_ids
from authz.engine.respond import Responder
from authz.policy.compile.load import parse_policy
from authz.request.identity import Authentication, Refusal, RefusalReason
from authz.request.path import split_path
from authz.request.request import BadRequestError, BadRequestReason, Request
from protos.authz_pb2 import CheckRequest, CheckResponse
from tests.support.answers import Answers, pairs
from tests.support.asking import ask, caller
from tests.support.authz_sidecar import KEY, Built, OneCall
from tests.support.callers import ALICE, Says
from tests.support.checks import check_request, request

GUARDED = """
rules:
  - {name: public, paths: ["/public/**"], allow: anyone}
  - {name: people, paths: ["/people/**"], allow: anyone}
  - {name: admin, paths: ["/admin/**"], allow: {roles: [admin]}}
"""


def answer(path: str, policy: str = GUARDED, who: Authentication = None, **asked: Any) -> str:
    verdict = ask(policy, who, path=path, **asked).verdict
    return f"{verdict.status} {verdict.rule or verdict.reason}"


class TestPath:
    def test_cve_2026_26205_a_double_slash_makes_no_authority_of_a_segment(self) -> None:
        assert split_path("//admin/people").segments == ("", "admin", "people")
        assert answer("//admin/people") == "400 path_empty_segment"

    def test_opa_envoy_plugin_an_escaped_slash_separates_nothing(self) -> None:
        """Its fix still unescaped before splitting, and trimmed all leading slashes."""
        assert split_path("/admin%2Fx").segments == ("admin/x",)
        assert split_path("///admin").segments == ("", "", "admin")
        lax = 'rules: [{name: one, paths: ["/{name}"], allow: anyone, accept_in_path: [encoded_slash]}]'
        assert answer("/admin%2Fx", lax) == "200 one"
        assert answer("/admin/x", lax) == "403 no_rule"

    def test_cve_2026_32811_the_query_is_found_inside_the_path(self) -> None:
        assert answer("/public/x?/admin") == "200 public"
        assert answer("/admin/x?/public/") == "401 admin"

    @pytest.mark.parametrize("path", ["/public/../admin/x", "/public/%2e%2e/admin/x", "/public/..%2fadmin/x"])
    def test_cve_2026_42274_and_cve_2026_33494_no_dots_lead_out_of_what_is_public(self, path: str) -> None:
        """CVE-2026-33494 is GHSA-p224-6x5r-fjpm."""
        assert answer(path).startswith("400 path_")

    @pytest.mark.parametrize("path", ["/admin//x", "/%2Fadmin/x", "/public%5C..%5Cadmin", "/public\\admin"])
    def test_cve_2021_29492_and_cve_2021_31920_slashes_of_every_kind_are_told_apart(self, path: str) -> None:
        """ISTIO-SECURITY-2021-005."""
        assert answer(path).startswith("400 path_")

    @pytest.mark.parametrize("path", ["/public/x#/admin", "/public/x?#", "/admin#/../public/x"])
    def test_cve_2021_39156_and_cve_2021_32779_a_fragment_hides_nothing(self, path: str) -> None:
        assert answer(path) in {"400 path_fragment", "400 path_dot_segment"}

    @pytest.mark.parametrize(
        ("shown", "sent"),
        [
            ("/public/!!!!/admin", b"/public/\xc0\xae\xc0\xae/admin"),
            ("/public/a!b", b"/public/a\x80b"),
            ("/public/x?y!;debug=1", b"/public/x?y\xff;debug=1"),
        ],
    )
    def test_cve_2023_27488_a_path_is_judged_as_the_upstream_gets_it(self, shown: str, sent: bytes) -> None:
        """Envoy replaces bytes that are not UTF-8 with `!`, but the upstream gets the bytes."""
        message = check_request(path=shown, headers=[(":path", sent)])
        authorizer = Authorizer(parse_policy(GUARDED), Says(None), decision_ids(lambda: 0.5))
        decision: Any = authorizer.decide(Request(message), 0.0)
        assert (decision.verdict.status, decision.verdict.reason) == (400, "path_not_utf8")

    @pytest.mark.parametrize("sent", [b"/public/wow!", b"/public/wow!?x=!"])
    def test_an_exclamation_mark_that_was_sent_is_one(self, sent: bytes) -> None:
        message = check_request(path=sent.decode(), headers=[(":path", sent)])
        authorizer = Authorizer(parse_policy(GUARDED), Says(None), decision_ids(lambda: 0.5))
        decision: Any = authorizer.decide(Request(message), 0.0)
        assert decision.verdict.status == 200

    @pytest.mark.parametrize("path", ["/./admin/x", "/public/./../admin/x", "/admin/.", "/x/.%2E/admin"])
    def test_cve_2019_9901_what_is_not_normalised_is_refused(self, path: str) -> None:
        assert answer(path) == "400 path_dot_segment"

    @pytest.mark.parametrize("path", ["/admin;x=1/y", "/public/x;/../admin", "/admin%3b/x"])
    def test_ghsa_qcxp_gm7m_4j5v_parameters_hide_no_segment(self, path: str) -> None:
        assert answer(path).startswith("400 path_")

    def test_cve_2026_32716_a_prefix_ends_at_a_segment(self) -> None:
        assert answer("/publicity") == "403 no_rule"
        assert answer("/public/ity") == "200 public"

    @pytest.mark.parametrize("path", ["/public/%252e%252e/admin", "/public/%25252e", "/%2561dmin"])
    def test_double_encoding_is_refused(self, path: str) -> None:
        assert answer(path) == "400 path_double_encoding"

    @pytest.mark.parametrize(
        "path", ["/public/%00", "/public/\0x", "/public/%0a", "/public/%zz", "/public/%"]
    )
    def test_nul_control_bytes_and_bad_escapes_are_refused(self, path: str) -> None:
        assert answer(path).startswith("400 path_")

    def test_case_and_trailing_slash_count(self) -> None:
        exact = "rules: [{name: a, paths: [/Users], allow: anyone}]"
        assert answer("/Users", exact) == "200 a"
        assert answer("/users", exact) == answer("/Users/", exact) == "403 no_rule"


class TestHost:
    LAX = """
rules:
  - {name: lax, hosts: ["*.acme.com"], allow: anyone}
  - {name: strict, hosts: [api.acme.com], deny: anyone}
"""

    @pytest.mark.parametrize("host", ["API.acme.com", "api.ACME.com.", "api.acme.com:443"])
    def test_cve_2021_39155_and_authorino_the_spelling_of_a_host_chooses_no_laxer_rule(
        self, host: str
    ) -> None:
        authorizer = Authorizer(parse_policy(self.LAX), Says(None), decision_ids(lambda: 0.5))
        decision: Any = authorizer.decide(request(host=host), 0.0)
        assert decision.verdict.rule == "strict"

    def test_authorino_an_ipv6_literal_is_not_a_name_and_port(self) -> None:
        assert request(host="[2001:db8::1]:8080").host == "[2001:db8::1]"

    @pytest.mark.parametrize(
        "host", ["", "a.example,b.example", "user@a.example", "a.example/x", "bücher.example"]
    )
    def test_what_is_not_a_host_is_refused(self, host: str) -> None:
        with pytest.raises(BadRequestError) as caught:
            request(host=host)
        assert caught.value.reason is BadRequestReason.HOST

    def test_x_forwarded_host_moves_nothing(self) -> None:
        asked = request(host="api.acme.com", headers={"x-forwarded-host": "www.acme.com"})
        assert asked.host == "api.acme.com"


class TestHeaders:
    def test_cve_2021_32777_every_value_of_a_repeated_header_is_seen(self) -> None:
        policy = "rules: [{name: o, allow: anyone}, {name: closed, deny: anyone, headers: {x-a: bad}}]"
        assert answer("/", policy, headers=[("x-a", "bad"), ("x-a", "good")]) == "403 closed"

    def test_cve_2026_26308_a_joined_value_hides_none(self) -> None:
        """GHSA-ghc4-35x6-crw5."""
        policy = "rules: [{name: o, allow: anyone}, {name: closed, deny: anyone, headers: {x-a: bad}}]"
        assert answer("/", policy, headers={"x-a": "good,bad"}) == "403 closed"

    @pytest.mark.parametrize("name", ["authorization", "host"])
    def test_two_credentials_or_hosts_are_refused(self, name: str) -> None:
        lines = [(":authority", "api.example.com")] if name == "host" else [(name, "Bearer a")]
        with pytest.raises(BadRequestError):
            request(headers=[*lines, (name, "Bearer b" if name == "authorization" else "api.example.com")])

    def test_cve_2023_27488_bytes_that_are_not_text_are_compared_as_bytes(self) -> None:
        policy = "rules: [{name: o, allow: anyone, headers: {x-a: good}}]"
        assert answer("/", policy, headers=[("x-a", b"good\xff")]) == "403 o"

    @pytest.mark.parametrize(
        "name", ["x-envoy-original-path", "x-forwarded-uri", "x-original-url", "x-envoy-original-method"]
    )
    def test_cve_2023_27487_cve_2024_45806_cve_2026_40575_no_header_says_what_is_asked(
        self, name: str
    ) -> None:
        assert answer("/admin/x", headers={name: "/public/x"}) == "401 admin"

    def test_ghsa_vhr5_ggp3_qq85_forwarded_headers_say_nothing_of_the_client(self) -> None:
        policy = "rules: [{name: o, allow: anyone, client: [10.0.0.0/8]}]"
        forged = {"x-forwarded-for": "10.0.0.1", "x-real-ip": "10.0.0.1", "x-forwarded-proto": "https"}
        assert answer("/", policy, headers=forged) == "403 o"

    @pytest.mark.parametrize("path", ["/public/x", "/mine"])
    def test_cve_2025_64484_twins_of_identity_headers_are_removed_for_anyone_too(self, path: str) -> None:
        policy = GUARDED + "  - {name: mine, paths: [/mine], allow: authenticated}\n"
        removed = Answers(policy, ALICE)(path=path).ok_response.headers_to_remove
        assert {"x_auth_subject", "x_auth-subject", "x-auth_subject"} <= set(removed)

    def test_envoy_43310_every_header_says_that_it_takes_the_place_of_others(self) -> None:
        ok = Answers("rules: [{name: o, allow: authenticated}]", ALICE)().ok_response
        assert ok.headers
        assert all(option.HasField("append") and not option.append.value for option in ok.headers)

    def test_no_name_is_both_set_and_removed(self) -> None:
        ok = Answers("rules: [{name: o, allow: authenticated}]", ALICE)().ok_response
        assert not set(pairs(ok.headers)) & set(ok.headers_to_remove)

    def test_cve_2023_27493_a_claim_ends_no_header(self) -> None:
        policy = "rules: [{name: o, allow: authenticated, identity_headers: {x-a: '{claims.a}'}}]"
        ok = Answers(policy, caller(a="b\r\nx-admin: 1\0"))().ok_response
        assert "x-a" not in pairs(ok.headers)
        assert "x-a" in ok.headers_to_remove

    def test_the_deprecated_metadata_that_overrides_the_other_is_never_set(self) -> None:
        assert not Answers(GUARDED)(path="/public/x").ok_response.HasField("dynamic_metadata")


class Gated:
    """Says that it is Alice, once it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def authenticate(self, request: Request, now: float) -> Authentication:
        await self.open.wait()
        return ALICE


class TestErrorsAndModes:
    @pytest.mark.parametrize("reason", RefusalReason)
    def test_authorino_649_no_failure_to_find_out_ever_allows(self, reason: RefusalReason) -> None:
        assert answer("/admin/x", who=Refusal(reason)).endswith(" admin")
        assert not answer("/admin/x", who=Refusal(reason)).startswith("200")

    def test_opa_envoy_plugin_a_shadow_rule_that_fails_changes_nothing(self) -> None:
        """Its dry-run does not cover evaluation errors."""
        policy = GUARDED + "  - {name: new, deny: anyone, mode: shadow, when: 'claims.no.such == 1'}\n"
        decision = ask(policy, path="/public/x")
        assert (decision.verdict.status, decision.verdict.rule) == (200, "public")
        assert decision.shadow is not None
        assert decision.shadow.rule == "new"

    @pytest.mark.parametrize("who", ["anonymous", "known"])
    async def test_opa_envoy_plugin_a_decision_log_that_fails_changes_no_answer(
        self, tmp_path: Path, who: str
    ) -> None:
        """Its failure to log a decision turned an allow into UNKNOWN, which is a deny."""
        headers = KEY if who == "known" else {}
        log = {"file": tmp_path / "no such folder" / "decisions.jsonl", "queue_lines": 1}
        failing, healthy = Built(tmp_path, decisions={"log": log}), Built(tmp_path)
        with capture_logs() as logs:
            await failing.sidecar.start()
            for path in ("/public", "/orders", "/nothing", "//"):
                message = check_request(path=path, headers=headers).SerializeToString()
                answers = [one.sidecar.check(message, OneCall()) for one in (failing, healthy)]
                assert answers[0] == answers[1]
            await failing.sidecar.stop()
        assert "decision log cannot be written" in [line["event"] for line in logs]
        assert failing.sidecar.describe()["decisions"]["log"]["dropped"] == 4

    async def test_opa_envoy_plugin_a_reload_amid_calls_mixes_no_two_policies(self, tmp_path: Path) -> None:
        """Its hot reload replaced what calls were using, without a lock."""

        def policy(name: str) -> str:
            return f"identity_headers: {{x-{name}: subject}}\nrules: [{{name: {name}, allow: authenticated}}]"

        sidecar = Built(tmp_path, policy("one")).sidecar
        message = check_request(path="/orders").SerializeToString()
        waiting: dict[str, tuple[Gated, asyncio.Future[bytes]]] = {}
        for name, other in (("one", "two"), ("two", "three"), ("three", "four")):
            gate = Gated()
            sidecar._serving.authorizer._authenticator = gate
            pending = sidecar.check(message, OneCall())
            assert not isinstance(pending, bytes)
            waiting[name] = (gate, asyncio.ensure_future(pending))
            await asyncio.sleep(0)
            (tmp_path / "policy.yaml").write_text(policy(other))
            (await asyncio.to_thread(sidecar.prepare))()
        # The policies replaced have been taken apart.
        await asyncio.get_running_loop().shutdown_default_executor()
        for name, (gate, answer) in waiting.items():
            gate.open.set()
            response = CheckResponse.FromString(await answer)
            # What is set is the rule's, what is removed is the policy's.
            assert pairs(response.ok_response.headers) == {f"x-{name}": "alice"}
            assert list(response.ok_response.headers_to_remove) == [f"x_{name}"]
            assert MessageToDict(response.dynamic_metadata)["rule"] == name
        assert sidecar._serving.authorizer.policy.rules[0].name == "four"

    def test_istio_what_a_deny_rule_cannot_evaluate_denies(self) -> None:
        policy = """
rules:
  - {name: o, allow: anyone}
  - {name: closed, deny: anyone, when: "headers['x'][0] == 'y'"}
"""
        assert answer("/", policy) == "403 closed"

    def test_grfc_a92_callers_that_leave_attributes_out_are_judged_without_them(self) -> None:
        message = CheckRequest()
        http = message.attributes.request.http
        http.method, http.host, http.path = "POST", "api.example.com", "/pkg.Service/Method"
        policy = """
rules:
  - {name: by address, paths: ["/pkg.Service/**"], allow: anyone, client: [0.0.0.0/0]}
"""
        decision: Any = Authorizer(parse_policy(policy), Says(None), decision_ids(lambda: 0.5)).decide(
            Request(message), 0.0
        )
        assert decision.verdict.reason == "conditions_unmet"

    def test_envoy_42098_an_outage_is_not_a_denial(self) -> None:
        compiled, new_id = parse_policy(GUARDED), decision_ids(lambda: 0.5)
        decided = Authorizer(compiled, Says(None), new_id).decided(INTERNAL_ERROR)
        response = CheckResponse.FromString(Responder(compiled, "f" * 24).respond(decided))
        assert response.HasField("error_response")
        assert response.error_response.status.code == 503
        assert int(pairs(response.error_response.headers)["retry-after"]) > 0

    def test_opa_envoy_plugin_809_a_rule_about_a_body_that_was_cut_off_is_not_met(self) -> None:
        policy = "rules: [{name: o, allow: anyone, body: {a: 1}}]"
        json = {"content-type": "application/json", "content-length": "8"}
        assert answer("/", policy, headers=json, body=b'{"a": 1}') == "200 o"
        assert answer("/", policy, headers=json, body=b'{"a": 1}', partial="true") == "403 o"
