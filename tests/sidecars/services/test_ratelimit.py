"""The ratelimit sidecar from bytes to bytes, with the generated classes as witnesses."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from structlog.testing import capture_logs

from common.configfile import ConfigError, parse
from protos.lenient import mark
from protos.ratelimit_descriptor_pb2 import RateLimitDescriptor
from protos.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit.config import compile_limits
from ratelimit.decision import Decision, Plan, Status
from ratelimit.request import Descriptor, Override, Request
from ratelimit.rules import Options
from sidecars.services.ratelimit import RatelimitSidecar, build
from sidecars.services.ratelimit_wire import MAX_DURATION_SECONDS, Responses, read_request
from sidecars.services.sidecar import Dependencies, Sidecar
from sidecars.settings.ratelimit import RatelimitSettings
from sidecars.transport.api.service import Code, StatusError, Unary
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis_server"]

LIMITS = """
domain: edge
descriptors:
  - key: remote_address
    rate_limit: {unit: minute, requests_per_unit: 3, name: per_address}
  - key: route
    value: login
    rate_limit: {unit: second, unit_multiplier: 30, requests_per_unit: 2}
  - {key: closed, rate_limit: {unit: hour, requests_per_unit: 3, on_failure: closed}}
  - {key: open, rate_limit: {unit: hour, requests_per_unit: 3, on_failure: open}}
  - {key: free, rate_limit: {unlimited: true}}
