"""Any ext_authz, rate limit or access-log server next to ours, with the same requests in the same run.

docs/performance.md says how to start envoyproxy/ratelimit, OPA-Envoy, limitador and the OpenTelemetry
Collector. Peers are measured where they run; ours runs on the core of servers.
"""

import asyncio
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import grpc

from bench.openloop.order import Order, write_requests
from bench.openloop.run import perform_on
from bench.tools.accesslog_server import PATH as LOG_PATH
from bench.tools.edge_requests import SERVICES, Issuer, Population, senders
from bench.tools.goals import Goal, Measured, Rounds
from bench.tools.listener import listener_pid
from bench.tools.load import LoadError
from bench.tools.log_messages import log_messages
from bench.tools.noop_server import PATH as CHECK_PATH
from bench.tools.processes import load_core, server_core
from bench.tools.suite import LIMIT_PATH, call, check_of, limit_message, running_suite, write_files
from bench.tools.usage import usage
from bench.transport import Say
from protos.authz_pb2 import CheckResponse
from protos.ratelimit_pb2 import RateLimitResponse

GOALS: dict[str, Goal] = {}

OURS: Final = "ours"
PATHS: Final = {"authz": CHECK_PATH, "ratelimit": LIMIT_PATH, "accesslog": LOG_PATH}
_PEER: Final = re.compile(r"([a-z][a-z0-9_]*)=([^=\s]+):(\d{1,5})")


@dataclass(frozen=True, slots=True)
class ComparePlan:
    """How long to measure."""

    rounds: int
    seconds: float
    warm_up_seconds: float
    population: Population


FULL = ComparePlan(5, 2.0, 0.5, Population(callers=10_000, requests=20_000))
QUICK = ComparePlan(2, 0.5, 0.2, Population(callers=200, requests=1_000))


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to measure."""

    name: str
    host: str
    port: int


def parse_peer(text: str) -> Peer:
    """Return the peer of `name=host:port`. Raises LoadError."""
    found = _PEER.fullmatch(text)
    if found is None or found[1] == OURS:
        raise LoadError(
            f"--peer {text!r}: write NAME=HOST:PORT, such as opa=127.0.0.1:9191; the name has lower-case "
            f"letters, digits and _, and is not {OURS!r}"
        )
    return Peer(found[1], found[2], int(found[3]))


def run(
    *,
    quick: bool,
    say: Say,
    peer: Sequence[str] = (),
    service: str = "authz",
    folder: Path | None = None,
) -> Measured:
    """Measure ours and each peer in turn, many calls at once and one after another.

    The `folder` keeps the key of the tokens between runs (keys.json is what a peer must trust).
    """
    if service not in PATHS:
        raise LoadError(f"--service {service!r}: choose one of {', '.join(PATHS)}")
    peers = [parse_peer(text) for text in peer]
    plan = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        return asyncio.run(_run(plan, place, service, peers, say))


async def _run(plan: ComparePlan, folder: Path, service: str, peers: Sequence[Peer], say: Say) -> Measured:
    issuer = Issuer(folder)
    write_files(folder)
    messages = list(_messages(service, issuer, plan.population))
    requests = write_requests(folder / f"{service}.requests", messages)
    async with AsyncExitStack() as stack:
        suite = await stack.enter_async_context(
            running_suite(folder, "native", server_core(), os.environ, (service,))
        )
        servers = [Peer(OURS, "127.0.0.1", suite[service].port), *peers]
        notes = [answer for server in servers if (answer := _first_answer(server, service, messages[0]))]
        pids = {one.name: listener_pid(one.port) for one in servers if one.host in {"127.0.0.1", "localhost"}}
        rounds = Rounds()
        order = Order(
            "grpc",
            0,
            requests,
            path=PATHS[service],
            connections=4,
            streams=16,
            seconds=plan.seconds,
            warm_up_seconds=plan.warm_up_seconds,
            tracing=True,
        )
        for number in range(plan.rounds):
            for server in servers:
                say(f"{service}, round {number + 1} of {plan.rounds}: {server.name}")
                there = replace(order, host=server.host, port=server.port)
                notes += await asyncio.to_thread(_measure, server.name, there, pids.get(server.name), rounds)
    _compare(rounds, peers, pids)
    return Measured({"service": service, **rounds.medians()}, rounds.values, {}, tuple(dict.fromkeys(notes)))


def _messages(service: str, issuer: Issuer, population: Population) -> Iterator[bytes]:
    if service == "accesslog":
        yield from log_messages(population.requests)
        return
    tokens = [issuer.token(f"caller-{number}") for number in range(population.callers)] * (service == "authz")
    for number, sender in enumerate(senders(population)):
        if service == "authz":
            yield check_of(tokens[sender], f"/service-{number % SERVICES}/orders/{number}")
        else:
            yield limit_message(f"caller-{sender}")


def _first_answer(server: Peer, service: str, message: bytes) -> str:
    """Return a note if the server refuses the first request. Raises LoadError if it does not answer."""
    try:
        answer = call(f"{server.host}:{server.port}", PATHS[service], message)
    except grpc.RpcError as error:
        raise LoadError(f"{server.name} at {server.host}:{server.port} does not answer: {error}") from error
    if service == "authz" and (code := CheckResponse.FromString(answer).status.code):
        return f"{server.name} refuses the first request with gRPC status {code}: refusals may cost less"
    if service == "ratelimit":
        limited = RateLimitResponse.FromString(answer)
        if limited.overall_code != RateLimitResponse.OK or not limited.statuses:
            return f"{server.name} counts no limit for the first request, or refuses it: that may cost less"
    return ""


def _measure(name: str, order: Order, pid: int | None, rounds: Rounds) -> list[str]:
    """Add the figures of one round, and return what went wrong."""
    measured = replace(order, warm_up_seconds=0.0)
    perform_on(replace(measured, seconds=order.warm_up_seconds), load_core())
    before = usage(pid).cpu_seconds if pid else 0.0
    many = perform_on(measured, load_core())
    if pid and many.calls:
        rounds.add(f"{name}_cpu_us", (usage(pid).cpu_seconds - before) / many.calls * 1e6)
    one = perform_on(replace(measured, connections=1, streams=1), load_core())
    rounds.add(f"{name}_rps", many.rps)
    for key, outcome in (("", many), ("one_", one)):
        rounds.add(f"{name}_{key}p50_us", outcome.latency.us(50))
        rounds.add(f"{name}_{key}p99_us", outcome.latency.us(99))
    failures = many.failures | one.failures
    return [
        *([f"{name}: calls failed: {failures}"] if failures else []),
        *([f"{name}: {many.bottleneck}"] if many.bottleneck else []),
    ]


def _compare(rounds: Rounds, peers: Sequence[Peer], pids: Mapping[str, int | None]) -> None:
    for peer in peers:
        rounds.ratio(f"ratio_{peer.name}_rps", f"{OURS}_rps", f"{peer.name}_rps")
        rounds.ratio(f"ratio_{peer.name}_one_p50", f"{OURS}_one_p50_us", f"{peer.name}_one_p50_us")
        if pids.get(peer.name) and pids.get(OURS):
            rounds.ratio(f"ratio_{peer.name}_cpu", f"{OURS}_cpu_us", f"{peer.name}_cpu_us")
