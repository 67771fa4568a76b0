"""`python -m bench envoy`: what it runs, and how its figures follow from what it measures."""

import asyncio
import os
import signal
from pathlib import Path

import orjson
import pytest

from bench.envoy import GOALS, HEADLINES, SETS, derive
from bench.openloop.order import Order
from bench.tools.edge_bench import edge_bench
from bench.tools.edge_requests import Population, realistic_requests
from bench.tools.goals import Rounds
from bench.tools.load import LoadError
from bench.tools.processes import python_server
from bench.tools.usage import usage
from bench.tools.variants import FILTERS, configuration, variants
from sidecars.demo.envoy import find_envoy, scripts_folder
from tests.support.envoy_config import check_configuration

ANSWERERS = ("native", "floor", "grpcio")
PORTS = {(kind, name): 9000 + number for number, name in enumerate(FILTERS) for kind in ANSWERERS}


def test_every_filter_is_measured_alone_and_with_the_others() -> None:
    found = {one.name: one for one in variants(ANSWERERS)}
    assert {f"{kind}_{name}" for kind in ANSWERERS for name in SETS} < set(found)
    assert not found["none"].filters
    assert found["floor_all"].filters == FILTERS
    assert not found["native_authz_header_map"].raw_headers


def test_without_a_floor_the_others_are_measured() -> None:
    names = {one.name for one in variants(("native", "grpcio"))}
    assert names >= {"none", "native_all", "grpcio_all"}
    assert not any("floor" in name for name in names)


@pytest.mark.envoy
async def test_envoy_accepts_the_listeners_without_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "envoy.json"
    file.write_bytes(orjson.dumps(configuration(variants(ANSWERERS), PORTS, 8080)))
    assert await check_configuration(find_envoy(os.environ, scripts_folder()), file) == ""


def test_listeners_differ_from_the_shipped_edge_in_their_filters_only() -> None:
    listeners = configuration(variants(ANSWERERS), PORTS, 8080)["static_resources"]["listeners"]
    managers = {one["name"]: one["filter_chains"][0]["filters"][0]["typed_config"] for one in listeners}
    filters = {
        name: [one["name"].rpartition(".")[2] for one in manager["http_filters"]]
        for name, manager in managers.items()
    }
    assert filters["none"] == ["router"]
    assert filters["native_authz"] == ["ext_authz", "router"]
    assert filters["floor_all"] == ["ext_authz", "ratelimit", "router"]
    assert [name for name, manager in managers.items() if "access_log" in manager] == [
        name for name in managers if name.endswith(("accesslog", "all", "untraced"))
    ]
    assert {name for name, manager in managers.items() if "tracing" not in manager} == {
        "native_all_untraced",
        "floor_all_untraced",
    }
    assert all(manager["normalize_path"] for manager in managers.values())


def test_realistic_requests_differ_and_few_callers_send_most() -> None:
    tokens = [f"token-{number}" for number in range(1000)]
    requests = list(realistic_requests(tokens, Population(1000, 5000)))
    assert len(set(requests)) == 5000
    targets, senders, traces = set(), [], set()
    for request in requests:
        lines = request.decode().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:] if line)
        targets.add(lines[0])
        senders.append(fields["authorization"])
        traces.add(fields["traceparent"])
    assert len(targets) == len(traces) == 5000
    counts = sorted((senders.count(sender) for sender in set(senders)), reverse=True)
    assert sum(counts[:100]) > 2500
    assert len(counts) > 500
    assert requests == list(realistic_requests(tokens, Population(1000, 5000)))


def invented(*, floor: bool) -> Rounds:
    rounds = Rounds()
    kinds = ["native", "grpcio", *(["floor"] if floor else [])]
    for scale in (1.0, 2.0, 3.0):
        for kind, rps in zip(kinds, (900.0, 300.0, 1000.0), strict=False):
            rounds.add(f"{kind}_all_rps", rps * scale)
            rounds.add(f"{kind}_all_best_case_rps", rps * scale)
            rounds.add(f"{kind}_all_full_p99_us", 1e6 / rps)
        for name in (*FILTERS, "envoy"):
            rounds.add(f"{name}_cpu_us", 100.0 * scale)
        for chosen in SETS:
            for percentile in ("p50", "p90", "p99", "p999"):
                for kind, us in (("none", 100.0), ("native", 400.0), ("floor", 300.0)):
                    rounds.add(f"{chosen}_50_{kind}_{percentile}_us", us)
    return rounds