"""


@dataclass
class FakeCall:
    deadline: float | None = None
    method: str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
    peer: str = "unix:"
    metadata: Mapping[str, str | bytes] = field(default_factory=dict)
    cancelled: bool = False


CALL = FakeCall()


def settings_with(folder: Path, **more: Any) -> RatelimitSettings:
    return RatelimitSettings.model_validate({"listen": ["127.0.0.1:0"], "limits": [str(folder)], **more})


def dependencies(redis: Redis | None = None, wall_clock: Callable[[], float] = time.time) -> Dependencies:
    return Dependencies(CollectorRegistry(), wall_clock, time.monotonic, lambda: 0.0, redis)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "edge.yaml").write_text(LIMITS)
    return tmp_path


def request(*descriptors: Mapping[str, str], domain: str = "edge", hits: int = 0) -> bytes:
    message = RateLimitRequest(domain=domain, hits_addend=hits)
    for descriptor in descriptors:
        entries = [RateLimitDescriptor.Entry(key=key, value=value) for key, value in descriptor.items()]
        message.descriptors.add(entries=entries)
    return message.SerializeToString()


ADDRESS = {"remote_address": "10.0.0.1"}
LOGIN = {"route": "login"}


def answered(sidecar: RatelimitSidecar, message: bytes) -> RateLimitResponse:
    reply = sidecar.should_rate_limit(message, CALL)
    assert isinstance(reply, bytes)
    return RateLimitResponse.FromString(reply)


async def awaited(sidecar: RatelimitSidecar, message: bytes, call: FakeCall = CALL) -> RateLimitResponse:
    reply = sidecar.should_rate_limit(message, call)
    return RateLimitResponse.FromString(reply if isinstance(reply, bytes) else await reply)


class TestAnswers:
    def test_serves_the_method_that_envoy_calls(self, folder: Path) -> None:
        sidecar: Sidecar = build(settings_with(folder), dependencies())
        [service] = sidecar.services
        assert service.name == "envoy.service.ratelimit.v3.RateLimitService"
        assert isinstance(service.methods["ShouldRateLimit"], Unary)
        assert sidecar.name == "ratelimit"

    def test_the_memory_store_answers_at_once(self, folder: Path) -> None:
        sidecar = build(settings_with(folder), dependencies())
        assert isinstance(sidecar.should_rate_limit(request(ADDRESS), CALL), bytes)

    def test_statuses_are_complete_and_in_order(self, folder: Path) -> None:
        """Envoy makes X-RateLimit-* (draft 03) from all of them."""
        sidecar = build(settings_with(folder), dependencies(wall_clock=lambda: 1_790_000_040.0))
        response = answered(sidecar, request(ADDRESS, {"none": "x"}, LOGIN, {"free": "x"}))
        assert MessageToDict(response)["statuses"] == [
            {
                "code": "OK",
                "currentLimit": {"requestsPerUnit": 3, "unit": "MINUTE", "name": "per_address"},
                "limitRemaining": 2,
                "durationUntilReset": "20s",
            },
            {"code": "OK"},
            {
                "code": "OK",
                "currentLimit": {"requestsPerUnit": 2, "unit": "SECOND", "unitMultiplier": 30},
                "limitRemaining": 1,
                "durationUntilReset": "15s",
            },
            {"code": "OK", "limitRemaining": 4294967295},
        ]

    def test_over_limit_is_told_overall_and_for_the_descriptor(self, folder: Path) -> None:
        sidecar = build(settings_with(folder), dependencies())
        response = answered(sidecar, request(ADDRESS, LOGIN, hits=3))
        assert response.overall_code == RateLimitResponse.OVER_LIMIT
        codes = [status.code for status in response.statuses]
        assert codes == [RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT]

    def test_the_same_bytes_again_are_counted_again(self, folder: Path) -> None:
        sidecar = build(settings_with(folder), dependencies())
        remaining = [answered(sidecar, request(ADDRESS)).statuses[0].limit_remaining for _ in range(4)]
        assert remaining == [2, 1, 0, 0]

    def test_a_refusal_says_when_to_come_again(self, folder: Path) -> None:
        sidecar = build(settings_with(folder), dependencies(wall_clock=lambda: 1_790_000_040.0))
        answered(sidecar, request(LOGIN, hits=2))
        [header] = answered(sidecar, request(LOGIN)).response_headers_to_add
        assert (header.key, header.value) == ("Retry-After", "15")

    def test_a_request_too_large_ever_to_pass_is_not_told_to_come_again(self, folder: Path) -> None:
        sidecar = build(settings_with(folder), dependencies())
        response = answered(sidecar, request(LOGIN, hits=3))
        assert response.overall_code == RateLimitResponse.OVER_LIMIT
        assert not response.response_headers_to_add

    def test_retry_after_can_be_turned_off(self, folder: Path) -> None:
        sidecar = build(settings_with(folder, headers={"retry_after": False}), dependencies())
        answered(sidecar, request(LOGIN, hits=2))
        assert not answered(sidecar, request(LOGIN)).response_headers_to_add

    def test_headers_of_its_own_are_an_option(self, folder: Path) -> None:
        """LIMIT_RESPONSE_HEADERS_ENABLED: plain numbers of the descriptor closest to its limit."""
        headers = {"enabled": True, "reset": "X-Reset"}
        clock = dependencies(wall_clock=lambda: 1_790_000_040.0)
        sidecar = build(settings_with(folder, headers=headers), clock)
        response = answered(sidecar, request(ADDRESS, LOGIN))
        assert [(header.key, header.value) for header in response.response_headers_to_add] == [
            ("RateLimit-Limit", "2"),
            ("RateLimit-Remaining", "1"),
            ("X-Reset", "15"),
        ]

    def test_dynamic_metadata_tells_the_access_log_which_rule_decided(self, folder: Path) -> None:
        sidecar = build(settings_with(folder), dependencies())
        metadata = MessageToDict(answered(sidecar, request(ADDRESS, LOGIN, hits=3)).dynamic_metadata)
        assert metadata == {
            "domain": "edge",
            "outcome": "over_limit",
            "rule": "edge.route_login",
            "revision": sidecar.describe()["revision"],
            "hitsAddend": 3,
            "descriptors": [{"entries": ["remote_address=10.0.0.1"]}, {"entries": ["route=login"]}],
        }

    @pytest.mark.parametrize(
        ("detail", "keys"), [("off", set()), ("rule", {"domain", "outcome", "revision", "rule"})]
    )
    def test_how_much_metadata_is_a_setting(self, folder: Path, detail: str, keys: set[str]) -> None:
        sidecar = build(settings_with(folder, dynamic_metadata=detail), dependencies())
        assert set(answered(sidecar, request(ADDRESS)).dynamic_metadata.fields) == keys

    def test_metadata_follows_the_outcome_although_the_request_is_the_same(self, folder: Path) -> None:
        sidecar = build(settings_with(folder), dependencies())
        message = request(LOGIN)
        outcomes = [MessageToDict(answered(sidecar, message).dynamic_metadata)["outcome"] for _ in range(3)]
        assert outcomes == ["ok", "ok", "over_limit"]


small_text = st.text("abc_=|é", max_size=4)
numbers = st.integers(0, 3) | st.integers(0, 2**32 - 1)


@st.composite
def _requests(draw: st.DrawFn) -> bytes:
    message = RateLimitRequest(domain=draw(st.sampled_from(["edge", "edge", ""])), hits_addend=draw(numbers))
    for _ in range(draw(st.integers(0, 3))):
        descriptor = message.descriptors.add(is_negative_hits=draw(st.booleans()))
        for _ in range(draw(st.integers(0, 2))):
            key = draw(st.sampled_from(["remote_address", "route", "free"]) | small_text)
            descriptor.entries.add(key=key, value=draw(small_text))
        if draw(st.booleans()):
            descriptor.hits_addend.value = draw(st.integers(0, 2**64 - 1))
        if draw(st.booleans()):
            descriptor.limit.requests_per_unit = draw(numbers)
            descriptor.limit.unit = draw(st.integers(0, 8))  # type: ignore[assignment]
            if draw(st.booleans()):
                descriptor.limit.unit_multiplier.value = draw(numbers)
    return message.SerializeToString()


requests = _requests()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> RatelimitSidecar:
    folder = tmp_path_factory.mktemp("limits")
    (folder / "edge.yaml").write_text(LIMITS)
    return build(settings_with(folder), dependencies())


class TestWire:
    @given(requests)
    def test_reads_every_field_of_a_request(self, message: bytes) -> None:
        truth = RateLimitRequest.FromString(message)
        request = read_request(message)
        assert (request.domain, request.hits_addend) == (truth.domain, truth.hits_addend)
        for read, written in zip(request.descriptors, truth.descriptors, strict=True):
            assert read.entries == tuple((entry.key, entry.value) for entry in written.entries)
            assert read.hits == (written.hits_addend.value if written.HasField("hits_addend") else None)
            assert read.refund is written.is_negative_hits
            limit = written.limit
            multiplier = limit.unit_multiplier.value if limit.HasField("unit_multiplier") else 1
            override = Override(limit.requests_per_unit, limit.unit, multiplier)
            assert read.override == (override if written.HasField("limit") else None)

    @given(
        st.booleans(),
        st.lists(
            st.tuples(
                st.booleans(),
                st.none() | st.integers(0, 4),
                numbers,
                st.integers(0, 10) | st.integers(0, 2**63),
                st.integers(0, 10**6),
                st.booleans(),
            ),
            min_size=1,
            max_size=4,
        ),
        st.booleans(),
    )
    def test_writes_every_field_of_a_response(
        self,
        over_limit: bool,
        rows: list[tuple[bool, int | None, int, int, int, bool]],
        own_headers: bool,
    ) -> None:
        """The hand-written bytes against what protobuf reads out of them."""
        limits = compile_limits([parse(LIMITS)], Options(), "r1")
        statuses = [
            Status(over, None if rule is None else limits.rules[rule], left, reset, retry, known=known)
            for over, rule, left, reset, retry, known in rows
        ]
        plan = Plan(Request("edge", (Descriptor((("a", "b"),)),) * len(rows)), limits, statuses)
        settings = settings_with(Path("unused"), headers={"enabled": own_headers})
        encoded = Responses(settings).encode(Decision(over_limit, statuses, plan))
        response = RateLimitResponse.FromString(encoded)
        assert response.overall_code == (2 if over_limit else 1)
        for status, read in zip(statuses, response.statuses, strict=True):
            assert read.code == (2 if status.over_limit else 1)
            assert read.limit_remaining == status.remaining
            rule = status.current
            assert (
                read.HasField("current_limit") == read.HasField("duration_until_reset") == (rule is not None)
            )
            if rule is not None:
                limit = read.current_limit
                assert (limit.requests_per_unit, int(limit.unit)) == (rule.requests_per_unit, int(rule.unit))
                assert (limit.name, limit.unit_multiplier.value or 1) == (rule.name, rule.unit_multiplier)
                assert read.duration_until_reset.seconds == min(status.reset_seconds, MAX_DURATION_SECONDS)
        headers = {header.key: header.value for header in response.response_headers_to_add}
        longest = max(status.retry_after_seconds for status in statuses)
        assert headers.get("Retry-After") == (str(longest) if over_limit and longest else None)


class TestNotUtf8:
    """envoyproxy/envoy#22996: Envoy copies header and query bytes into descriptors as they came."""

    LIMITS = """
domain: edge
descriptors:
  - key: agent
    detailed_metric: true
    rate_limit: {unit: day, requests_per_unit: 2}
  - key: remote_address
    rate_limit: {unit: day, requests_per_unit: 3}
"""

    @pytest.fixture
    def sidecar(self, tmp_path: Path) -> RatelimitSidecar:
        (tmp_path / "edge.yaml").write_text(self.LIMITS)
        self.registry = CollectorRegistry()
        around = Dependencies(self.registry, time.time, time.monotonic, lambda: 0.0, None)
        return build(settings_with(tmp_path), around)

    @staticmethod
    def asked(value: bytes, address: str = "") -> bytes:
        stand_in = b"#" * len(value)
        more = [{"remote_address": address}] if address else []
        return request({"agent": stand_in.decode()}, *more).replace(stand_in, value)

    def test_a_byte_that_is_not_utf_8_escapes_no_limit(self, sidecar: RatelimitSidecar) -> None:
        codes = [answered(sidecar, self.asked(b"a\xff", f"10.0.0.{n}")).overall_code for n in range(3)]
        assert codes == [1, 1, 2]

    def test_it_lets_the_other_limits_of_the_call_stand(self, sidecar: RatelimitSidecar) -> None:
        values = [b"\xff%d" % number for number in range(4)]
        codes = [answered(sidecar, self.asked(value, "10.0.0.1")).overall_code for value in values]
        assert codes == [1, 1, 1, 2]

    def test_different_bytes_have_different_buckets(self, sidecar: RatelimitSidecar) -> None:
        marked = mark(b"\xff").encode()
        for value in (b"\xff", b"\xfe", b"\xff\xff", b"\\xff", b"%FF", marked, "\u00ff".encode(), b"\xc3"):
            codes = [answered(sidecar, self.asked(value)).overall_code for _ in range(3)]
            assert codes == [1, 1, 2], value

    def test_metadata_says_which_descriptor_is_not_what_it_looks_like(
        self, sidecar: RatelimitSidecar
    ) -> None:
        read = MessageToDict(answered(sidecar, self.asked(b"a\xff\\")).dynamic_metadata)
        assert read["descriptors"] == [{"entries": [r"agent=a\xff\\"], "not_utf8": True}]
        read = MessageToDict(answered(sidecar, self.asked(b"a\\")).dynamic_metadata)
        assert read["descriptors"] == [{"entries": ["agent=a\\"]}]

    def test_metrics_show_it_and_can_be_scraped(self, sidecar: RatelimitSidecar) -> None:
        for value in (b"a\xff", b"a\\xff"):
            answered(sidecar, self.asked(value))
        hits = "ratelimit_service_rate_limit_total_hits"
        labels = {"domain": "edge", "key1": r"agent_a\xff"}
        assert generate_latest(self.registry)
        assert self.registry.get_sample_value(hits, labels) == 2


