import orjson
import pytest
from google.protobuf.json_format import MessageToDict

from authz.engine.decide import INTERNAL_ERROR, ODD_PATH, REFUSED, Authorizer, Decision, decision_ids
from authz.engine.respond import MAX_ANSWERS, Responder
from authz.policy.compile.compile import spellings
from authz.policy.compile.load import parse_policy
from authz.policy.templates import MAX_VALUE_BYTES
from authz.request.identity import Authentication, CredentialKind, Identity, RefusalReason
from authz.request.path import PathAnomaly
from protos.authz_pb2 import CheckResponse
from protos.core_pb2 import HeaderValueOption
from tests.support.callers import ALICE, Says
from tests.support.checks import Headers, request

POLICY = """
identity_headers: {x-user: subject, x-scopes: scopes, x-roles: roles}
rules:
  - {name: public, paths: [/public], allow: anyone}
  - name: users
    paths: [/users]
    allow: {scopes: [users.read, users.list]}
    identity_headers: {x-kind: credential}
  - {name: staff, paths: [/staff], allow: {roles: [staff]}}
  - {name: closed, paths: [/closed], deny: anyone}
"""
READER = Identity(CredentialKind.JWT, "alice", scopes=frozenset({"users.read", "users.list"}))


PLACEHOLDER = "f" * 24


class Edge:
    """An authorizer and its responder, as one service has them."""

    def __init__(self, who: Authentication = None, policy: str = POLICY) -> None:
        compiled = parse_policy(policy)
        new_id = decision_ids(lambda: 0.5)
        self.authorizer = Authorizer(compiled, Says(who), new_id)
        self.responder = Responder(compiled, PLACEHOLDER)

    def ask(self, path: str, headers: Headers = ()) -> tuple[Decision, CheckResponse]:
        decision = self.authorizer.decide(request(path=path, headers=headers), 0.0)
        assert isinstance(decision, Decision)
        return decision, CheckResponse.FromString(self.responder.respond(decision))

    def answer(self, path: str, headers: Headers = ()) -> CheckResponse:
        return self.ask(path, headers)[1]


def upstream_headers(response: CheckResponse) -> dict[str, str]:
    return {option.header.key: option.header.value for option in response.ok_response.headers}


def client_headers(response: CheckResponse) -> dict[str, str]:
    answer = response.error_response if response.HasField("error_response") else response.denied_response
    return {option.header.key: option.header.value for option in answer.headers}


