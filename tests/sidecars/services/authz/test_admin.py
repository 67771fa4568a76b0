"""What authz offers on the admin port."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from authz.credentials import Credentials, CredentialsConfig
from authz.request.identity import Identity, RefusalReason
from sidecars.admin.routes import AdminAnswer, AdminRequest, routes_of
from sidecars.services.authz.admin import LOGOUT_PATH, admin_routes
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.logout import block, logout_token
from tests.support.signing import bearer, token

FORM = "application/x-www-form-urlencoded"


@pytest.fixture
def harness(tmp_path: Path) -> CredentialsHarness:
    return CredentialsHarness(tmp_path)


async def ask(
    credentials: Credentials,
    method: str,
    path: str,
    body: Any = None,
    content_type: str = "application/json",
    query: Mapping[str, str] | None = None,
) -> tuple[int, Any]:
    routes = {(route.method, route.path): route for route in admin_routes(credentials, session_admin=True)}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await routes[method, path].handle(AdminRequest(query or {}, content_type, content))
    assert answer.headers["cache-control"] == "no-store"
    return answer.status, json.loads(answer.body) if answer.body else None


class TestLogout:
    async def test_a_good_token_is_answered_with_200(self, harness: CredentialsHarness) -> None:
        """Sections 2.5 and 2.8 of OpenID Connect Back-Channel Logout 1.0."""
        credentials = harness.credentials(block(harness))
        status, _ = await ask(
            credentials, "POST", LOGOUT_PATH, f"logout_token={logout_token()}".encode(), FORM
        )
        assert status == 200
        outcome = harness.outcome(credentials, bearer(token(sid="s1")))
        assert reason_of(outcome) == RefusalReason.REVOKED

    @pytest.mark.parametrize(
        ("body", "content_type"),
        [
            (b"", FORM),
            (b"logout_token=", FORM),
            (b"logout_token=a.b.c", FORM),
            (b"logout_token=a&logout_token=b", FORM),
            (b"\xff\xfe", FORM),
            (b"&".join([b"a=b"] * 100), FORM),
            (b"logout_token=a", "text/plain"),
            (b"{}", "application/json"),
        ],
    )
    async def test_a_bad_one_with_400(
        self, harness: CredentialsHarness, body: bytes, content_type: str
    ) -> None:
        credentials = harness.credentials(block(harness))
        status, answer = await ask(credentials, "POST", LOGOUT_PATH, body, content_type)
        assert (status, answer["error"]) == (400, "invalid_request")
        assert isinstance(harness.outcome(credentials, bearer(token(sid="s1"))), Identity)

    async def test_where_no_issuer_has_it_with_404(self, harness: CredentialsHarness) -> None:
        status, _ = await ask(harness.credentials({}), "POST", LOGOUT_PATH, b"logout_token=a.b.c", FORM)
        assert status == 404

    async def test_one_that_cannot_be_kept_with_503(self, harness: CredentialsHarness) -> None:
        """The issuer may send it again."""
        credentials = harness.credentials(block(harness) | {"revocations": {"max_entries": 1}})
        await credentials.credential_admin.revoke_tokens("jti", "other")
        body = f"logout_token={logout_token()}".encode()
        assert (await ask(credentials, "POST", LOGOUT_PATH, body, FORM))[0] == 503

    async def test_it_is_there_without_session_admin_and_nothing_else_is(
        self, harness: CredentialsHarness
    ) -> None:
        routes = admin_routes(harness.credentials({}), session_admin=False)
        assert [(route.method, route.path) for route in routes] == [("POST", LOGOUT_PATH)]


class TestSessions:
    @pytest.fixture
    def credentials(self, harness: CredentialsHarness) -> Credentials:
        return harness.credentials(
            {"issuers": [harness.issuer()], "sessions": {"max_sessions": 2}, "revocations": {}}
        )

    async def test_created_listed_shown_revoked(self, credentials: Credentials) -> None:
        wish = {"subject": "alice", "scopes": ["read"], "roles": [], "claims": {}}
        status, made = await ask(credentials, "POST", "/authz/sessions", wish)
        assert status == 200
        _, listed = await ask(credentials, "GET", "/authz/sessions", query={"subject": "alice"})
        assert [found["id"] for found in listed] == [made["id"]]
        _, shown = await ask(credentials, "POST", "/authz/sessions/show", {"name": made["token"]})
        assert shown["subject"] == "alice"
        wish = {"target": "id", "value": made["id"]}
        assert await ask(credentials, "POST", "/authz/sessions/revoke", wish) == (200, 1)
        assert await ask(credentials, "POST", "/authz/sessions/show", {"name": made["id"]}) == (200, None)

    async def test_tokens_revoked_and_listed(self, credentials: Credentials) -> None:
        wish = {"target": "jti", "value": "t1", "issuer": ""}
        assert (await ask(credentials, "POST", "/authz/revocations", wish))[0] == 200
        _, listed = await ask(credentials, "GET", "/authz/revocations")
        assert [found["value"] for found in listed] == ["t1"]

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/authz/sessions", {}),
            ("/authz/sessions", {"subject": ""}),
            ("/authz/sessions", {"subject": 7}),
            ("/authz/sessions", {"subject": "a", "scopes": "read"}),
            ("/authz/sessions", {"subject": "a", "scopes": [7]}),
            ("/authz/sessions", {"subject": "a", "claims": []}),
            ("/authz/sessions", []),
            ("/authz/sessions", b"{"),
            ("/authz/sessions/show", {}),
            ("/authz/sessions/revoke", {"target": "all", "value": "x"}),
            ("/authz/sessions/revoke", {"target": "subject"}),
            ("/authz/sessions/revoke", {"target": "before", "value": "x"}),
            ("/authz/revocations", {"target": "jti"}),
            ("/authz/revocations", {"target": "jti", "value": "x" * 2000}),
            ("/authz/revocations", {"target": "jti", "value": "x", "issuer": 7}),
        ],
    )
    async def test_what_makes_no_sense_is_a_400(self, credentials: Credentials, path: str, body: Any) -> None:
        assert (await ask(credentials, "POST", path, body))[0] == 400

    async def test_a_form_of_another_site_changes_nothing(self, credentials: Credentials) -> None:
        """A browser sends forms anywhere, but JSON only where it is allowed to."""
        for content_type in (FORM, "text/plain", "multipart/form-data"):
            body = b'{"subject": "mallory"}'
            assert (await ask(credentials, "POST", "/authz/sessions", body, content_type))[0] == 415
        assert await ask(credentials, "GET", "/authz/sessions") == (200, [])

    async def test_a_full_store_is_reported(self, credentials: Credentials) -> None:
        wish = {"subject": "alice"}
        answers = [(await ask(credentials, "POST", "/authz/sessions", wish))[0] for _ in range(3)]
        assert answers == [200, 200, 507]


def test_only_sidecars_that_bring_routes_have_any() -> None:
    class Without:
        name = "x"

    class With:
        admin_routes = admin_routes(
            Credentials(
                CredentialsConfig(),
                registry=CollectorRegistry(),
                monotonic_clock=lambda: 0.0,
                random=lambda: 0.0,
            ),
            session_admin=False,
        )

    assert [route.path for route in routes_of([Without(), With()])] == [LOGOUT_PATH]


def test_an_answer_is_json_unless_it_says_otherwise() -> None:
    assert AdminAnswer().content_type == "application/json"
