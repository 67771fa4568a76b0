"""One YAML file and SIDECARS_* variables become Settings, or a list of everything wrong with them."""

from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from common.configfile import ConfigError
from sidecars.settings.load import load_settings, read_settings
from sidecars.settings.redis import RedisSettings
from sidecars.settings.root import Settings
from sidecars.transport.api.address import TcpAddress, UnixAddress

AUTHZ = "authz: {listen: ['unix:/run/a.sock'], policy: [policy.yaml]}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sidecars.yaml"


def problems(file: Path, text: str, **environ: str) -> list[str]:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(file, environ)
    return str(caught.value).replace(f"{file}:", "").splitlines()


def test_an_empty_file_has_defaults_and_no_sidecar(file: Path) -> None:
    file.write_text("")
    settings = load_settings(file, {})
    assert settings.admin.listen == TcpAddress("127.0.0.1", 9090)
    assert settings.transport == "native"
    assert (settings.redis, settings.authz, settings.ratelimit, settings.accesslog) == (None,) * 4


def test_a_relative_path_is_meant_from_the_folder_of_the_file(file: Path) -> None:
    file.write_text(AUTHZ)
    settings = load_settings(file, {})
    assert settings.authz is not None
    assert settings.authz.policy == (file.parent / "policy.yaml",)
    assert settings.authz.listen == (UnixAddress("/run/a.sock"),)


def test_settings_are_frozen(file: Path) -> None:
    file.write_text("")
    settings = load_settings(file, {})
    with pytest.raises(ValidationError, match="frozen"):
        settings.transport = "grpcio"  # type: ignore[misc]


def test_a_variable_wins_over_the_file(file: Path) -> None:
    file.write_text("admin: {listen: '127.0.0.1:1', port_file: p}\nlog: {level: error}\n")
    settings = load_settings(file, {"SIDECARS_ADMIN__LISTEN": "127.0.0.1:2", "SIDECARS_TRANSPORT": "grpcio"})
    assert settings.admin.listen == TcpAddress("127.0.0.1", 2)
    assert settings.admin.port_file == file.parent / "p"
    assert settings.log.level == "error"
    assert settings.transport == "grpcio"


def test_a_section_may_be_in_the_environment_alone(file: Path) -> None:
    file.write_text("")
    environ = {"SIDECARS_REDIS__URL": "redis://r:1/0", "SIDECARS_REDIS__MAX_CONNECTIONS": "7"}
    redis = load_settings(file, environ).redis
    assert redis is not None
    assert redis.max_connections == 7


def test_a_list_or_mapping_in_a_variable_is_json(file: Path) -> None:
    file.write_text(AUTHZ)
    environ = {
        "SIDECARS_AUTHZ__LISTEN": '["127.0.0.1:5"]',
        "SIDECARS_REDIS": '{"url": "redis://r:1/0"}',
    }
    settings = load_settings(file, environ)
    assert settings.authz is not None
    assert settings.authz.listen == (TcpAddress("127.0.0.1", 5),)
    assert settings.redis is not None


def test_the_environment_of_the_process_is_not_looked_at(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECARS_LOG__LEVEL", "debug")
    file.write_text("")
    assert load_settings(file, {}).log.level == "info"


def test_every_problem_of_file_and_environment_is_found_and_says_where(file: Path) -> None:
    text = "admin:\n  listen: nonsense\nredis: {}\nlog: {levle: info}\n"
    environ = {
        "SIDECARS_LOG__FORMAT": "xml",
        "SIDECARS_AUTHZ__LISTEN": "unix:/x",
        "SIDECARS_ADMIN_LISTEN": "127.0.0.1:1",
        "SIDECARS_DRAIN__GRAEC_SECONDS": "1",
    }
    assert problems(file, text, **environ) == [
        "2: admin.listen: 'nonsense': expected HOST:PORT (0-65535), unix:PATH or unix:@NAME",
        "3: redis.url: is required",
        "4: log.levle: unknown key; did you mean 'level'?",
        "SIDECARS_ADMIN_LISTEN: no such setting; keys are joined by two underscores",
        'SIDECARS_AUTHZ__LISTEN: is not JSON: a list or mapping is written as ["a", "b"] or {"key": 1}',
        "SIDECARS_DRAIN__GRAEC_SECONDS: drain.graec_seconds: unknown key; did you mean 'grace_seconds'?",
        "SIDECARS_LOG__FORMAT: log.format: expected json or console, not 'xml'",
    ]


def test_a_file_that_cannot_be_read_does_not_hide_a_bad_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path / "none.yaml", {"SIDECARS_NONSENSE": "1"})
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("name", ["SIDECARS_SERVICE_HOST", "SIDECARS_PORT", "SIDECARS_PORT_9001_TCP_ADDR"])
def test_what_kubernetes_says_of_a_service_named_sidecars_is_not_a_setting(file: Path, name: str) -> None:
    file.write_text("")
    load_settings(file, {name: "10.0.0.1", "SIDECARS": "x", "PATH": "/bin"})


