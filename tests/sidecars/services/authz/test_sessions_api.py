"""The sessions API of a real process: who may do what, and what is written down about it."""

import hashlib
import http.client
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecars.client.sessions import SessionsClient, SessionsError, SessionsUnavailableError
from sidecars.services.authz.sessions_api_guard import UNKNOWN_CLIENT
from tests.support.free_ports import free_port
from tests.support.redis_server import (
    RedisServer,
    _session_redis,
    redis_server,
    shared_redis,
)
from tests.support.running import SIDECARS, Running

__all__ = ["_session_redis", "redis_server", "shared_redis"]

ALL = ["create", "show", "revoke", "revoke_subject"]
SHOP, HELPDESK = "shop-token-" + "a" * 32, "helpdesk-token-" + "b" * 32


class Api:
    """A running authz with the API, and raw requests to it."""

    def __init__(self, running: Running, socket: Path, port: int) -> None:
        self.running, self.socket, self.port = running, socket, port

    def client(self, name: str = "shop") -> SessionsClient:
        return SessionsClient(f"unix:{self.socket}", self.socket.parent / f"{name}.token")

    def post(
        self, body: object, path: str = "/v1/sessions", method: str = "POST", **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Send a request over TCP, by default with the token of the shop and as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        usual = {"Authorization": f"Bearer {SHOP}", "Content-Type": "application/json"}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, content, {**usual, **named})
            response = connection.getresponse()
            return response.status, {**json.loads(response.read()), "headers": response.headers}
        finally:
            connection.close()

    def requests(self, client: str, code: int) -> float | None:
        return self.running.metric(f'authz_sessions_api_requests_total{{client="{client}",code="{code}"}}')

    def lines(self, event: str, at_least: int = 1) -> list[dict[str, Any]]:
        """The lines of the log with this event, once there are `at_least` so many: a thread writes them."""

        def found() -> list[dict[str, Any]] | None:
            lines = [line for line in self.running.log if line["event"] == event]
            return lines if len(lines) >= at_least else None

        written: list[dict[str, Any]] = self.running.wait_until(found)
        return written


def settings(folder: Path, listen: str) -> dict[str, Any]:
    """The section authz; the shop may do all but grant `admin`, the helpdesk only end sessions."""
    shop = {"name": "shop", "token_file": "shop.token", "may": ALL, "scopes": ["orders:read"], "roles": "any"}
    desk = {"name": "helpdesk", "token_file": "helpdesk.token", "may": ["revoke_subject"]}
    api = {"listen": listen, "hosts": ["sessions.internal"], "clients": [shop, desk]}
    return {"listen": [f"unix:{folder}/authz.sock"], "policy": ["policy.yaml"], "sessions_api": api}


def write_files(folder: Path, store: str = "memory") -> None:
    (folder / "shop.token").write_text(f"{SHOP}\n")
    (folder / "helpdesk.token").write_text(f"{HELPDESK}\n")
    rules = [{"name": "all", "paths": ["/{rest=**}"], "allow": {"scopes": ["orders:read"]}}]
    sessions = {"store": store, "max_sessions": 3}
    policy = {"credentials": {"sessions": sessions, "lookup_timeout_seconds": 10}, "rules": rules}
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))


