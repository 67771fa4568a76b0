"""The ratelimit sidecar from bytes to bytes, with the generated classes as witnesses."""

import time
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import ValidationError

from common.configfile import ConfigError
from protos.lenient import mark
from protos.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit.config import compile_limits
from ratelimit.rules import Options
from sidecars.services.ratelimit import RatelimitSidecar, build
from sidecars.services.sidecar import Dependencies, Sidecar
from sidecars.transport.api.service import Code, StatusError, Unary
from tests.support.ratelimiting import (
    ADDRESS,
    CALL,
    LIMITS,
    LOGIN,
    answered,
    dependencies,
    folder,
    request,
    requests,
    settings_with,
)

__all__ = ["folder"]


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

    def test_over_limit_is_set_overall_and_for_the_descriptor(self, folder: Path) -> None:
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

    def test_a_request_above_the_whole_limit_is_told_when_the_limit_is_restored(self, folder: Path) -> None:
        sidecar = build(settings_with(folder), dependencies(wall_clock=lambda: 1_790_000_040.0))
        for expected in ("1", "15"):
            response = answered(sidecar, request(LOGIN, hits=3))
            assert response.overall_code == RateLimitResponse.OVER_LIMIT
            [header] = response.response_headers_to_add
            assert (header.key, header.value) == ("Retry-After", expected)
            answered(sidecar, request(LOGIN))

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
            "limit": 2,
            "period": "30s",
            "remaining": 2,
            "revision": sidecar.describe()["revision"],
            "hitsAddend": 3,
            "descriptors": [{"entries": ["remote_address=10.0.0.1"]}, {"entries": ["route=login"]}],
        }

    @pytest.mark.parametrize(
        ("detail", "keys"),
        [("off", set()), ("rule", {"domain", "outcome", "revision", "rule", "limit", "period"})],
    )
    def test_how_much_metadata_is_a_setting(self, folder: Path, detail: str, keys: set[str]) -> None:
        sidecar = build(settings_with(folder, dynamic_metadata=detail), dependencies())
        assert set(answered(sidecar, request(ADDRESS)).dynamic_metadata.fields) == keys

    def test_metadata_follows_the_outcome_although_the_request_is_the_same(self, folder: Path) -> None:
        sidecar = build(settings_with(folder), dependencies())
        message = request(LOGIN)
        outcomes = [MessageToDict(answered(sidecar, message).dynamic_metadata)["outcome"] for _ in range(3)]
        assert outcomes == ["ok", "ok", "over_limit"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> RatelimitSidecar:
    folder = tmp_path_factory.mktemp("limits")
    (folder / "edge.yaml").write_text(LIMITS)
    return build(settings_with(folder), dependencies())


class TestTokenBudgets:
    def test_a_charge_that_came_before_the_first_check_is_planned_again(self, folder: Path) -> None:
        """After a start the charge of a request that was under way may be the first to come."""
        sidecar = build(settings_with(folder), dependencies())
        charge, check = (RateLimitRequest.FromString(request({"closed": "1"})) for _ in ("charge", "check"))
        charge.descriptors[0].hits_addend.value = 4
        check.descriptors[0].hits_addend.value = 0
        outcomes = [
            answered(sidecar, message.SerializeToString()).overall_code
            for message in (charge, check, charge, check)
        ]
        over, ok = RateLimitResponse.OVER_LIMIT, RateLimitResponse.OK
        assert outcomes == [over, ok, over, over]


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
            (b"\xff\xff\xff", "the message is not a RateLimitRequest"),
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

    def test_an_emptied_domain_replaces_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "edge.yaml").write_text(LIMITS)
        sidecar = build(settings_with(tmp_path), dependencies())
        (tmp_path / "edge.yaml").write_text("domain: edge\ndescriptors:\n")
        with pytest.raises(ConfigError, match="domain 'edge' has no descriptors"):
            sidecar.prepare()
        assert answered(sidecar, request(ADDRESS)).statuses[0].HasField("current_limit")

    def test_files_that_are_not_loaded_are_shown(self, tmp_path: Path) -> None:
        (tmp_path / "edge.yaml").write_text(LIMITS)
        (tmp_path / "more.conf").write_text(LIMITS)
        sidecar = build(settings_with(tmp_path), dependencies())
        [warning] = sidecar.describe()["warnings"]
        assert "skipped more.conf;" in warning

    def test_without_any_domain_it_is_unavailable(self, tmp_path: Path) -> None:
        """No file leads to this error; the library reports it for limits made in another way."""
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
    async def test_new_limits_take_over_and_what_is_counted_stays(self, folder: Path) -> None:
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
        (folder / "edge.yaml").write_text("domain: other\ndescriptors: [{key: k}]")
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
