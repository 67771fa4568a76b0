"""What is built from intent allows, denies, limits and logs, in a real Envoy with the real sidecars."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
import pytest
import pytest_asyncio

from edge.intent.sources import read_folder
from sidecars.demo.ask import EdgeResponse, ask
from sidecars.demo.rows import bearer
from sidecars.demo.until import until
from tests.edge.estates import EXAMPLE
from tests.edge.served import Served, serve

pytestmark = pytest.mark.envoy

CHECKOUT, SEARCH, PROFILES = "checkout.example.com", "api.example.com", "eu.accounts.example.com"
STAFF, CUSTOMERS = "https://staff.idp.example", "https://customers.idp.example"


def intent() -> dict[str, str]:
    """Return the example, in which everything is logged, and search allows a client three queries an hour."""
    texts = read_folder(EXAMPLE)
    change(texts, "platform.yaml", "sample: 0.05", "sample: 1.0")
    change(texts, "services/search.yaml", "requests: 20, period: 1s, burst: 40", "requests: 3, period: 1h")
    return texts


def change(texts: dict[str, str], name: str, old: str, new: str) -> None:
    assert old in texts[name]
    texts[name] = texts[name].replace(old, new)


@pytest_asyncio.fixture
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    # A short name: a unix socket path has at most 107 bytes.
    async with serve(intent(), tmp_path_factory.mktemp("e")) as served:
        yield served


async def get(
    edge: Served, host: str, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> EdgeResponse:
    return await ask(edge.url, path, method=method, headers={"host": host, **(headers or {})})


async def record_of(edge: Served, answer: EdgeResponse) -> dict[str, Any]:
    return await edge.record(answer.headers["x-request-id"])


async def test_every_team_gets_what_its_file_says(edge: Served) -> None:
    reader = bearer(edge.provider.token("alice", "orders:read", iss=STAFF))
    allowed = await get(edge, CHECKOUT, "/orders/7?email=a@example.com&coupon=C1", reader)
    assert allowed.status == 200
    assert allowed.upstream_values("x-auth-subject") == ["alice"]
    assert (await get(edge, CHECKOUT, "/orders/7")).status == 401
    denied = await get(edge, CHECKOUT, "/orders", reader, "POST")
    assert denied.status == 403
    missing = await get(edge, CHECKOUT, "/orders/7/refund", reader)
    assert missing.status == 404
    assert (await get(edge, "unknown.example", "/orders")).status == 404
    profile = await get(edge, PROFILES, "/v1/profiles/alice", reader)
    assert profile.status == 200
    assert (await get(edge, PROFILES, "/v1/profiles/bob", reader)).status == 403
    # Search accepts tokens of customers alone.
    assert (await get(edge, SEARCH, "/search/saved/x", reader)).status == 403
    customer = bearer(edge.provider.token("carol", iss=CUSTOMERS))
    assert (await get(edge, SEARCH, "/search/saved/x", customer)).status == 200

    revision = edge.built.revision
    record = await record_of(edge, allowed)
    assert (record["route"], record["authz_rule"]) == ("checkout.orders-read", "checkout.orders-read")
    assert record["authz_policy_revision"] == record["ratelimit_revision"] == revision
    assert record["tags"]["edge_revision"] == revision
    assert record["query"].startswith("email=hmac-")
    assert record["query"].endswith("&coupon=C1")
    record = await record_of(edge, denied)
    assert (record["authz_rule"], record["authz_policy_revision"]) == ("checkout.orders-write", revision)
    record = await record_of(edge, missing)
    assert record["tags"]["edge_revision"] == revision
    assert record["response_flags"] == ["NR"]
    assert not {"authz_rule", "ratelimit_outcome", "route"} & record.keys()
    record = await record_of(edge, profile)
    assert {"method", "path", "duration_us"} < record.keys()
    assert not {"cluster", "authority", "tags", "user_agent"} & record.keys()


async def test_a_limit_of_one_team_refuses_no_request_of_another(edge: Served) -> None:
    answers = [await get(edge, SEARCH, "/search?q=a") for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert (await get(edge, CHECKOUT, "/status")).status == 200
    record = await record_of(edge, answers[-1])
    assert record["ratelimit_rule"] == "edge.service_search.route_query.limit_1.remote_address"
    assert record["ratelimit_revision"] == edge.built.revision
    assert (record["route"], record["code"]) == ("search.query", 429)


async def test_another_build_replaces_policy_limits_and_log_rules_without_a_restart(edge: Served) -> None:
    texts = intent()
    change(texts, "services/checkout.yaml", "who: {allow: anyone}", "who: {allow: {roles: [operator]}}")
    assert (await get(edge, CHECKOUT, "/status")).status == 200
    built = edge.build(texts)

    async def refused() -> bool:
        return (await get(edge, CHECKOUT, "/status")).status == 401

    await until(refused, "the changed rule decides")
    reader = bearer(edge.provider.token("alice", "orders:read", iss=STAFF))

    async def all_new() -> bool:
        record = await record_of(edge, await get(edge, CHECKOUT, "/orders", reader))
        return bool(record["authz_policy_revision"] == record["ratelimit_revision"] == built.revision)

    await until(all_new, "the records name the new revision")
    record = await record_of(edge, await get(edge, CHECKOUT, "/orders", reader))
    # Envoy still has the routes of the build before, and says so.
    assert record["tags"]["edge_revision"] == edge.built.revision
    assert orjson.loads(built.files["accesslog.json"])["revision"] == built.revision


async def test_an_envoy_that_follows_the_files_needs_no_restart_for_a_new_route(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("f")
    (folder / "built").mkdir()
    monkeypatch.chdir(folder / "built")
    async with serve(intent(), folder, following=True) as edge:

        async def serves(path: str) -> bool:
            return (await get(edge, CHECKOUT, path)).status == 200

        await until(lambda: serves("/status"), "Envoy serves the first build")
        texts = intent()
        change(texts, "services/checkout.yaml", "paths: [/status]", "paths: [/status, /version]")
        built = edge.build(texts)
        await until(lambda: serves("/version"), "Envoy serves the new route")
        record = await record_of(edge, await get(edge, CHECKOUT, "/nothing"))
        assert record["tags"]["edge_revision"] == built.revision
        assert await edge.envoy.counter("listener_manager.listener_modified") == 0
        assert await edge.envoy.counter("listener_manager.listener_in_place_updated") == 0
