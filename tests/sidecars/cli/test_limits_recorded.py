"""`sidecars limits simulate` and `suggest`, over logs that ratelimit and accesslog have written."""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from google.protobuf.json_format import MessageToDict

from accesslog.wire.record import http_record
from protos.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit.config import load_limits
from ratelimit.plan import Modes
from ratelimit.rules import Options
from ratelimit.tools.recorded import RecordedCall, call_in, in_order
from ratelimit.tools.simulate import decisions
from sidecars.services.ratelimit import build
from tests.support.command import plain_command
from tests.support.entries import ORIGIN, http_entry
from tests.support.ratelimiting import CALL, dependencies, settings_with

LIMITS = """
domain: edge
descriptors:
  - {key: bucket, rate_limit: {unit: second, requests_per_unit: 3, burst: 6}}
  - {key: window, rate_limit: {period: 30s, requests_per_unit: 20, algorithm: fixed_window}}
  - {key: sliding, rate_limit: {unit: minute, requests_per_unit: 30, algorithm: sliding_window}}
  - {key: debt, rate_limit: {period: 5s, requests_per_unit: 9, charge_rejected: true, cost: 2}}
  - {key: shadow, shadow_mode: true, rate_limit: {unit: second, requests_per_unit: 1}}
  - {key: plan, quota_mode: true, rate_limit: {unit: minute, requests_per_unit: 25}}
  - {key: free, rate_limit: {unlimited: true}}
  - {key: named, rate_limit: {unit: minute, requests_per_unit: 8, name: named}}
  - {key: vip, rate_limit: {unit: minute, requests_per_unit: 60, replaces: [{name: named}]}}
  - key: route
    descriptors: [{key: user_token, rate_limit: {unit: minute, requests_per_unit: 40}}]
"""
KEYS = ("bucket", "window", "sliding", "debt", "shadow", "plan", "free", "named", "vip", "unknown", "other")
STEP_US = 15_625
"""A 64th of a second, which a float holds exactly."""

Live = list[tuple[dict[str, Any], RateLimitResponse]]


def some_request(random: Random) -> bytes:
    message = RateLimitRequest(domain="edge", hits_addend=random.choice((0, 0, 0, 1, 2, 5)))
    for key in random.sample(KEYS, random.randint(1, 3)):
        descriptor = message.descriptors.add()
        descriptor.entries.add(key=key, value=random.choice("ab"))
        if key == "other":
            descriptor.limit.requests_per_unit = random.choice((0, 4))
            descriptor.limit.unit = RateLimitResponse.RateLimit.MINUTE  # type: ignore[assignment]
        if random.random() < 0.2:
            descriptor.hits_addend.value = random.choice((0, 1, 3))
            descriptor.is_negative_hits = random.random() < 0.3
    if random.random() < 0.2:
        descriptor = message.descriptors.add()
        descriptor.entries.add(key="route", value="login")
        descriptor.entries.add(key="user_token", value=random.choice(("secret-1", "secret-2")))
    return message.SerializeToString()


def live(folder: Path, calls: int, random: Random) -> Live:
    """Return the records of calls to a real ratelimit, in the order of their times, with its answers."""
    file = folder / "limits.yaml"
    file.write_text(LIMITS)
    now_us = 1_790_000_000_000_000
    settings = settings_with(folder, limits=[file])
    sidecar = build(settings, dependencies(wall_clock=lambda: now_us / 1e6))
    found: Live = []
    for _ in range(calls):
        now_us += STEP_US * random.choice((0, 1, 2, 5, 40))
        answer = sidecar.should_rate_limit(some_request(random), CALL)
        assert isinstance(answer, bytes)
        response = RateLimitResponse.FromString(answer)
        entry = http_entry(
            metadata={"envoy.filters.http.ratelimit": MessageToDict(response.dynamic_metadata)}
        )
        entry.common_properties.start_time.FromMicroseconds(now_us)
        found.append((json.loads(orjson.dumps(http_record(entry, ORIGIN, 0))), response))
    return found


