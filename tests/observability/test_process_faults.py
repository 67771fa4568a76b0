"""Prometheus scrapes real processes under faults: TLS files, clocks, revisions, workers that hang or end.

The rules are the shipped ones with all durations divided by FASTER.
"""

import asyncio
import datetime as dt
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.authority import Authority
from tests.support.bundle_server import BundleServer
from tests.support.bundles import unsigned_archive
from tests.support.dashboards import is_of_processes, without_data
from tests.support.free_ports import free_port
from tests.support.prometheus import Prometheus, serve_prometheus
from tests.support.ratelimiting import request
from tests.support.running import SIDECARS, Running, call, connect

pytestmark = pytest.mark.timeout(300)

ALL_FAULTS = "ALL_FAULTS" in os.environ
"""Whether to take a minute, as `make test-all` does, rather than try one fault."""

HEALTHY_SECONDS = 8.0 if ALL_FAULTS else 2.0
"""Longer than every `for`, made faster, but that of the tickets of burn rates."""

TEN_MINUTES_FAST = (
    "-c",
    "import time; now = time.time; time.time = lambda: now() + 600; import sidecars.cli as s; s.main()",
)
"""The command `sidecars` of a host whose clock is wrong."""

FAILURES = 3
"""In a row, from which the alert is about a loop."""

POLICY: dict[str, Any] = {"rules": [{"name": "public", "paths": ["/public"], "allow": "anyone"}]}
LIMITS: dict[str, Any] = {"domain": "edge", "descriptors": []}
SERVERS = Authority("servers")
SHOULD_RATE_LIMIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"


@dataclass
class Hosts:
    """Two hosts, the second with workers; a third comes later."""

    folder: Path
    prometheus: Prometheus
    one: Running
    two: Running
    three: Running
    bundles: BundleServer
    """The server of the bundles of the first host."""


TOKEN = "a-token-of-many-characters"