def test_sections_without_a_problem_can_be_used_beside_bad_ones(file: Path) -> None:
    file.write_text(AUTHZ + "log: {level: loud}\n")
    reading = read_settings(file, {})
    assert len(reading.problems) == 1
    assert reading.settings is not None
    assert reading.settings.authz is not None
    assert reading.settings.log.level == "info"


def test_nothing_can_be_used_of_a_file_that_is_not_a_mapping(file: Path) -> None:
    file.write_text("- authz\n")
    reading = read_settings(file, {})
    assert reading.settings is None
    assert [problem.message for problem in reading.problems] == ["expected keys and values, not a list"]


@pytest.mark.parametrize(
    "url",
    [
        "redis://r",
        "redis://r:1/3",
        "redis://u:p@r:1",
        "rediss://r:1/0",
        "unix:///run/r.sock",
        "unix:///r?db=2",
    ],
)
def test_a_redis_url_is_tcp_tls_or_a_unix_socket(url: str) -> None:
    assert RedisSettings(url=url).url == url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://r", "expected redis://"),
        ("redis://", "expected a host"),
        ("unix://", "expected a path"),
        ("redis://r:port", "a port up to 65535"),
        ("redis://[::1", "a port up to 65535"),
        ("unix://run/redis.sock", "three slashes before the path"),
        ("redis://r/zero", "expected a database number"),
        ("unix:///r?db=-1", "expected a database number"),
        ("redis://r?socket_timeout=100", "unknown parameter 'socket_timeout'"),
    ],
)
def test_a_bad_redis_url_is_refused_without_being_shown(url: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RedisSettings(url=url)


def test_a_password_in_a_redis_url_is_in_no_error_and_no_repr(file: Path) -> None:
    (problem,) = problems(file, "redis: {url: 'redis://u:hunter2@r/zero'}")
    assert "hunter2" not in problem
    assert "hunter2" not in repr(RedisSettings(url="redis://u:hunter2@r"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("username: u", "username needs password_file"),
        ("backoff_min_ms: 500, backoff_max_ms: 100", "backoff_max_ms must not be less"),
        ("cert_file: c", "cert_file and key_file belong together"),
        ("ca_file: c", "ca_file and cert_file are for TLS"),
        ("operation_timeout_ms: 0", "at least 1"),
    ],
)
def test_redis_settings_that_contradict_are_refused(file: Path, more: str, message: str) -> None:
    (problem,) = problems(file, f"redis: {{url: 'redis://r', {more}}}")
    assert message in problem


def test_credentials_are_in_one_place(file: Path) -> None:
    (problem,) = problems(file, "redis: {url: 'redis://u:p@r', password_file: f}")
    assert "both hold credentials" in problem


def test_operations_end_well_before_envoy_gives_up() -> None:
    """Envoy's rate_limit_filter waits 20 ms by default."""
    assert RedisSettings(url="redis://r").operation_timeout_ms <= 10


def test_the_schema_accepts_what_loads_and_refuses_what_does_not(file: Path) -> None:
    schema = Settings.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    good = {"admin": {"listen": "unix:@admin"}, "authz": {"listen": ["unix:/a"], "policy": ["p"]}}
    jsonschema.validate(good, schema)
    every_bad: list[dict[str, object]] = [{"adnim": {}}, {"log": {"level": "loud"}}, {"authz": {}}]
    for bad in every_bad:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


@pytest.mark.parametrize(
    "text", ["redis: redis://:hunter2@h", "redis: {url: redis://:hunter2@h, ca_file: [1]}"]
)
def test_no_problem_repeats_a_password(file: Path, text: str) -> None:
    """They go to stderr, and from there into the logs of whatever started the process."""
    assert "hunter2" not in "".join(problems(file, text))


def test_a_password_in_a_variable_is_not_repeated_either(file: Path) -> None:
    assert "hunter2" not in "".join(problems(file, "", SIDECARS_REDIS='"redis://:hunter2@h"'))