def patient(server: RedisServer) -> dict[str, Any]:
    """The section redis for a busy machine."""
    return {"url": server.url, "connect_timeout_ms": 10_000, "operation_timeout_ms": 10_000}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API on TCP, for everything that a unix socket does not check."""
    folder = tmp_path_factory.mktemp("api")
    write_files(folder)
    port = free_port()
    with Running(folder, {"authz": settings(folder, f"127.0.0.1:{port}")}, program=SIDECARS) as running:
        running.wait_until_ready()
        yield Api(running, folder / "unused", port)


@pytest.fixture
def on_socket(tmp_path: Path) -> Iterator[Api]:
    write_files(tmp_path)
    sock = tmp_path / "sessions.sock"
    with Running(
        tmp_path, {"authz": settings(tmp_path, f"unix:{sock}?mode=0600")}, program=SIDECARS
    ) as running:
        running.wait_until_ready()
        yield Api(running, sock, 0)


class TestLife:
    def test_a_session_is_created_shown_and_revoked(self, on_socket: Api) -> None:
        client = on_socket.client()
        made = client.create("alice", scopes=["orders:read"], roles=["buyer"], claims={"sid": "s1"})
        assert made.id == hashlib.sha256(made.token.encode()).hexdigest()
        shown = client.show(made.token)
        assert shown is not None
        assert (shown.id, shown.subject, shown.ends_at) == (made.id, "alice", made.ends_at)
        assert (shown.scopes, shown.roles, shown.claims) == (["orders:read"], ["buyer"], {"sid": "s1"})
        assert client.revoke(made.token) is True
        assert client.revoke(made.token) is False
        assert client.show(made.token) is None

    def test_all_sessions_of_a_subject_end_together(self, on_socket: Api) -> None:
        client = on_socket.client()
        mine, also_mine, other = (client.create(name).token for name in ("alice", "alice", "bob"))
        assert on_socket.client("helpdesk").revoke_subject("alice") == 2
        assert [client.show(token) is None for token in (mine, also_mine, other)] == [True, True, False]

    def test_each_change_is_a_line_of_the_log_without_a_token(self, on_socket: Api) -> None:
        client = on_socket.client()
        made = client.create("alice", scopes=["orders:read"], claims={"email": "alice@example.com"})
        client.revoke(made.token)
        on_socket.client("helpdesk").revoke_subject("alice")
        [created] = on_socket.lines("session created")
        assert (created["client"], created["subject"], created["session"]) == ("shop", "alice", made.id)
        assert created["scopes"] == ["orders:read"]
        one, all_of_alice = on_socket.lines("sessions revoked", 2)
        assert (one["client"], one["session"], one["ended"]) == ("shop", made.id, 1)
        assert (all_of_alice["client"], all_of_alice["subject"], all_of_alice["ended"]) == (
            "helpdesk",
            "alice",
            0,
        )
        for secret in (made.token, SHOP, HELPDESK, "alice@example.com"):
            assert secret not in on_socket.running.stderr
        assert (on_socket.requests("shop", 201), on_socket.requests("helpdesk", 200)) == (1, 1)

    def test_a_full_store_is_told_apart_from_a_refusal(self, on_socket: Api) -> None:
        client = on_socket.client()
        for _ in range(3):
            client.create("alice")
        with pytest.raises(SessionsUnavailableError) as full:
            client.create("alice")
        assert full.value.status == 507

    @pytest.mark.redis
    def test_redis_that_is_away_is_503_and_comes_back(
        self, tmp_path: Path, redis_server: RedisServer
    ) -> None:
        write_files(tmp_path, "redis")
        section = settings(tmp_path, f"unix:{tmp_path}/sessions.sock")
        parts = {"authz": section, "redis": patient(redis_server)}
        with Running(tmp_path, parts, program=SIDECARS) as running:
            running.wait_until_ready()
            client = Api(running, tmp_path / "sessions.sock", 0).client()
            client.create("alice")
            redis_server.stop()
            with pytest.raises(SessionsUnavailableError) as away:
                client.create("alice")
            assert away.value.status == 503
            redis_server.start()

            def created() -> bool:
                try:
                    return bool(client.create("alice").token)
                except SessionsUnavailableError:
                    return False

            assert running.wait_until(created)


class TestPermission:
    @pytest.mark.parametrize(
        "authorization",
        ["", "Bearer", "Bearer ", f"Bearer {SHOP}x", f"Bearer {SHOP[:-1]}", f"Basic {SHOP}", "Bearer é"],
    )
    def test_without_a_token_of_a_client_nothing_is_answered(self, api: Api, authorization: str) -> None:
        for path in ("/v1/sessions", "/v1/sessions/show", "/v1/sessions/revoke", "/v1/nothing", "/metrics"):
            status, answer = api.post({"subject": "alice"}, path, Authorization=authorization)
            assert (status, answer["headers"]["WWW-Authenticate"]) == (401, "Bearer"), path
        assert (api.requests(UNKNOWN_CLIENT, 401) or 0) >= 5

    def test_a_unix_socket_needs_the_token_too(self, on_socket: Api) -> None:
        (on_socket.socket.parent / "thief.token").write_text("c" * 40)
        with pytest.raises(SessionsError) as refused:
            on_socket.client("thief").create("alice")
        assert refused.value.status == 401
        assert not isinstance(refused.value, SessionsUnavailableError)

    def test_a_client_may_do_only_what_its_settings_list(self, api: Api) -> None:
        desk = f"Bearer {HELPDESK}"
        for path, body in (
            ("/v1/sessions", {"subject": "alice"}),
            ("/v1/sessions/show", {"token": "t" * 43}),
            ("/v1/sessions/revoke", {"token": "t" * 43}),
        ):
            status, answer = api.post(body, path, Authorization=desk)
            assert (status, answer["error"]) == (403, "forbidden"), path
        assert api.post({"subject": "a"}, "/v1/sessions/revoke", Authorization=desk)[0] == 200

    def test_a_client_grants_only_the_scopes_and_roles_that_it_may(self, api: Api) -> None:
        status, answer = api.post({"subject": "alice", "scopes": ["orders:read", "orders:write"]})
        assert (status, answer["error"]) == (403, "forbidden")
        assert "['orders:write']" in answer["error_description"]
        assert "orders:write" not in str(
            [line for line in api.running.log if line["event"] == "session created"]
        )

    @pytest.mark.parametrize("name", ["Origin", "Sec-Fetch-Site"])
    def test_a_browser_is_refused_even_with_a_token(self, api: Api, name: str) -> None:
        assert api.post({"subject": "alice"}, **{name: "https://evil.example"})[0] == 403

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("rebound.example", 421),
            ("localhost.example:80", 421),
            ("[::1", 421),
            ("127.0.0.1", 404),
            ("localhost:1", 404),
            ("Sessions.Internal.", 404),
        ],
    )
    def test_a_request_names_this_server(self, api: Api, host: str, status: int) -> None:
        assert api.post({"token": "t" * 43}, "/v1/sessions/show", Host=host)[0] == status

    def test_a_token_is_replaced_without_a_restart(self, on_socket: Api) -> None:
        file = on_socket.socket.parent / "shop.token"
        old, new = on_socket.client("old"), on_socket.client("new")
        (file.parent / "old.token").write_text(SHOP)
        (file.parent / "new.token").write_text("n" * 32)
        file.write_text("n" * 32 + f"\n{SHOP}\n")
        assert old.show("t" * 43) is None
        assert new.show("t" * 43) is None
        file.write_text("n" * 32)
        assert new.show("t" * 43) is None
        with pytest.raises(SessionsError):
            old.show("t" * 43)

    @pytest.mark.parametrize(
        "content", ["", "short", f"{SHOP}\nshort", "\n".join("abcdef"[n] * 40 for n in range(5))]
    )
    def test_an_unsuitable_token_file_refuses_its_client_only(self, on_socket: Api, content: str) -> None:
        (on_socket.socket.parent / "shop.token").write_text(content)
        (on_socket.socket.parent / "mine.token").write_text(SHOP)
        with pytest.raises(SessionsError) as refused:
            on_socket.client("mine").show("t" * 43)
        assert refused.value.status == 401
        assert on_socket.client("helpdesk").revoke_subject("alice") == 0
        assert any(
            "token_file" in line["problem"] for line in on_socket.lines("sessions api refused a request")
        )


class TestRequests:
    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/v1/sessions", {}),
            ("/v1/sessions", {"subject": ""}),
            ("/v1/sessions", {"subject": 7}),
            ("/v1/sessions", {"subject": "a\nb"}),
            ("/v1/sessions", {"subject": "a" * 1025}),
            ("/v1/sessions", {"subject": "a", "scope": ["orders:read"]}),
            ("/v1/sessions", {"subject": "a", "scopes": "orders:read"}),
            ("/v1/sessions", {"subject": "a", "roles": ["r"] * 257}),
            ("/v1/sessions", {"subject": "a", "claims": []}),
            ("/v1/sessions", {"subject": "a", "claims": {"big": "x" * 65_400}}),
            ("/v1/sessions", []),
            ("/v1/sessions", b"{"),
            ("/v1/sessions/show", {}),
            ("/v1/sessions/show", {"subject": "alice"}),
            ("/v1/sessions/show", {"id": "A" * 64}),
            ("/v1/sessions/show", {"id": "a", "token": "b"}),
            ("/v1/sessions/revoke", {}),
            ("/v1/sessions/revoke", {"subject": ""}),
            ("/v1/sessions/revoke", {"before": "now"}),
            ("/v1/sessions/revoke", {"token": None}),
        ],
    )
    def test_what_makes_no_sense_is_a_400(self, api: Api, path: str, body: Any) -> None:
        status, answer = api.post(body, path)
        assert (status, answer["error"]) == (400, "bad_request")

    def test_only_json_is_read(self, api: Api) -> None:
        for content_type in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data"):
            assert api.post(b'{"subject": "a"}', Content_Type=content_type)[0] == 415

    def test_a_large_body_is_refused_before_it_is_read_whole(self, api: Api) -> None:
        assert api.post(b" " * 70_000)[0] == 413

    def test_other_paths_and_methods_do_not_exist(self, api: Api) -> None:
        assert api.post({}, "/authz/sessions")[0] == 404
        assert api.post({}, "/v1/sessions", "GET")[0] == 405

    def test_a_session_is_named_by_its_id_too(self, api: Api) -> None:
        made = api.post({"subject": "carol"})[1]
        assert api.post({"id": made["id"]}, "/v1/sessions/show")[1]["subject"] == "carol"
        assert api.post({"id": made["id"]}, "/v1/sessions/revoke")[1]["revoked"] == 1

    def test_no_answer_is_cached(self, api: Api) -> None:
        for body in ({"subject": "dave"}, {"subject": ""}):
            assert api.post(body)[1]["headers"]["Cache-Control"] == "no-store"
        api.post({"subject": "dave"}, "/v1/sessions/revoke")


def test_a_client_that_asks_too_often_is_slowed_down(tmp_path: Path) -> None:
    write_files(tmp_path)
    port = free_port()
    section = settings(tmp_path, f"127.0.0.1:{port}")
    section["sessions_api"]["clients"][0]["requests_per_second"] = 1
    with Running(tmp_path, {"authz": section}, program=SIDECARS) as running:
        api = Api(running.wait_until_ready(), tmp_path / "unused", port)
        show: Callable[[], tuple[int, Any]] = lambda: api.post({"token": "t" * 43}, "/v1/sessions/show")  # noqa: E731
        refused = running.wait_until(lambda: next((one for one in [show(), show()] if one[0] == 429), None))
        assert refused[1]["headers"]["Retry-After"] == "1"
        desk = f"Bearer {HELPDESK}"  # another client is not affected
        assert api.post({"subject": "a"}, "/v1/sessions/revoke", Authorization=desk)[0] == 200


@pytest.mark.redis
def test_each_worker_answers_and_all_share_redis(tmp_path: Path, shared_redis: RedisServer) -> None:
    write_files(tmp_path, "redis")
    section = settings(tmp_path, f"unix:{tmp_path}/sessions.{{worker}}.sock")
    section["listen"] = [f"unix:{tmp_path}/authz.{{worker}}.sock"]
    parts = {"authz": section, "redis": patient(shared_redis), "workers": 2}
    with Running(tmp_path, parts, program=SIDECARS) as running:
        running.wait_until_ready()
        first, second = (Api(running, tmp_path / f"sessions.{n}.sock", 0).client() for n in (0, 1))
        token = first.create("alice").token
        assert second.show(token) is not None
        assert second.revoke(token) is True
        assert first.show(token) is None


def test_without_the_section_there_is_no_such_address(tmp_path: Path) -> None:
    write_files(tmp_path)
    section = settings(tmp_path, "127.0.0.1:1")
    del section["sessions_api"]
    with Running(tmp_path, {"authz": section}, program=SIDECARS) as running:
        running.wait_until_ready()
        with socket.socket() as probe:
            assert running.get("/v1/sessions", "")[0] == 404
            assert probe.connect_ex(("127.0.0.1", 1)) != 0