def host(folder: Path, name: str, port: int, program: tuple[str, ...] = SIDECARS, **sections: Any) -> Running:
    place = folder / name
    place.mkdir()
    (place / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    (place / "limits.yaml").write_text(yaml.safe_dump(LIMITS))
    (place / "token").write_text(TOKEN)
    admin = {"listen": f"127.0.0.1:{port}", "port_file": "admin.port", "token_file": "token"}
    settings = {"admin": admin, **sections}
    arguments = None if program is SIDECARS else ("run", "all", "--config", str(place / "sidecars.yaml"))
    return Running(place, settings, program=program, arguments=arguments, token=TOKEN)


def write_certificate(folder: Path, days: int) -> None:
    pair = SERVERS.sign("server", dt.datetime.now(dt.UTC) + dt.timedelta(days=days))
    (folder / "tls.pem").write_bytes(pair.certificate)
    (folder / "tls.key").write_bytes(pair.key)


@asynccontextmanager
async def serve_hosts(folder: Path) -> AsyncIterator[Hosts]:
    ports = {name: free_port() for name in ("one", "two", "three")}
    tls = {"cert_file": "tls.pem", "key_file": "tls.key", "reload_seconds": 0.1}
    authz = {"policy": ["policy.yaml"]}
    bundles = BundleServer()
    bundles.put("/edge.tar.gz", unsigned_archive())
    bundles.start()
    pulled = {"url": f"{bundles.url}/edge.tar.gz", "allow_http": True, "allow_addresses": ["127.0.0.0/8"]}
    one = host(
        folder,
        "one",
        ports["one"],
        authz={**authz, "listen": [{"address": "127.0.0.1:0", "tls": tls}]},
        bundle={**pulled, "folder": "bundles", "signature_required": False, "interval_seconds": 0.2},
    )
    write_certificate(one.folder, 30)
    two = host(
        folder,
        "two",
        ports["two"],
        workers=2,
        authz={**authz, "listen": [f"unix:{folder}/2.{{worker}}"]},
        ratelimit={"limits": ["limits.yaml"], "listen": [f"unix:{folder}/2r.{{worker}}"]},
    )
    three = host(
        folder, "three", ports["three"], TEN_MINUTES_FAST, authz={**authz, "listen": [f"unix:{folder}/3"]}
    )
    targets = [
        {"targets": [f"127.0.0.1:{ports[name]}"], "labels": {"cluster": "east", "node": name}}
        for name in ("one", "two")
    ]
    later = folder / "three.json"
    later.write_text("[]")
    with one, two:
        one.wait_until_ready()
        two.wait_until_ready()
        # A page waits 0.75 s for a worker that hangs.
        async with serve_prometheus(
            folder / "prometheus", {"edge-sidecars": targets}, "1s", later
        ) as prometheus:
            yield Hosts(folder, prometheus, one, two, three, bundles)
    bundles.stop()


async def test_each_alert_fires_for_its_fault_and_none_in_health(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    began = time.time()
    async with serve_hosts(tmp_path_factory.mktemp("p")) as hosts:
        await healthy(hosts)
        faults = (
            bad_reload,
            bundle_failing,
            certificate_expires,
            bad_tls_files,
            wrong_clock_and_other_policy,
            ban_storm,
            no_management_server,
            hung_worker,
            crash_loop,
            dead,
        )
        for fault in faults if ALL_FAULTS else faults[:1]:
            await fault(hosts)
        assert await hosts.prometheus.rule_problems() == []
        missing = await without_data(hosts.prometheus, began)
        assert {query for query in missing if is_of_processes(query)} == set()


async def healthy(hosts: Hosts) -> None:
    end = time.monotonic() + HEALTHY_SECONDS
    while time.monotonic() < end:
        assert await hosts.prometheus.firing() == set()
        await asyncio.sleep(0.2)


async def certificate_expires(hosts: Hosts) -> None:
    write_certificate(hosts.one.folder, 1)
    await hosts.prometheus.until_firing("CertificateExpires")
    assert {
        ("CertificateExpires", "page"),
        ("CertificateExpires", "ticket"),
    } >= await hosts.prometheus.firing()
    write_certificate(hosts.one.folder, 30)
    await hosts.prometheus.until_silent("CertificateExpires", "TlsReloadFailed")


async def bad_tls_files(hosts: Hosts) -> None:
    good = (hosts.one.folder / "tls.pem").read_bytes()
    (hosts.one.folder / "tls.pem").write_bytes(b"no certificate")
    await hosts.prometheus.until_firing("TlsReloadFailed")
    (hosts.one.folder / "tls.pem").write_bytes(good)
    await hosts.prometheus.until_silent("TlsReloadFailed")


async def bad_reload(hosts: Hosts) -> None:
    (hosts.one.folder / "policy.yaml").write_text("rules: {")
    await hosts.prometheus.until_firing("ReloadFailed")
    (hosts.one.folder / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    await hosts.prometheus.until_silent("ReloadFailed")


async def bundle_failing(hosts: Hosts) -> None:
    hosts.bundles.status = 503
    await hosts.prometheus.until_firing("BundleFailing")
    hosts.bundles.status = None
    await hosts.prometheus.until_silent("BundleFailing")


async def wrong_clock_and_other_policy(hosts: Hosts) -> None:
    rule = {"name": "more", "paths": ["/more"], "allow": "anyone"}
    (hosts.three.folder / "policy.yaml").write_text(yaml.safe_dump({"rules": [*POLICY["rules"], rule]}))
    port = yaml.safe_load(hosts.three.file.read_text())["admin"]["listen"]
    with hosts.three as three:
        three.wait_until_ready()
        found = [{"targets": [port], "labels": {"cluster": "east", "node": "three"}}]
        (hosts.folder / "three.json").write_text(json.dumps(found))
        await hosts.prometheus.until_firing("ClockOff", "RevisionsDiffer")
        (hosts.folder / "three.json").write_text("[]")
        await hosts.prometheus.until_silent("ClockOff", "RevisionsDiffer")


async def ban_storm(hosts: Hosts) -> None:
    limit = {"unit": "day", "requests_per_unit": 0, "ban": {"after": 1, "for": "1h"}}
    banning = {"domain": "edge", "descriptors": [{"key": "a", "rate_limit": limit}]}
    (hosts.two.folder / "limits.yaml").write_text(yaml.safe_dump(banning))
    hosts.two.wait_until(lambda: "edge.a" in hosts.two.get("/rlconfig?worker=0")[1])
    with connect(f"unix:{hosts.folder}/2r.0") as channel:
        for number in range(101):
            call(channel, SHOULD_RATE_LIMIT, request({"a": str(number)}))
    await hosts.prometheus.until_firing("BanStorm")
    names = [ban["id"] for ban in json.loads(hosts.two.get("/limits/bans?worker=0")[1])]
    assert hosts.two.post_json("/limits/bans/lift?worker=0", json.dumps({"names": names}))[0] == 200
    await hosts.prometheus.until_silent("BanStorm")
    (hosts.two.folder / "limits.yaml").write_text(yaml.safe_dump(LIMITS))


async def no_management_server(hosts: Hosts) -> None:
    port = free_port()
    xds = {"server": f"127.0.0.1:{free_port()}", "backoff_max_seconds": 1}
    with host(
        hosts.folder, "four", port, ratelimit={"xds": xds, "listen": [f"unix:{hosts.folder}/4"]}
    ) as four:
        four.wait_until_ready()
        found = [{"targets": [f"127.0.0.1:{port}"], "labels": {"cluster": "west", "node": "four"}}]
        (hosts.folder / "three.json").write_text(json.dumps(found))
        await hosts.prometheus.until_firing("SentLimitsStale")
        (hosts.folder / "three.json").write_text("[]")
        await hosts.prometheus.until_silent("SentLimitsStale")


def worker(hosts: Hosts, number: int) -> int:
    [pid] = [one["pid"] for one in hosts.two.config()["workers"] if one["worker"] == number]
    return int(pid or 0)


async def hung_worker(hosts: Hosts) -> None:
    pid = worker(hosts, 1)
    os.kill(pid, signal.SIGSTOP)
    await hosts.prometheus.until_firing("WorkerHangs")
    os.kill(pid, signal.SIGCONT)
    await hosts.prometheus.until_silent("WorkerHangs")


async def crash_loop(hosts: Hosts) -> None:
    """The worker ends soon after each start."""
    two, name = hosts.two, 'sidecars_worker_consecutive_failures{worker="0"}'
    while (two.metric(name) or 0) < FAILURES:
        two.wait_until(lambda: two.get("/readyz")[0] == 200)
        pid = worker(hosts, 0)
        os.kill(pid, signal.SIGKILL)
        two.wait_until(partial(lambda pid: worker(hosts, 0) != pid, pid))
    await hosts.prometheus.until_firing("RestartLoop")


async def dead(hosts: Hosts) -> None:
    hosts.one.signal(signal.SIGKILL)
    await hosts.prometheus.until_firing("SidecarsDown")