class TestErrors:
    @pytest.mark.parametrize(
        ("message", "text"),
        [
            (b"\xff\xff\xff", "the message is no RateLimitRequest"),
            (request(ADDRESS, domain=""), "rate limit domain must not be empty"),
            (request(), "rate limit descriptor list must not be empty"),
        ],
    )
    def test_a_bad_request_is_an_invalid_argument(self, folder: Path, message: bytes, text: str) -> None:
        """envoyproxy/ratelimit answers UNKNOWN to these."""
        sidecar = build(settings_with(folder), dependencies())
        with pytest.raises(StatusError) as caught:
            sidecar.should_rate_limit(message, CALL)
        assert (caught.value.status.code, caught.value.status.message) == (Code.INVALID_ARGUMENT, text)

    def test_an_emptied_folder_replaces_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "edge.yaml").write_text(LIMITS)
        sidecar = build(settings_with(tmp_path), dependencies())
        (tmp_path / "edge.yaml").unlink()
        with pytest.raises(ConfigError, match="holds no limit file"):
            sidecar.prepare()
        assert answered(sidecar, request(ADDRESS)).statuses[0].HasField("current_limit")

    def test_without_any_domain_it_is_unavailable(self, tmp_path: Path) -> None:
        """Which no file leads to; it is what the library says of limits made otherwise."""
        (tmp_path / "edge.yaml").write_text(LIMITS)
        sidecar = build(settings_with(tmp_path), dependencies())
        sidecar._limiter.use(compile_limits([], Options()))
        with pytest.raises(StatusError) as caught:
            sidecar.should_rate_limit(request(ADDRESS), CALL)
        assert caught.value.status.code is Code.UNAVAILABLE

    def test_bad_limits_at_the_start_are_all_told(self, folder: Path) -> None:
        (folder / "bad.yaml").write_text("domain: edge\ndescriptor: []")
        with pytest.raises(ConfigError) as caught:
            build(settings_with(folder), dependencies())
        assert len(caught.value.problems) == 2

    def test_redis_needs_a_redis(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match="needs the section redis"):
            build(settings_with(folder, store="redis"), dependencies())

    @given(st.binary(max_size=60) | requests)
    def test_no_bytes_raise_anything_else(self, kept: RatelimitSidecar, message: bytes) -> None:
        try:
            response = answered(kept, message)
        except StatusError as error:
            assert error.status.code is Code.INVALID_ARGUMENT  # noqa: PT017  # either is right
        else:
            assert len(response.statuses) == len(RateLimitRequest.FromString(message).descriptors)