def log_of(folder: Path, records: Sequence[Any]) -> Path:
    file = folder / "access.jsonl"
    file.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    return file


@pytest.mark.parametrize("seed", range(3))
def test_a_simulation_agrees_call_for_call_with_the_live_run(tmp_path: Path, seed: int) -> None:
    found = live(tmp_path, 1_500, Random(seed))
    calls = []
    for record, _ in found:
        call = call_in(record)
        assert isinstance(call, RecordedCall), call
        calls.append(call)
    # Requests are logged when they end: a little out of order.
    late = sorted(enumerate(calls), key=lambda one: one[0] + Random(one[0]).randint(0, 30))
    limits = load_limits([tmp_path / "limits.yaml"], Options())
    in_their_order = list(in_order((call for _, call in late), most=100))
    assert [call.at_us for call in in_their_order] == [call.at_us for call in calls]
    refused = 0
    for (_, response), (_, decision, _) in zip(found, decisions(calls, limits, Modes()), strict=True):
        assert decision is not None
        overall = response.overall_code == RateLimitResponse.OVER_LIMIT
        refused += overall
        assert decision.over_limit == overall
        assert [status.over_limit for status in decision.statuses] == [
            status.code == RateLimitResponse.OVER_LIMIT for status in response.statuses
        ]
        assert [status.remaining for status in decision.statuses] == [
            status.limit_remaining for status in response.statuses
        ]
    assert 100 < refused < 1_400


def test_the_command_says_what_changes(tmp_path: Path) -> None:
    found = live(tmp_path, 600, Random(7))
    log = log_of(tmp_path, [record for record, _ in found])
    refused = sum(response.overall_code == RateLimitResponse.OVER_LIMIT for _, response in found)
    options = ("limits", "simulate", "--log", str(log))
    done = plain_command(*options, "--limits", str(tmp_path / "limits.yaml"), "--json")
    assert done.returncode == 0, done.stderr
    same = json.loads(done.stdout)
    assert (same["calls"], same["same"], same["refused"]) == (600, 600, refused)
    assert sum(minute["refused"] for minute in same["minutes"]) == refused
    assert sum(minute["calls"] for minute in same["minutes"]) == 600
    assert not same["skipped"]
    keys = {(one["rule"], one["entries"]): one for one in same["keys"]}
    assert keys["edge.bucket", "bucket=a"]["refused"] == sum(
        keys["edge.bucket", "bucket=a"]["minutes"].values()
    )
    (tmp_path / "none.yaml").write_text(
        "domain: edge\ndescriptors:\n  - {key: bucket, rate_limit: {unit: second, requests_per_unit: 0}}\n"
    )
    done = plain_command(*options, "--limits", str(tmp_path / "none.yaml"), "--json")
    changed = json.loads(done.stdout)
    assert changed["newly_refused"] > 0
    assert changed["newly_passed"] > 0
    assert changed["same"] + changed["newly_refused"] + changed["newly_passed"] == 600


def minute_log(folder: Path) -> Path:
    """Return a log without descriptors: alice calls 6 times in one minute, bob twice in the next."""
    records = [{"time": f"2026-01-01T00:00:0{second}Z", "authz_subject": "alice"} for second in range(6)]
    records += [{"time": f"2026-01-01T00:01:0{second}Z", "authz_subject": "bob"} for second in range(2)]
    return log_of(folder, [*records, {"time": "2026-01-01T00:01:09Z"}, {"authz_subject": "eve"}, 7])


