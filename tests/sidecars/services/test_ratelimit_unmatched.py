"""What Envoy asks about that no limit is for is counted, logged and shown at `/config`, each bounded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from ratelimit.unmatched import LONGEST_LABEL
from sidecars.services.ratelimit import RatelimitSidecar, build
from sidecars.services.sidecar import Dependencies
from tests.support.ratelimiting import CALL, folder, request, settings_with

__all__ = ["folder"]

NOT_FOUND = "ratelimit_service_rate_limit_descriptor_not_found"


class Asked:
    """A sidecar with a clock that the test sets."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.now = 1000.0
        self.registry = CollectorRegistry()
        dependencies = Dependencies(
            self.registry, lambda: 1_790_000_000.0, lambda: self.now, lambda: 0.0, None
        )
        self.sidecar: RatelimitSidecar = build(settings_with(folder, **more), dependencies)

    def logged(self, *descriptors: Mapping[str, str], domain: str = "edge") -> list[dict[str, Any]]:
        with capture_logs() as logs:
            self.sidecar.should_rate_limit(request(*descriptors, domain=domain), CALL)
        return [dict(line) for line in logs]

    def count(self, **labels: str) -> float | None:
        return self.registry.get_sample_value(NOT_FOUND, labels)


@pytest.fixture
def asked(folder: Path) -> Asked:
    return Asked(folder)


def test_a_descriptor_without_a_limit_says_which_and_why(asked: Asked) -> None:
    [line] = asked.logged({"route": "logn", "user": "alice"})
    assert line["event"] == "descriptors without a limit"
    assert (line["log_level"], line["domain"], line["keys"], line["count"]) == (
        "warning",
        "edge",
        "route,user",
        1,
    )
    expected = "no descriptor with the key 'route' and the value 'logn' at level 1; there are route_login"
    assert line["reason"] == expected
    assert asked.count(domain="edge", keys="route,user") == 1


def test_an_unknown_domain_names_the_known_ones(asked: Asked) -> None:
    [line] = asked.logged({"route": "login"}, {"route": "x"}, domain="egg")
    assert line["event"] == "requests for an unknown domain are not limited"
    assert (line["domain"], line["requests"]) == ("egg", 1)
    assert line["reason"] == "no limits file has this domain; there are edge"


def test_a_shape_is_logged_again_after_a_minute_then_less_and_less_often(asked: Asked) -> None:
    """Whatever the values: the same bytes, and others."""
    times = []
    begin = asked.now
    for second in range(0, 20_000, 10):
        asked.now = begin + second
        lines = asked.logged({"tenant": f"{second % 3}"})
        times += [second] * len(lines)
    assert times == [0, 60, 180, 420, 900, 1860, 3780, 7380, 10980, 14580, 18180]


def test_other_keys_and_domains_are_logged_apart(asked: Asked) -> None:
    assert len(asked.logged({"a": "1"}, {"b": "1"}, {"a": "2"})) == 2
    assert len(asked.logged({"a": "1"}, domain="x")) == 1
    assert asked.logged({"a": "3"}) == []


async def test_a_reload_lets_it_speak_again(asked: Asked) -> None:
    asked.logged({"a": "1"})
    asked.sidecar.prepare()()
    assert len(asked.logged({"a": "1"})) == 1
    assert asked.count(domain="edge", keys="a") == 2


def test_secrets_and_long_values_are_not_logged_in_full(folder: Path) -> None:
    text = "\n  - {key: api_key, value: known, rate_limit: {unit: day}}\n  - {key: path, value: /x}\n"
    (folder / "edge.yaml").write_text((folder / "edge.yaml").read_text() + text)
    asked = Asked(folder)
    [line] = asked.logged({"api_key": "guess"})
    assert "guess" not in line["reason"]
    assert "known" not in line["reason"]
    [line] = asked.logged({"path": "y" * 5000})
    assert len(line["reason"]) < 2 * LONGEST_LABEL + 100


def test_a_descriptor_without_entries_is_counted_but_not_logged(asked: Asked) -> None:
    """Envoy sends one where `skip_if_absent` skipped the only action."""
    assert asked.logged({}) == []
    assert asked.count(domain="edge", keys="(none)") == 1


def test_beyond_the_bound_they_are_counted_and_logged_together(folder: Path) -> None:
    asked = Asked(folder, max_unmatched=3)
    lines = [line for number in range(50) for line in asked.logged({f"key{number}": "1"})]
    assert [line["keys"] for line in lines] == ["key0", "key1", "key2", "(other)"]
    assert asked.count(domain="(other)", keys="(other)") == 47
    for number in range(50):
        asked.logged({"a": "1"}, domain=f"domain{number}")
    page = generate_latest(asked.registry).decode()
    assert page.count("domain_not_found{") <= 4
    assert page.count(f"{NOT_FOUND}{{") == 4


def test_config_shows_the_most_frequent(asked: Asked) -> None:
    for key in ("a", "b", "b"):
        asked.logged({key: "1"})
    asked.logged({"a": "1"}, domain="egg")
    assert asked.sidecar.describe()["unmatched"] == [
        {"domain": "edge", "keys": "b", "count": 2},
        {"domain": "edge", "keys": "a", "count": 1},
        {"domain": "egg", "keys": None, "count": 1},
    ]


def test_what_has_a_limit_is_silent(asked: Asked) -> None:
    assert asked.logged({"remote_address": "192.0.2.1"}, {"free": "1"}) == []