class TestReload:
    def test_new_limits_take_over_and_what_is_counted_stays(self, folder: Path) -> None:
        sidecar = build(settings_with(folder), dependencies())
        answered(sidecar, request(ADDRESS, hits=3))
        (folder / "edge.yaml").write_text(
            LIMITS.replace("requests_per_unit: 3, name", "requests_per_unit: 9, name")
        )
        before = sidecar.describe()["revision"]
        sidecar.prepare()()
        response = answered(sidecar, request(ADDRESS))
        assert response.statuses[0].current_limit.requests_per_unit == 9
        assert sidecar.describe()["revision"] != before

    def test_nothing_changes_before_the_swap(self, folder: Path) -> None:
        sidecar = build(settings_with(folder), dependencies())
        (folder / "edge.yaml").write_text("domain: other")
        sidecar.prepare()
        assert sidecar.describe()["domains"] == ["edge"]

    def test_bad_limits_leave_the_good_ones_in_service(self, folder: Path) -> None:
        around = dependencies()
        sidecar = build(settings_with(folder), around)
        (folder / "edge.yaml").write_text("domain: ''")
        with pytest.raises(ConfigError):
            sidecar.prepare()
        assert len(answered(sidecar, request(ADDRESS)).statuses) == 1
        assert around.registry.get_sample_value("ratelimit_service_config_load_error") == 1
        assert around.registry.get_sample_value("ratelimit_service_config_load_success") == 1


