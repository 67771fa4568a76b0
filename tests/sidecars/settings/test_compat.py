"""The environment of envoyproxy/ratelimit as settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecars.settings.compat.read import read_compat_environment
from sidecars.settings.compat.table import VARIABLES, Absent, NoEffect, Sets
from sidecars.settings.compat.values import boolean, integer, number, seconds
from sidecars.settings.load import read_compat
from sidecars.settings.root import Settings

MIGRATING = (Path(__file__).parents[3] / "docs" / "migrating.md").read_text(encoding="utf-8")
NEEDED = {"RUNTIME_ROOT": "/srv", "RUNTIME_SUBDIRECTORY": "rl"}


def made(**environ: str) -> Settings:
    reading, _ = read_compat({**NEEDED, **environ})
    assert reading.problems == ()
    assert reading.settings is not None
    return reading.settings


def problems(**environ: str) -> list[str]:
    reading, _ = read_compat({**NEEDED, **environ})
    return list(map(str, reading.problems))


def at(settings: Settings, path: str) -> Any:
    found: Any = settings.model_dump(mode="json")
    for key in path.split("."):
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found


def test_every_variable_is_in_the_table() -> None:
    """settings.go of f2fb157 has 114."""
    assert len(VARIABLES) == 114


def test_the_page_has_the_whole_table() -> None:
    rows = [f"| `{one.name}` | {one.use.here} |" for one in VARIABLES.values()]
    assert [row for row in rows if row not in MIGRATING.splitlines()] == []


def test_without_any_but_the_needed_ones_it_does_what_theirs_does() -> None:
    settings = made()
    for path, value in {
        "ratelimit.listen.0": "0.0.0.0:8081",
        "ratelimit.http": "0.0.0.0:8080",
        "ratelimit.limits.0": "/srv/rl/config",
        "ratelimit.folder_files": "all",
        "ratelimit.algorithm": "fixed_window",
        "ratelimit.store": "redis",
        "ratelimit.metrics": "envoyproxy",
        "ratelimit.redis_prefix": "",
        "ratelimit.dynamic_metadata": "off",
        "ratelimit.headers.enabled": False,
        "ratelimit.headers.retry_after": False,
        "admin.listen": "0.0.0.0:6070",
        "admin.also_listen": [],
        "log": {"format": "console", "level": "warning"},
        "redis.url": "unix:///var/run/nutcracker/ratelimit.sock?db=0",
        "redis.max_connections": 10,
        "redis.operation_timeout_ms": 10,
        "connections.lifetime.max_age_seconds": 86_400,
        "connections.lifetime.max_age_grace_seconds": 3_600,
    }.items():
        assert (path, at(settings, path)) == (path, value)


SENTINEL = {
    "REDIS_TYPE": "SENTINEL",
    "REDIS_URL": "MyMaster,a:1,b:2",
    "REDIS_TLS": "true",
    "REDIS_AUTH": "u:p",
    "REDIS_SENTINEL_AUTH": "s",
}
SECOND_SENTINEL = {
    "REDIS_PERSECOND": "true",
    "REDIS_PERSECOND_TYPE": "SENTINEL",
    "REDIS_PERSECOND_URL": "m,a:1",
}


@pytest.mark.parametrize(
    ("environ", "path", "value"),
    [
        ({"GRPC_UDS": "/run/rl.sock"}, "ratelimit.listen.0", "unix:/run/rl.sock"),
        ({"GRPC_HOST": "::1", "GRPC_PORT": "9"}, "ratelimit.listen.0", "[::1]:9"),
        ({"GRPC_HOST": ""}, "ratelimit.listen.0", "0.0.0.0:8081"),
        (
            {
                "GRPC_SERVER_USE_TLS": "true",
                "GRPC_SERVER_TLS_CERT": "/c",
                "GRPC_SERVER_TLS_KEY": "/k",
                "GRPC_CLIENT_TLS_CACERT": "/a",
            },
            "ratelimit.listen.0.tls.client_ca_file",
            "/a",
        ),
        ({"GRPC_MAX_CONNECTION_AGE": "0"}, "connections.lifetime.max_age_seconds", None),
        ({"GRPC_MAX_CONNECTION_AGE": "1h30m"}, "connections.lifetime.max_age_seconds", 5_400),
        ({"GRPC_MAX_CONNECTION_AGE_GRACE": "0"}, "connections.lifetime.max_age_grace_seconds", 86_400),
        ({"HOST": "127.0.0.1", "PORT": "81"}, "ratelimit.http", "127.0.0.1:81"),
        ({"DEBUG_HOST": "127.0.0.1", "DEBUG_PORT": "82"}, "admin.listen", "127.0.0.1:82"),
        ({"USE_PROMETHEUS": "true"}, "admin.also_listen.0", "0.0.0.0:9090"),
        ({"USE_PROMETHEUS": "1", "PROMETHEUS_ADDR": "[::1]:7"}, "admin.also_listen.0", "[::1]:7"),
        ({"LOG_LEVEL": "Trace"}, "log.level", "debug"),
        ({"LOG_FORMAT": "json"}, "log.format", "json"),
        ({"RUNTIME_APPDIRECTORY": "limits"}, "ratelimit.limits.0", "/srv/rl/limits"),
        (
            {"RUNTIME_WATCH_ROOT": "false", "RUNTIME_SUBDIRECTORY": ""},
            "ratelimit.limits.0",
            "/srv/config",
        ),
        ({"RUNTIME_IGNOREDOTFILES": "true"}, "ratelimit.folder_files", "visible"),
        ({"CONFIG_TYPE": "GRPC_XDS_SOTW"}, "ratelimit.limits", []),
        ({"CONFIG_TYPE": "GRPC_XDS_SOTW"}, "ratelimit.xds.server", "localhost:18000"),
        ({"CONFIG_TYPE": "GRPC_XDS_SOTW"}, "ratelimit.xds.backoff_min_seconds", 10),
        ({"CONFIG_TYPE": "GRPC_XDS_SOTW"}, "ratelimit.xds.tls", None),
        (
            {"CONFIG_TYPE": "GRPC_XDS_SOTW", "CONFIG_GRPC_XDS_SERVER_URL": "dns:///c:1"},
            "ratelimit.xds.server",
            "c:1",
        ),
        (
            {"CONFIG_TYPE": "GRPC_XDS_SOTW", "CONFIG_GRPC_XDS_NODE_METADATA": '{"zone": "a"}'},
            "ratelimit.xds.metadata",
            {"zone": "a"},
        ),
        (
            {
                "CONFIG_TYPE": "GRPC_XDS_SOTW",
                "CONFIG_GRPC_XDS_SERVER_USE_TLS": "true",
                "CONFIG_GRPC_XDS_SERVER_TLS_SAN": "control-plane",
            },
            "ratelimit.xds.tls.server_name",
            "control-plane",
        ),
        (
            {"CONFIG_TYPE": "GRPC_XDS_SOTW", "XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES": "5000000"},
            "ratelimit.xds.max_message_bytes",
            5_000_000,
        ),
        ({"RESPONSE_DYNAMIC_METADATA": "true"}, "ratelimit.dynamic_metadata", "full"),
        ({"REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": "r:1"}, "redis.url", "redis://r:1/0"),
        (
            {"REDIS_SOCKET_TYPE": "TCP", "REDIS_URL": "r:1", "REDIS_TLS": "true", "REDIS_AUTH": "a:b/@"},
            "redis.url",
            "rediss://a:b%2F%40@r:1/0",
        ),
        ({"REDIS_URL": "/s", "REDIS_AUTH": "p"}, "redis.url", "unix://:p@/s?db=0"),
        ({"REDIS_URL": "redis://u:p@r:1/3"}, "redis.url", "redis://u:p@r:1/3"),
        ({"REDIS_URL": "redis://r:1", "REDIS_AUTH": "p"}, "redis.url", "redis://:p@r:1/0"),
        ({"REDIS_TIMEOUT": "50ms"}, "redis.operation_timeout_ms", 50),
        ({"REDIS_URL": "rediss://r:1/3"}, "redis.url", "rediss://r:1/3"),
        ({"REDIS_TIMEOUT": "10s"}, "redis.operation_timeout_ms", 10_000),
        ({"REDIS_TIMEOUT": "50ms"}, "ratelimit.redis_timeout_ms", 50),
        ({"REDIS_PERSECOND_URL": "/p"}, "redis_per_second", None),
        (
            {"REDIS_PERSECOND": "true", "REDIS_PERSECOND_URL": "/p", "REDIS_PERSECOND_AUTH": "x"},
            "redis_per_second.url",
            "unix://:x@/p?db=0",
        ),
        (
            {"REDIS_PERSECOND": "true", "REDIS_PERSECOND_TIMEOUT": "5ms"},
            "redis_per_second.operation_timeout_ms",
            5,
        ),
        (
            {"REDIS_PERSECOND": "true", "REDIS_PERSECOND_POOL_SIZE": "7"},
            "redis_per_second.max_connections",
            7,
        ),
        (
            {
                "REDIS_PERSECOND": "true",
                "REDIS_PERSECOND_SOCKET_TYPE": "tcp",
                "REDIS_PERSECOND_URL": "r:1",
                "REDIS_PERSECOND_TLS": "true",
                "REDIS_TLS_CACERT": "/ca",
            },
            "redis_per_second.ca_file",
            "/ca",
        ),
        ({"REDIS_POOL_SIZE": "1"}, "redis.max_connections", 4),
        (SENTINEL, "redis.url", "rediss://u:p@MyMaster/0"),
        (SENTINEL, "redis.sentinel.urls", ["rediss://:s@a:1", "rediss://:s@b:2"]),
        (
            {"REDIS_TYPE": "cluster", "REDIS_URL": "a:1,b:2,c:3", "REDIS_AUTH": "p"},
            "redis.url",
            "redis://:p@a:1/0",
        ),
        ({"REDIS_TYPE": "cluster", "REDIS_URL": "a:1,b:2,c:3"}, "redis.cluster.nodes", ["b:2", "c:3"]),
        ({"REDIS_TYPE": "cluster", "REDIS_URL": "a:1"}, "redis.cluster.nodes", []),
        (SECOND_SENTINEL, "redis_per_second.sentinel.urls", ["redis://a:1"]),
        ({"SIDECARS_RATELIMIT__ALGORITHM": "token_bucket"}, "ratelimit.algorithm", "token_bucket"),
        ({"SIDECARS_WORKERS": "2", "PORT": "8180"}, "workers", 2),
    ],
)
def test_what_becomes_of_a_variable(environ: dict[str, str], path: str, value: Any) -> None:
    if environ.get("REDIS_URL", "").startswith("redis"):
        environ = {"REDIS_SOCKET_TYPE": "tcp", **environ}
    assert at(made(**environ), path) == value


SPELLED: dict[Callable[[str], Any], str] = {boolean: "true", integer: "7", number: "0.5", seconds: "7s"}


@pytest.mark.parametrize("name", [one.name for one in VARIABLES.values() if isinstance(one.use, Sets)])
def test_each_variable_that_is_a_setting_reaches_it(name: str) -> None:
    variable = VARIABLES[name]
    assert isinstance(variable.use, Sets)
    path = ".".join(variable.use.path)
    changed = made(**{name: SPELLED.get(variable.read, "X-Other")})
    assert at(changed, path) != at(made(), path)


@pytest.mark.parametrize("name", [one.name for one in VARIABLES.values() if isinstance(one.use, Absent)])
def test_what_is_absent_stops_the_start_with_the_reason(name: str) -> None:
    variable = VARIABLES[name]
    assert isinstance(variable.use, Absent)
    switch = dict.fromkeys(variable.switches, "true")
    found = problems(**{**switch, name: SPELLED.get(variable.read, "other")})
    assert f"{name}: {variable.use.reason}" in found


@pytest.mark.parametrize("name", [one.name for one in VARIABLES.values() if isinstance(one.use, NoEffect)])
def test_what_has_no_effect_is_told(name: str) -> None:
    variable = VARIABLES[name]
    value = SPELLED.get(variable.read, "x")
    found = read_compat_environment({**NEEDED, name: value}).without_effect
    [switch] = variable.switches or [""]
    assert found == {name: f"only with {switch}=true" if switch else variable.use.here[11:]}


def test_absent_things_that_are_turned_off_are_accepted() -> None:
    _, without_effect = read_compat(
        {**NEEDED, "USE_STATSD": "false", "STATSD_HOST": "x", "TRACING_ENABLED": "false"}
    )
    assert without_effect == {"STATSD_HOST": "only with USE_STATSD=true"}


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"PORT": "http"}, "PORT: expected a whole number, not 'http'"),
        ({"PORT": "70000"}, "PORT: ratelimit.http: '0.0.0.0:70000': expected HOST:PORT (0-65535)"),
        ({"SHADOW_MODE": "yes"}, "SHADOW_MODE: expected true or false, not 'yes'"),
        ({"REDIS_TIMEOUT": "10"}, "REDIS_TIMEOUT: expected a duration, as in 10s, 1h30m or 150us, not '10'"),
        ({"REDIS_TIMEOUT": "0"}, "REDIS_TIMEOUT: ratelimit.redis_timeout_ms: expected more than 0"),
        ({"NEAR_LIMIT_RATIO": "8"}, "NEAR_LIMIT_RATIO: ratelimit.near_limit_ratio: expected at most 1"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL: expected one of panic, fatal, error,"),
        ({"RUNTIME_SUBDIRECTORY": ""}, "RUNTIME_SUBDIRECTORY: is required"),
        ({"REDIS_SOCKET_TYPE": "udp"}, "REDIS_SOCKET_TYPE: expected tcp or unix"),
        ({"CONFIG_TYPE": "ETCD"}, "CONFIG_TYPE: expected FILE or GRPC_XDS_SOTW"),
        (
            {"CONFIG_TYPE": "GRPC_XDS_SOTW", "CONFIG_GRPC_XDS_SERVER_URL": "c"},
            "CONFIG_GRPC_XDS_SERVER_URL: ratelimit.xds.server: expected HOST:PORT",
        ),
        (
            {"CONFIG_TYPE": "GRPC_XDS_SOTW", "CONFIG_GRPC_XDS_NODE_METADATA": "zone"},
            "CONFIG_GRPC_XDS_NODE_METADATA: expected a JSON object",
        ),
        (
            {"CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS": "a:b"},
            "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS: put NAME: VALUE lines into a file",
        ),
        (
            {"REDIS_URL": "r:6379"},
            "REDIS_URL: r:6379 is not the path of a socket; for a host and port set REDIS_SOCKET_TYPE=tcp",
        ),
        ({"REDIS_TYPE": "ring"}, "REDIS_TYPE: expected SINGLE, SENTINEL or CLUSTER"),
        ({"REDIS_TYPE": "SENTINEL", "REDIS_URL": "m"}, "REDIS_URL: expected MASTER,HOST:PORT,..."),
        ({"REDIS_TYPE": "CLUSTER", "REDIS_URL": "a:1,,b:2"}, "REDIS_URL: expected HOST:PORT,..."),
        (
            {"REDIS_TYPE": "CLUSTER", "REDIS_URL": "a:1,b"},
            "REDIS_URL: redis.cluster.nodes[0]: expected HOST:PORT",
        ),
        ({"REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": "r:x"}, "REDIS_URL: redis.url: expected redis://"),
        ({"SIDECARS_RATELIMIT__STORE": "disk"}, "SIDECARS_RATELIMIT__STORE: ratelimit.store: expected"),
    ],
)
def test_a_wrong_value_is_named_by_its_variable(environ: dict[str, str], problem: str) -> None:
    assert any(found.startswith(problem) for found in problems(**environ)), problems(**environ)


def test_several_problems_are_all_told_and_nothing_else() -> None:
    found = problems(RUNTIME_SUBDIRECTORY="", REDIS_TYPE="ring", LOG_LEVEL="loud")
    assert [problem.partition(":")[0] for problem in found] == [
        "LOG_LEVEL",
        "REDIS_TYPE",
        "RUNTIME_SUBDIRECTORY",
    ]


def test_a_password_is_in_no_problem() -> None:
    assert "hunter2" not in "".join(
        problems(REDIS_SOCKET_TYPE="tcp", REDIS_URL="r:99999", REDIS_AUTH="u:hunter2")
    )


@pytest.mark.parametrize("value", ["t", "TRUE", "1", "f", "False", "0"])
def test_booleans_are_those_of_go(value: str) -> None:
    assert boolean(value) is (value in {"t", "TRUE", "1"})


@pytest.mark.parametrize(
    ("value", "found"), [("150us", 0.00015), ("1h30m5.5s", 5405.5), ("0", 0), (".5s", 0.5), ("-2ms", -0.002)]
)
def test_durations_are_those_of_go(value: str, found: float) -> None:
    assert seconds(value) == pytest.approx(found)


@pytest.mark.parametrize("value", ["", "5", "1d", "s", "5 s", "1.2.3s", "\u0661s"])
def test_what_is_not_a_duration(value: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        seconds(value)