def test_descriptors_can_be_made_of_other_fields(tmp_path: Path) -> None:
    log = minute_log(tmp_path)
    limits = tmp_path / "new.yaml"
    limits.write_text(
        """
domain: edge
descriptors:
  - key: generic_key
    value: api
    descriptors: [{key: user, rate_limit: {unit: hour, requests_per_unit: 4, algorithm: fixed_window}}]
"""
    )
    made = ("--domain", "edge", "--descriptor", "generic_key:=api,user=authz_subject")
    options = ("limits", "simulate", "--log", str(log), "--limits", str(limits), *made)
    done = plain_command(*options, "--json")
    found = json.loads(done.stdout)
    assert (found["calls"], found["refused"]) == (8, 2)
    [alice, bob] = found["keys"]
    assert alice == {
        "rule": "edge.generic_key_api.user",
        "entries": "generic_key=api,user=alice",
        "calls": 6,
        "refused": 2,
        "shadowed": 0,
        "minutes": {"2026-01-01T00:00:00Z": 2},
    }
    assert bob["refused"] == 0
    assert sum(found["skipped"].values()) == 3
    done = plain_command(*options)
    assert "2 (25.0%)" in done.stdout
    assert "00:00 (2)" in done.stdout
    assert "skipped 1: not a line of JSON" in done.stderr


def test_a_suggestion_has_percentiles_and_what_they_would_refuse(tmp_path: Path) -> None:
    made = ("--domain", "edge", "--descriptor", "user=authz_subject")
    options = ("limits", "suggest", "--log", str(minute_log(tmp_path)), *made)
    done = plain_command(*options, "--json")
    found = {one["unit"]: one for one in json.loads(done.stdout)}
    assert found["minute"] == {
        "domain": "edge",
        "keys": ["user"],
        "unit": "minute",
        "values": 1,
        "p50": {"limit": 2, "refused_share": 0.5},
        "p99": {"limit": 6, "refused_share": 0.0},
        "most": {"limit": 6, "refused_share": 0.0},
        "left_out": 0,
    }
    assert found["second"]["most"]["limit"] == 1
    assert found["hour"]["values"] == 2
    assert "2 (refuses 50.0%)" in "".join(plain_command(*options).stdout.splitlines())


def test_a_suggestion_can_be_used_as_a_limits_file(tmp_path: Path) -> None:
    made = (
        "--domain",
        "edge",
        "--descriptor",
        "user=authz_subject",
        "--descriptor",
        "a:=b,user=authz_subject",
    )
    options = ("limits", "suggest", "--log", str(minute_log(tmp_path)), *made)
    done = plain_command(*options, "--yaml", "minute")
    file = tmp_path / "suggested.yaml"
    file.write_text(done.stdout)
    user, both = sorted(load_limits([file], Options()).rules, key=lambda rule: len(rule.key))
    assert (user.key, user.requests_per_unit) == ("edge.user", 6)
    assert (both.key, both.requests_per_unit) == ("edge.a.user", 6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((), "no call to ratelimit is recorded"),
        (("--descriptor", "user"), "KEY=FIELD"),
        (("--domain", "edge", "--descriptor", "user=nonesuch"), "no field 'nonesuch'"),
    ],
)
@pytest.mark.parametrize("name", ["simulate", "suggest"])
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, options: tuple[str, ...], text: str) -> None:
    (tmp_path / "limits.yaml").write_text(LIMITS)
    more = ("--limits", str(tmp_path / "limits.yaml")) if name == "simulate" else ()
    done = plain_command("limits", name, "--log", str(minute_log(tmp_path)), *more, *options)
    assert done.returncode == (2 if options else 1)
    assert text in " ".join(done.stderr.replace("│", "").split())


def test_calls_of_one_domain_can_be_chosen(tmp_path: Path) -> None:
    call = {"time": "2026-01-01T00:00:00Z", "ratelimit_descriptors": [{"entries": ["user=alice"]}]}
    log = log_of(tmp_path, [{**call, "ratelimit_domain": name} for name in ("edge", "edge", "shop")])
    options = ("limits", "suggest", "--log", str(log), "--yaml", "minute")
    done = plain_command(*options)
    assert done.returncode == 2
    assert "the log has 'edge', 'shop': choose one" in " ".join(done.stderr.replace("│", " ").split())
    file = tmp_path / "suggested.yaml"
    file.write_text(plain_command(*options, "--domain", "edge").stdout)
    [rule] = load_limits([file], Options()).rules
    assert (rule.key, rule.requests_per_unit) == ("edge.user", 2)