class TestMetrics:
    def test_rules_store_and_errors_are_counted(self, folder: Path) -> None:
        around = dependencies()
        sidecar = build(settings_with(folder), around)
        answered(sidecar, request(LOGIN, hits=3))
        with pytest.raises(StatusError):
            sidecar.should_rate_limit(request(), CALL)
        labels = {"domain": "edge", "key1": "route_login"}
        read = around.registry.get_sample_value
        assert read("ratelimit_service_rate_limit_over_limit", labels) == 1
        assert read("ratelimit_service_should_rate_limit_error", {"err_type": "service_error"}) == 1
        assert read("ratelimit_service_total_requests", {"grpc_method": "ShouldRateLimit"}) == 2
        assert read("ratelimit_memory_buckets") == 0


@pytest.fixture
async def shared_client(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_server.url, retry=Retry(NoBackoff(), 0)) as client:
        yield client


PATIENT = {"store": "redis", "redis_timeout_ms": 5000, "breaker": {"failures": 2, "open_seconds": 0.05}}


@pytest.mark.redis
class TestRedis:
    async def test_two_sidecars_share_a_limit(self, folder: Path, shared_client: Redis) -> None:
        pair = [build(settings_with(folder, **PATIENT), dependencies(shared_client)) for _ in range(2)]
        codes = [(await awaited(sidecar, request({"closed": "1"}))).overall_code for sidecar in pair * 3]
        assert codes.count(RateLimitResponse.OK) == 3
        for sidecar in pair:
            await sidecar.stop()

    async def test_away_each_rule_answers_as_it_says_and_recovers(
        self, folder: Path, redis_server: RedisServer, shared_client: Redis
    ) -> None:
        around = dependencies(shared_client)
        sidecar = build(settings_with(folder, **PATIENT), around)
        redis_server.stop()
        closed, open_, local = request({"closed": "1"}), request({"open": "1"}), request(ADDRESS)
        assert (await awaited(sidecar, closed)).overall_code == RateLimitResponse.OVER_LIMIT
        assert (await awaited(sidecar, open_)).overall_code == RateLimitResponse.OK
        codes = [(await awaited(sidecar, local)).overall_code for _ in range(4)]
        assert codes == [RateLimitResponse.OK] * 3 + [RateLimitResponse.OVER_LIMIT]
        assert sidecar.describe()["breaker"] in {"open", "half_open"}
        redis_server.start()
        async with asyncio.timeout(20):
            while (await awaited(sidecar, closed)).overall_code != RateLimitResponse.OK:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert sidecar.describe()["breaker"] == "closed"
        unreachable = {"reason": "store_unreachable"}
        assert (around.registry.get_sample_value("ratelimit_redis_failures_total", unreachable) or 0) >= 2
        await sidecar.stop()

    async def test_that_says_no_is_told_in_its_own_words(
        self, folder: Path, redis_server: RedisServer, shared_client: Redis
    ) -> None:
        """In `/config`, in the log and as the cause of the breaker: not as a Redis that is away."""
        sidecar = build(settings_with(folder, **PATIENT), dependencies(shared_client))
        assert sidecar.describe()["last_refusal"] is None
        with redis_server.client() as admin, capture_logs() as logs:
            admin.config_set("min-replicas-to-write", 1)
            while sidecar.describe()["breaker"] == "closed":
                response = await awaited(sidecar, request({"closed": "1"}))
                assert MessageToDict(response.dynamic_metadata)["reason"] == "store_refused"
            told = sidecar.describe()
            assert "NOREPLICAS" in told["last_refusal"]["error"]
            assert told["breaker_cause"].startswith("store_refused: ")
            assert "NOREPLICAS" in told["breaker_cause"]
            admin.config_set("min-replicas-to-write", 0)
            async with asyncio.timeout(20):
                while True:
                    if sidecar.describe()["breaker"] == "closed":  # although no request comes
                        break
                    await asyncio.sleep(0.01)
        assert sidecar.describe()["breaker_cause"] is None
        events = [line["event"] for line in logs]
        # Asked again it may say no again: then the breaker has another line, and requests one a minute.
        assert events[:2] == [
            "redis refuses a request, its rules follow their on_failure",
            "redis refuses, rules follow their on_failure",
        ]
        assert events[-1] == "redis answers again"
        assert events.count(events[0]) == 1
        assert "NOREPLICAS" in logs[0]["error"]
        assert "NOREPLICAS" in logs[1]["cause"]
        await sidecar.stop()

    async def test_silent_it_answers_within_the_callers_deadline(
        self, folder: Path, redis_server: RedisServer, shared_client: Redis
    ) -> None:
        """The store may wait 5 s, the caller 0.1 s; without its deadline this test would take the 5."""
        sidecar = build(settings_with(folder, **PATIENT), dependencies(shared_client))
        await awaited(sidecar, request(ADDRESS))
        redis_server.pause()
        async with asyncio.timeout(4):
            call = FakeCall(deadline=time.monotonic() + 0.1)
            response = await awaited(sidecar, request(ADDRESS), call)
        assert MessageToDict(response.dynamic_metadata)["reason"] == "store_timeout"
        redis_server.resume()
        await sidecar.stop()

    async def test_a_deadline_that_is_over_asks_nobody(self, folder: Path, shared_client: Redis) -> None:
        sidecar = build(settings_with(folder, **PATIENT), dependencies(shared_client))
        reply = sidecar.should_rate_limit(request(ADDRESS), FakeCall(deadline=time.monotonic()))
        assert isinstance(reply, bytes)
        metadata = MessageToDict(RateLimitResponse.FromString(reply).dynamic_metadata)
        assert metadata["reason"] == "store_no_time"
        await sidecar.stop()


class TestSettings:
    def test_defaults_need_nothing_but_where_and_what(self, tmp_path: Path) -> None:
        settings = settings_with(tmp_path)
        assert (settings.store, settings.on_failure, settings.algorithm) == (
            "memory",
            "local",
            "token_bucket",
        )

    @pytest.mark.parametrize(
        "wrong",
        [
            {"listen": []},
            {"limits": []},
            {"store": "memcached"},
            {"near_limit_ratio": 1.5},
            {"redis_timeout_ms": 0},
            {"headers": {"limit": "no good"}},
            {"headers": {"limit": "X", "remaining": "x"}},
            {"unknown": 1},
        ],
    )
    def test_refuses_what_makes_no_sense(self, tmp_path: Path, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            settings_with(tmp_path, **wrong)
