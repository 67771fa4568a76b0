"""The section `authz.sessions_api`: what is refused before anything is served."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from common.configfile import ConfigError
from sidecars.settings.per_worker import for_worker, validate_for_workers
from sidecars.settings.root import Settings
from sidecars.settings.sessions_api import SessionsApiClient, SessionsApiSettings
from tests.support.authz_sidecar import Built
from tests.support.command import Command

CLIENT: dict[str, Any] = {"name": "shop", "token_file": "shop.token", "may": ["create"]}
API: dict[str, Any] = {"listen": "unix:/run/sessions.sock", "clients": [CLIENT]}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"listen": "0.0.0.0:9091"}, "reachable from other machines"),
        ({"listen": "10.0.0.1:9091"}, "reachable from other machines"),
        ({"listen": "edge.example:9091"}, "reachable from other machines"),
        ({"clients": []}, "at least 1 item"),
        ({"clients": [CLIENT, CLIENT]}, "two have the same name"),
        ({"clients": [CLIENT | {"may": []}]}, "at least 1 item"),
        ({"clients": [{name: CLIENT[name] for name in ("name", "token_file")}]}, "may"),
        ({"clients": [CLIENT | {"may": ["list"]}]}, "may"),
        ({"clients": [CLIENT | {"name": "(unknown)"}]}, "name"),
        ({"clients": [CLIENT | {"scopes": "orders:read"}]}, "scopes"),
    ],
)
def test_what_would_be_unsafe_is_an_error(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        SessionsApiSettings.model_validate(API | change)


@pytest.mark.parametrize("listen", ["127.0.0.1:9091", "[::1]:9091", "localhost:9091", "unix:@sessions"])
def test_loopback_and_sockets_are_accepted(listen: str) -> None:
    assert str(SessionsApiSettings.model_validate(API | {"listen": listen}).listen) == listen


def test_nothing_is_granted_by_default() -> None:
    client = SessionsApiClient.model_validate(CLIENT)
    assert (client.scopes, client.roles) == ((), ())


def test_a_policy_without_sessions_is_an_error_at_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"credentials.sessions: is missing, and authz.sessions_api"):
        Built(tmp_path, sessions_api=API)


def test_a_reload_to_a_policy_without_sessions_is_refused(tmp_path: Path) -> None:
    policy = "credentials: {sessions: {}}\nrules: [{name: all, paths: [/], allow: anyone}]\n"
    built = Built(tmp_path, policy, sessions_api=API)
    built.file.write_text("rules: [{name: all, paths: [/], allow: anyone}]\n")
    with pytest.raises(ConfigError, match=r"sessions: is missing"):
        built.sidecar.prepare()


def test_each_worker_has_an_address_of_its_own() -> None:
    authz = {"listen": ["unix:/a.{worker}"], "policy": ["p.yaml"], "sessions_api": API}
    settings = Settings.model_validate({"authz": authz, "workers": 2})
    [(path, problem)] = validate_for_workers(settings)
    assert path == ("authz", "sessions_api", "listen")
    assert "a socket of its own: write /run/sessions.{worker}.sock" in problem
    authz["sessions_api"] = API | {"listen": "127.0.0.1:9100"}
    settings = Settings.model_validate({"authz": authz, "workers": 2})
    assert [*validate_for_workers(settings)] == []
    own = for_worker(settings, 1).authz
    assert own is not None
    assert own.sessions_api is not None
    assert str(own.sessions_api.listen) == "127.0.0.1:9101"


def test_a_token_file_that_cannot_be_used_is_found_by_config_check(tmp_path: Path, sidecars: Command) -> None:
    (tmp_path / "policy.yaml").write_text(
        "credentials: {sessions: {}}\nrules: [{name: all, paths: [/], allow: anyone}]\n"
    )
    file = tmp_path / "sidecars.yaml"
    file.write_text(
        f"authz:\n  listen: [unix:{tmp_path}/a]\n  policy: [policy.yaml]\n  sessions_api:\n"
        f"    listen: unix:{tmp_path}/s\n    clients:\n"
        "    - {name: shop, token_file: shop.token, may: [create]}\n"
    )
    missing = sidecars("config", "check", str(file))
    output = missing.out + missing.err
    assert missing.code == 1
    assert f"{file}:7: authz.sessions_api.clients[0].token_file: " in output
    (tmp_path / "shop.token").write_text("short")
    short = sidecars("config", "check", str(file))
    assert (short.code, "fewer than 32 characters" in short.out + short.err) == (1, True)
    (tmp_path / "shop.token").write_text("s" * 32)
    assert sidecars("config", "check", str(file)).code == 0