class TestAllowed:
    def test_the_upstream_learns_who_asks(self) -> None:
        response = Edge(READER).answer("/users")
        assert response.status.code == 0
        assert upstream_headers(response) == {
            "x-user": "alice",
            "x-scopes": "users.list users.read",
            "x-kind": "jwt",
        }

    def test_envoy_43310_every_header_overwrites_in_every_version(self) -> None:
        for option in Edge(READER).answer("/users").ok_response.headers:
            assert option.HasField("append")
            assert not option.append.value
            assert option.append_action == HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD

    @pytest.mark.parametrize("path", ["/public", "/users"])
    def test_cve_2025_64484_no_inbound_copy_or_twin_survives(self, path: str) -> None:
        """On routes for anyone too, and for the headers of other rules too."""
        response = Edge(READER).answer(path)
        gone = set(response.ok_response.headers_to_remove) | set(upstream_headers(response))
        for name in ("x-user", "x-scopes", "x-roles", "x-kind"):
            assert {name, name.replace("-", "_")} <= gone

    @pytest.mark.parametrize("path", ["/public", "/users"])
    @pytest.mark.parametrize("joined", [True, False])
    def test_ghsa_rf44_j88r_hh8c_no_inbound_copy_survives_that_reads_like_one(
        self, path: str, joined: bool
    ) -> None:
        """Nor with one that reads like a header of another rule, however Envoy sends the headers."""
        names = ("accept", "x.user", "x~scopes", "x!kind", "x.user.agent", "xuser", "x-kind")
        pairs = [(name, "admin") for name in names]
        edge = Edge(READER)
        for _ in range(2):
            response = edge.answer(path, dict(pairs) if joined else pairs)
            gone = set(response.ok_response.headers_to_remove) | set(upstream_headers(response))
            assert gone.intersection(names) == {"x.user", "x~scopes", "x!kind", "x-kind"}
        assert "x.user" not in edge.answer(path).ok_response.headers_to_remove

    @pytest.mark.parametrize("path", ["/public", "/users", "/staff"])
    def test_no_name_is_both_set_and_removed(self, path: str) -> None:
        """Envoy removes last, so it would lose what it just set."""
        response = Edge(ALICE if path == "/staff" else READER).answer(path)
        assert not set(response.ok_response.headers_to_remove) & set(upstream_headers(response))

    def test_anyone_has_no_identity_for_the_upstream(self) -> None:
        assert not Edge(READER).answer("/public").ok_response.headers

    def test_cve_2023_27493_nothing_in_a_claim_ends_a_header(self) -> None:
        sly = Identity(CredentialKind.JWT, "a\r\nx-admin: 1\0\x85\ud800", roles=frozenset({"staff", "r\n"}))
        answer = Edge(sly).answer("/staff")
        assert upstream_headers(answer) == {"x-roles": "staff"}
        assert "subject" not in answer.dynamic_metadata

    def test_a_role_that_holds_the_separator_cannot_pass_for_two(self) -> None:
        sly = Identity(CredentialKind.JWT, "a", roles=frozenset({"staff", "guest,admin"}))
        assert upstream_headers(Edge(sly).answer("/staff"))["x-roles"] == "staff"

    def test_oauth2_proxy_1902_a_huge_list_breaks_no_upstream(self) -> None:
        many = frozenset({"staff"} | {f"group-{n:08}" for n in range(MAX_VALUE_BYTES // 10)})
        response = Edge(Identity(CredentialKind.JWT, "a", roles=many)).answer("/staff")
        assert upstream_headers(response) == {"x-user": "a"}
        assert "x-roles" in response.ok_response.headers_to_remove

    def test_a_subject_may_be_any_text(self) -> None:
        who = Identity(CredentialKind.JWT, "Zoë", roles=frozenset({"staff"}))
        assert upstream_headers(Edge(who).answer("/staff"))["x-user"] == "Zoë"


class TestDenied:
    def test_no_credential_is_asked_for_without_an_error(self) -> None:
        """RFC 6750 section 3.1."""
        response = Edge().answer("/users")
        assert response.denied_response.status.code == 401
        assert client_headers(response)["www-authenticate"] == 'Bearer scope="users.read users.list"'

    def test_a_challenge_without_parameters_is_the_scheme_alone(self) -> None:
        assert client_headers(Edge().answer("/staff"))["www-authenticate"] == "Bearer"

    def test_insufficient_scope_is_reported_with_the_scope_that_suffices(self) -> None:
        response = Edge(ALICE).answer("/users")
        assert response.denied_response.status.code == 403
        challenge = 'Bearer error="insufficient_scope", scope="users.read users.list"'
        assert client_headers(response)["www-authenticate"] == challenge

    @pytest.mark.parametrize("path", ["/closed", "/nothing"])
    def test_no_credential_is_asked_for_where_none_would_help(self, path: str) -> None:
        response = Edge(ALICE).answer(path)
        assert response.denied_response.status.code == 403
        assert "www-authenticate" not in client_headers(response)

    def test_the_body_is_problem_details(self) -> None:
        """RFC 9457, with the decision id, by which support staff find the reason."""
        decision, response = Edge().ask("/users")
        assert client_headers(response)["content-type"] == "application/problem+json"
        assert client_headers(response)["cache-control"] == "no-store"
        assert orjson.loads(response.denied_response.body) == {
            "type": "about:blank",
            "title": "Unauthorized",
            "status": 401,
            "detail": "This resource needs a credential.",
            "decision_id": decision.id,
        }

    def test_every_denial_is_one_for_envoy(self) -> None:
        edge = Edge()
        for verdict in (*REFUSED.values(), *ODD_PATH.values()):
            response = CheckResponse.FromString(edge.responder.respond(edge.authorizer.decided(verdict)))
            assert response.status.code != 0
            expected = "error_response" if verdict.outcome == "error" else "denied_response"
            assert response.WhichOneof("http_response") == expected

    def test_an_expired_token_is_an_invalid_one(self) -> None:
        edge = Edge()
        decision = edge.authorizer.decided(REFUSED[RefusalReason.TOKEN_EXPIRED])
        response = CheckResponse.FromString(edge.responder.respond(decision))
        expected = 'Bearer error="invalid_token", error_description="The token has expired."'
        assert client_headers(response)["www-authenticate"] == expected

    def test_envoy_42098_an_internal_error_is_not_a_denial(self) -> None:
        edge = Edge()
        response = CheckResponse.FromString(edge.responder.respond(edge.authorizer.decided(INTERNAL_ERROR)))
        assert response.error_response.status.code == 503
        assert client_headers(response)["retry-after"] == "1"
        assert "www-authenticate" not in client_headers(response)


class TestMetadata:
    def test_an_allow_names_the_caller_and_the_rule(self) -> None:
        edge = Edge(READER)
        decision, response = edge.ask("/users")
        assert MessageToDict(response.dynamic_metadata) == {
            "decision_id": decision.id,
            "outcome": "allow",
            "reason": "allowed",
            "rule": "users",
            "policy_revision": edge.authorizer.policy.revision,
            "subject": "alice",
            "credential": "jwt",
        }

    def test_a_denial_names_the_caller_and_the_reason(self) -> None:
        metadata = MessageToDict(Edge(ALICE).answer("/users").dynamic_metadata)
        assert metadata["reason"] == "credentials_insufficient"
        assert metadata["rule"] == "users"
        assert metadata["subject"] == "alice"

    def test_the_deprecated_field_that_would_override_it_stays_unset(self) -> None:
        assert not Edge(READER).answer("/users").ok_response.HasField("dynamic_metadata")

    def test_what_shadow_rules_would_change_is_reported(self) -> None:
        policy = "rules: [{name: open, allow: anyone}, {name: new, deny: anyone, mode: shadow}]"
        metadata = MessageToDict(Edge(policy=policy).answer("/").dynamic_metadata)
        assert (metadata["shadow_outcome"], metadata["shadow_rule"]) == ("deny", "new")


class TestPrebuiltAnswers:
    def test_the_second_answer_differs_in_the_id_only(self) -> None:
        edge = Edge(READER)
        (first, one), (second, two) = edge.ask("/users"), edge.ask("/users")
        assert first.id != second.id
        one.dynamic_metadata["decision_id"] = second.id
        assert one == two

    def test_answers_are_not_mixed_up_between_callers(self) -> None:
        edge = Edge()
        for name in ("alice", "bob"):
            for _ in range(2):
                who = Identity(CredentialKind.JWT, name, roles=frozenset({"staff"}))
                edge.authorizer._authenticator = Says(who)
                assert upstream_headers(edge.answer("/staff"))["x-user"] == name

    def test_answers_kept_are_bounded(self) -> None:
        edge = Edge()
        decision = edge.authorizer.decided(INTERNAL_ERROR)
        for number in range(MAX_ANSWERS + 10):
            who = Identity(CredentialKind.JWT, str(number))
            edge.responder.respond(decision._replace(identity=who))
        assert len(edge.responder._answers) == MAX_ANSWERS

    def test_a_subject_cannot_replace_an_id(self) -> None:
        edge = Edge()
        sly = Identity(CredentialKind.JWT, edge.authorizer._new_id(), roles=frozenset({"staff"}))
        edge.authorizer._authenticator = Says(sly)
        assert upstream_headers(edge.answer("/staff"))["x-user"] == sly.subject


def test_every_spelling_of_a_header_is_known() -> None:
    assert spellings("x-user-id") == {"x-user-id", "x_user-id", "x-user_id", "x_user_id"}
    assert spellings("user") == {"user"}


def test_an_odd_path_names_its_anomaly() -> None:
    assert {verdict.reason for verdict in ODD_PATH.values()} == {
        f"path_{anomaly.name.lower()}" for anomaly in PathAnomaly if anomaly.name
    }
