"""The overview names what does not work."""

from pathlib import Path
from typing import Any

import pytest

from sidecars.console.problems import troubles_in
from tests.support.console import Suite

FINE: dict[str, Any] = {
    "redis": {"state": "connected", "misfits": []},
    "sidecars": {
        "authz": {
            "last_reload": None,
            "state": {"credentials": {"issuers": [{"issuer": "https://idp", "jwks": {"problem": None}}]}},
        },
        "accesslog": {"last_reload": {"ok": True}, "state": {"sinks": [{"name": "file", "failing": False}]}},
    },
}


def test_a_suite_that_works_has_none() -> None:
    assert troubles_in([("", FINE)], {}) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"redis": {"state": "away", "last_error": "refused"}}, "redis: away: refused"),
        ({"redis": {"nodes": {"a:1": {"state": "away", "last_error": "x"}}}}, "redis: away: x"),
        ({"redis": {"state": "connected", "misfits": ["it evicts keys"]}}, "redis: it evicts keys"),
        ({"redis": {"cluster_problem": "no node answers"}}, "redis: no node answers"),
    ],
)
def test_each_state_of_redis_is_named(change: dict[str, Any], text: str) -> None:
    assert [one.text for one in troubles_in([("", {**FINE, **change})], {})] == [text]


def test_key_sets_sinks_reloads_workers_and_losses_are_named() -> None:
    issuers = [{"issuer": "https://idp", "jwks": {"problem": "unreachable"}}]
    state = {"sinks": [{"name": "file", "failing": True}], "entries_missing": 1234}
    broken = {
        "sidecars": {
            "authz": {"last_reload": {"ok": False}, "state": {"credentials": {"issuers": issuers}}},
            "accesslog": {"last_reload": None, "state": state},
        }
    }
    totals = {"sums": {"sidecars": {"accesslog": {"reasons": {"disk_full": 7}}}}}
    assert [one.text for one in troubles_in([("0", broken), ("1", broken), ("2", None)], totals)] == [
        "authz: the files on disk were refused; the last good ones serve",
        "key set of https://idp: unreachable",
        "accesslog: the sink file cannot write",
        "accesslog: 1,234 entries that Envoy sent did not arrive",
        "worker 2 does not answer, or starts again and again",
        "access log entries were lost since the start: disk full 7",
    ]


def test_a_key_server_that_is_dead_is_on_the_overview(tmp_path: Path) -> None:
    suite = Suite(tmp_path)
    policy = tmp_path / "policy.yaml"
    issuer = """credentials:
  issuers:
    - issuer: https://idp.example
      audiences: [a]
      algorithms: [RS256]
      max_lifetime_seconds: 3600
      jwks: {url: "http://127.0.0.1:9/keys", allow_http: true}
"""
    policy.write_text(policy.read_text().replace("credentials:\n", issuer, 1))
    with suite.running as running:
        running.wait_until_ready()
        running.wait_until(lambda: "key set of https://idp.example" in suite.page().text)
