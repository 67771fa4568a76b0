"""Quotas over gRPC: both transports serve the stream of an Envoy."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import generate_latest

from protos.rate_limit_quota_pb2 import BucketId, RateLimitQuotaResponse, RateLimitQuotaUsageReports
from protos.ratelimit_strategy_pb2 import RateLimitStrategy
from ratelimit.quota.assignment import Action, Assign, TokenQuota
from ratelimit.quota.quotas import Report, Subscriber
from ratelimit.quota.quotas import Usage as ReportedUsage
from ratelimit.quota.refused import Refused
from sidecars.services.ratelimit import RatelimitSidecar, build
from sidecars.services.ratelimit_quota import SERVICE
from sidecars.services.sidecar import Dependencies
from tests.support.ratelimiting import dependencies, settings_with
from tests.support.transport.harness import (
    LOOPBACK,
    TRANSPORTS,
    Client,
    Served,
    make_server,
    outcome,
    read_all,
    until,
    within,
)

METHOD = f"/{SERVICE}/StreamRateLimitQuotas"
Usage = RateLimitQuotaUsageReports.BucketQuotaUsage
LOGIN = {"route": "login"}


def limits(requests: int) -> str:
    limit = f"{{unit: second, requests_per_unit: {requests}}}"
    return f"domain: edge\ndescriptors: [{{key: route, value: login, rate_limit: {limit}}}]\n"


def reports(*bucket_ids: dict[str, str], domain: str = "edge", allowed: int = 1, elapsed: int = 0) -> bytes:
    usages = []
    for bucket_id in bucket_ids:
        usage = Usage(bucket_id=BucketId(bucket=bucket_id), num_requests_allowed=allowed)
        usage.time_elapsed.seconds = elapsed
        usages.append(usage)
    return RateLimitQuotaUsageReports(domain=domain, bucket_quota_usages=usages).SerializeToString()


class Edge:
    """A sidecar that serves quotas, and a client of it."""

    def __init__(self, folder: Path, more: Dependencies, quota: dict[str, Any]) -> None:
        self.limits = folder / "edge.yaml"
        self.limits.write_text(limits(100))
        self.registry = more.registry
        self.sidecar: RatelimitSidecar = build(settings_with(folder, quota={"enabled": True, **quota}), more)
        self.client: Client

    def open(self) -> Any:
        return self.client.both(METHOD)

    def metric(self, name: str) -> float:
        lines = generate_latest(self.registry).decode().splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))

    def refused(self, reason: Refused) -> float:
        return self.metric(f'ratelimit_quota_refused_total{{reason="{reason}"}}')


@pytest.fixture
def quota() -> dict[str, Any]:
    return {}


@pytest.fixture(params=TRANSPORTS)
async def edge(request: pytest.FixtureRequest, tmp_path: Path, quota: dict[str, Any]) -> AsyncIterator[Edge]:
    edge = Edge(tmp_path, dependencies(), quota)
    server = make_server(request.param, tuple(edge.sidecar.services), (LOOPBACK,))
    await edge.sidecar.start()
    await server.start()
    edge.client = Client(Served(server, (LOOPBACK,)).target)
    yield edge
    await edge.client.channel.close()
    await server.drain(0)
    await edge.sidecar.stop()


async def read(stream: Any) -> list[RateLimitQuotaResponse.BucketAction]:
    reply = await within(stream.read())
    assert reply is not grpc.aio.EOF
    return list(RateLimitQuotaResponse.FromString(reply).bucket_action)


async def test_a_report_is_answered_by_a_token_bucket_for_its_bucket(edge: Edge) -> None:
    stream = edge.open()
    await stream.write(reports(LOGIN))
    (action,) = await read(stream)
    assert dict(action.bucket_id.bucket) == LOGIN
    assert action.quota_assignment_action.assignment_time_to_live.seconds == 15
    bucket = action.quota_assignment_action.rate_limit_strategy.token_bucket
    assert (bucket.max_tokens, bucket.tokens_per_fill.value, bucket.fill_interval.seconds) == (47, 5700, 60)


async def test_blanket_rules_are_said_even_where_they_are_the_default_of_protobuf(edge: Edge) -> None:
    stream = edge.open()
    await stream.write(reports({"route": "other"}))
    (action,) = await read(stream)
    strategy = action.quota_assignment_action.rate_limit_strategy
    assert strategy.WhichOneof("strategy") == "blanket_rule"
    assert strategy.blanket_rule == RateLimitStrategy.ALLOW_ALL


async def test_a_reload_is_sent_without_a_report(edge: Edge) -> None:
    stream = edge.open()
    await stream.write(reports(LOGIN))
    await read(stream)
    edge.limits.write_text(limits(10))
    edge.sidecar.prepare()()
    (action,) = await read(stream)
    assert action.quota_assignment_action.rate_limit_strategy.token_bucket.tokens_per_fill.value == 570


async def test_a_defect_does_not_end_what_follows_reloads(edge: Edge) -> None:
    assert edge.sidecar._quota is not None
    quotas = edge.sidecar._quota._quotas
    broken, replicas = iter([True]), quotas._replicas

    def broken_once() -> int:
        if next(broken, False):
            raise ZeroDivisionError
        return replicas()

    stream = edge.open()
    await stream.write(reports(LOGIN))
    await read(stream)
    quotas._replicas = broken_once
    edge.limits.write_text(limits(10))
    edge.sidecar.prepare()()
    (action,) = await read(stream)
    assert action.quota_assignment_action.rate_limit_strategy.token_bucket.tokens_per_fill.value == 570
    assert next(broken, None) is None


async def test_a_second_envoy_takes_from_the_first(edge: Edge) -> None:
    first, second = edge.open(), edge.open()
    await first.write(reports(LOGIN))
    await read(first)
    await second.write(reports(LOGIN))
    await read(second)
    (action,) = await read(first)
    assert action.quota_assignment_action.rate_limit_strategy.token_bucket.tokens_per_fill.value == 2850
    assert edge.metric("ratelimit_quota_streams") == 2
    assert edge.sidecar.describe()["quota"] == {"streams": 2, "buckets": 2, "ledgers": 1}
    first.cancel()

    await until(lambda: edge.metric("ratelimit_quota_streams") == 1)


async def test_an_envoy_that_half_closes_gets_its_assignment_and_ok(edge: Edge) -> None:
    stream = edge.open()
    await stream.write(reports(LOGIN))
    await stream.done_writing()
    assert len(await read(stream)) == 1
    assert await within(stream.read()) is grpc.aio.EOF
    assert await within(stream.code()) is grpc.StatusCode.OK


async def test_at_the_end_of_the_process_streams_end_with_ok(edge: Edge) -> None:
    stream = edge.open()
    await stream.write(reports(LOGIN))
    await read(stream)
    await edge.sidecar.finish_streams()
    assert await within(stream.read()) is grpc.aio.EOF
    assert await within(stream.code()) is grpc.StatusCode.OK
    late = edge.open()
    assert await within(late.code()) is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([b"\xff"], Refused.NOT_A_REPORT),
        ([reports(LOGIN, domain="")], Refused.NO_DOMAIN),
        ([reports(LOGIN), reports(LOGIN, domain="other")], Refused.DOMAIN_CHANGED),
    ],
    ids=["not_a_report", "no_domain", "domain_changed"],
)
async def test_a_stream_that_cannot_go_on_is_an_invalid_argument(
    edge: Edge, messages: list[bytes], reason: Refused
) -> None:
    stream = edge.open()
    for message in messages:
        await stream.write(message)
    code, _ = await outcome(read_all(stream))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert edge.refused(reason) == 1
    other = edge.open()
    await other.write(reports(LOGIN))
    assert len(await read(other)) == 1


@pytest.mark.parametrize("elapsed", [-5, 0, 10**11])
async def test_what_envoy_says_about_the_time_is_not_read(edge: Edge, elapsed: int) -> None:
    stream = edge.open()
    await stream.write(reports(LOGIN, elapsed=elapsed, allowed=2**64 - 1))
    assert len(await read(stream)) == 1
    await stream.write(reports(LOGIN, {"route": "other"}, elapsed=elapsed, allowed=2**64 - 1))
    assert len(await read(stream)) == 1


async def test_a_bucket_id_that_is_not_utf_8_is_skipped(edge: Edge) -> None:
    stream = edge.open()
    await stream.write(reports({"route": "UTF8"}).replace(b"UTF8", b"\xff\xfe\xfd\xfc"))
    await stream.write(reports({}, {"": "login"}, LOGIN))
    (action,) = await read(stream)
    assert dict(action.bucket_id.bucket) == LOGIN
    assert (edge.refused(Refused.NOT_UTF8), edge.refused(Refused.NO_BUCKET_ID)) == (1, 2)


class TestBounds:
    @pytest.fixture
    def quota(self) -> dict[str, Any]:
        return {"max_streams": 1, "max_buckets": 1}

    async def test_streams_beyond_the_most_are_refused(self, edge: Edge) -> None:
        stream = edge.open()
        await stream.write(reports(LOGIN, {"route": "other"}))
        assert len(await read(stream)) == 1
        assert edge.refused(Refused.TOO_MANY_BUCKETS) == 1
        refused = edge.open()
        assert await within(refused.code()) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_without_the_setting_the_service_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "edge.yaml").write_text(limits(100))
    sidecar = build(settings_with(tmp_path), dependencies())
    assert [service.name for service in sidecar.services] == ["envoy.service.ratelimit.v3.RateLimitService"]


@pytest.mark.parametrize(("given", "workers", "sidecars"), [({}, 1, 1), ({"replicas": 4}, 1, 4), ({}, 3, 3)])
def test_a_limit_is_shared_by_the_sidecars_that_the_settings_name_or_by_the_workers(
    tmp_path: Path, given: dict[str, int], workers: int, sidecars: int
) -> None:
    (tmp_path / "edge.yaml").write_text(limits(100))
    settings = settings_with(tmp_path, quota={"enabled": True}, **given)
    sidecar = build(settings, replace(dependencies(), workers=workers))
    assert sidecar._quota is not None
    quotas = sidecar._quota._quotas
    sent: list[Action] = []
    subscriber = Subscriber(lambda _, action: sent.append(action))
    quotas.open(subscriber)
    quotas.report(subscriber, Report("edge", [ReportedUsage(LOGIN, 1, 0)]))
    (action,) = sent
    assert isinstance(action, Assign)
    assert isinstance(action.strategy, TokenQuota)
    assert action.strategy.rate == pytest.approx(95 / sidecars, rel=0.001)