def test_the_budget_follows_from_the_rounds() -> None:
    rounds = invented(floor=True)
    derive(rounds, has_floor=True, loads=(50,))
    figures = rounds.medians()
    assert figures["ratio_floor_rps"] == pytest.approx(0.9)
    assert figures["ratio_floor_p99"] == pytest.approx(1 / 0.9)
    assert figures["ratio_grpcio_rps"] == pytest.approx(3)
    assert figures["cpu_ratio"] == pytest.approx(3)
    assert figures["authz_50_native_added_p99_us"] == 300
    assert figures["ratio_added_p50"] == pytest.approx(1.5)
    assert set(GOALS) <= set(figures)
    assert {key for key in HEADLINES if key.endswith("added_p99_us")} <= set(figures)


def test_without_a_floor_its_ratios_are_not_measured() -> None:
    rounds = invented(floor=False)
    derive(rounds, has_floor=False, loads=(50,))
    figures = rounds.medians()
    assert "ratio_floor_rps" not in figures
    assert figures["ratio_grpcio_rps"] == pytest.approx(3)


def test_rounds_that_differ_much_are_called_noise() -> None:
    rounds = Rounds()
    for value in (100.0, 101.0, 150.0):
        rounds.add("none_rps", value)
        rounds.add("calm_rps", 100.0 + value / 100)
    assert "differs by 50% between rounds" in rounds.noise("none_rps")
    assert not rounds.noise("calm_rps")


def test_the_upstream_answers_requests_in_any_pieces() -> None:
    async def answered(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = b"POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nbodyGET / HTTP/1.1\r\n\r\n"
        for at in range(len(data)):
            writer.write(data[at : at + 1])
            await writer.drain()
        found = await reader.readexactly(2 * 67)
        writer.close()
        await writer.wait_closed()
        return found

    with python_server("bench.tools.static_upstream") as (process, port):
        found = asyncio.run(answered(port))
        assert found.count(b"HTTP/1.1 200 OK\r\n") == 2
        assert usage(process.pid).cpu_seconds > 0
        assert usage(process.pid).resident_bytes > 1_000_000


@pytest.mark.envoy
@pytest.mark.timeout(240)
async def test_all_filters_are_loaded_through_a_real_envoy(tmp_path: Path) -> None:
    said: list[str] = []
    async with edge_bench(tmp_path, Population(callers=20, requests=200), said.append) as bench:
        listeners = {one.name: one for one in bench.listeners}
        order = Order("http1", 0, bench.realistic, connections=4, seconds=0.5, warm_up_seconds=0.0)
        full = await bench.saturate(listeners["native_all"], order, measure_cpu=True)
        assert full.result.rps > 10
        assert set(full.cpu_us) >= set(FILTERS)
        assert all(spent > 0 for spent in full.cpu_us.values())
        slow = Order("http1", 0, bench.realistic, per_second=50, seconds=0.5, warm_up_seconds=0.0)
        for name in (
            "none",
            "native_authz",
            "grpcio_all",
            *(["floor_all"] if "floor_all" in listeners else []),
        ):
            outcome = await bench.open_loop(listeners[name], slow)
            assert outcome.calls == pytest.approx(25, abs=1)
        await bench.check_errors()
        assert (tmp_path / "native-accesslog.jsonl").stat().st_size > 0
        assert bench.resident_mb()["authz"] > 10

        # Requests without a limit look fast: Envoy lets them pass when the sidecar is away.
        os.kill(bench.sidecars["native", "ratelimit"].pid, signal.SIGKILL)
        await bench.open_loop(listeners["native_ratelimit"], slow)
        with pytest.raises(LoadError, match="ratelimit"):
            await bench.check_errors()
        os.kill(bench.sidecars["native", "authz"].pid, signal.SIGKILL)
        with pytest.raises(LoadError, match="native_authz: requests failed"):
            await bench.open_loop(listeners["native_authz"], slow)
