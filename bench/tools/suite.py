"""The three sidecars as separate processes, as `sidecars run` starts them, and the floor below them."""

import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import Any, Final

import grpc
import yaml

from bench.authz import check_message
from bench.tools.accesslog_server import PATH as LOG_PATH
from bench.tools.edge_requests import policy
from bench.tools.load import LoadError
from bench.tools.noop_server import PATH as CHECK_PATH
from bench.tools.processes import free_port, running, wait_for_port
from bench.tools.variants import FILTERS
from protos.accesslog_pb2 import StreamAccessLogsResponse
from protos.authz_pb2 import CheckRequest, CheckResponse
from protos.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from sidecars.demo.admin import SidecarsAdmin
from sidecars.demo.process import spawn

LIMIT_PATH: Final = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
LIMITS: Final = """\
domain: edge
descriptors:
  - key: remote_address
    rate_limit: {unit: second, requests_per_unit: 1000000}
  - key: subject
    rate_limit: {unit: second, requests_per_unit: 100000}
"""
READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class RunningSidecar:
    """A sidecar that is ready."""

    pid: int
    port: int
    admin: SidecarsAdmin


def write_files(folder: Path) -> None:
    """Write the policy, whose keys the Issuer has written, and the limits."""
    (folder / "policy.yaml").write_text(policy())
    (folder / "limits.yaml").write_text(LIMITS)


@asynccontextmanager
async def running_suite(
    folder: Path,
    transport: str,
    core: int,
    environment: Mapping[str, str],
    names: Sequence[str] = FILTERS,
) -> AsyncIterator[dict[str, RunningSidecar]]:
    """Run the named sidecars, each in its own process on `core`, with the files in `folder`."""
    async with AsyncExitStack() as stack:
        found = {}
        for name in names:
            own = Setup(name, f"{transport}-{name}", {"transport": transport})
            found[name] = await stack.enter_async_context(serve_sidecar(folder, own, core, environment))
        yield found


@dataclass(frozen=True, slots=True)
class Setup:
    """How one sidecar differs from the others in its folder."""

    name: str
    label: str
    """Names its files."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Top-level settings that are added."""
    section: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the sidecar that are added."""
    port: int = 0
    """0 for a free one."""


@asynccontextmanager
async def serve_sidecar(
    folder: Path, setup: Setup, core: int, environment: Mapping[str, str]
) -> AsyncIterator[RunningSidecar]:
    """Run one sidecar on `core` during the block, with the files in `folder`."""
    # Environment settings of the caller's own sidecars must not affect this one.
    own = {name: value for name, value in environment.items() if not name.startswith("SIDECARS_")}
    port = setup.port or free_port()
    admin = SidecarsAdmin(folder / f"{setup.label}.sock")
    file = folder / f"{setup.label}.yaml"
    file.write_text(yaml.safe_dump(_settings(folder, setup, port, admin.socket)))
    command = (sys.executable, "-m", "sidecars", "run", setup.name, "--config", str(file))
    log = file.with_suffix(".log")
    async with spawn(setup.label, command, log, stop_seconds=STOP_SECONDS, environment=own) as process:
        os.sched_setaffinity(process.child.pid, {core})
        await process.until_ready(admin.ready, READY_SECONDS)
        yield RunningSidecar(process.child.pid, port, admin)


def _settings(folder: Path, setup: Setup, port: int, admin: Path) -> dict[str, Any]:
    sections: dict[str, dict[str, Any]] = {
        "authz": {"policy": ["policy.yaml"]},
        "ratelimit": {"limits": ["limits.yaml"]},
        "accesslog": {"sinks": [{"type": "file", "path": str(folder / f"{setup.label}.jsonl")}]},
    }
    # grpcio trusts no peer, and sheds no call. A load that saturates a sidecar measures what it can answer.
    native = setup.settings.get("transport", "native") == "native"
    listen = [{"address": f"127.0.0.1:{port}", **({"trusted": True} if native else {})}]
    connections = {"connections": {"limits": {"shed_after_share": None}}} if native else {}
    return {
        "admin": {"listen": f"unix:{admin}"},
        "log": {"level": "warning"},
        "drain": {"drain_delay_seconds": 0, "grace_seconds": 2, "flush_seconds": 2},
        **connections,
        **setup.settings,
        setup.name: {**sections[setup.name], "listen": listen, **setup.section},
    }


def limit_message(subject: str) -> bytes:
    """Return Envoy's rate-limit request for a request of the subject."""
    message = RateLimitRequest(domain="edge")
    for key, value in (("remote_address", "127.0.0.1"), ("subject", subject)):
        message.descriptors.add().entries.add(key=key, value=value)
    return message.SerializeToString()


def check_of(token: str, target: str) -> bytes:
    """Return Envoy's check request for a browser's request with a token."""
    message = CheckRequest.FromString(check_message(token))
    http = message.attributes.request.http
    http.path = http.headers[":path"] = target
    return message.SerializeToString()


def with_raw_headers(check: bytes) -> bytes:
    """Return the check as Envoy sends it with `encode_raw_headers`: one line for each header, no map."""
    message = CheckRequest.FromString(check)
    http = message.attributes.request.http
    for name, value in http.headers.items():
        http.header_map.headers.add(key=name, raw_value=value.encode())
    http.headers.clear()
    return message.SerializeToString(deterministic=True)


def answers(suite: Mapping[str, RunningSidecar], token: str) -> dict[str, bytes]:
    """Return an answer of each sidecar by its gRPC path, for the floor.

    The floor gives the answers of the sidecars, so Envoy has the same work with both. Raises LoadError if a
    request is refused: a server that refuses is fast, too.
    """
    check = call(f"127.0.0.1:{suite['authz'].port}", CHECK_PATH, check_of(token, "/service-50/orders/42"))
    limit = call(f"127.0.0.1:{suite['ratelimit'].port}", LIMIT_PATH, limit_message("caller-0"))
    decided, limited = CheckResponse.FromString(check), RateLimitResponse.FromString(limit)
    if decided.status.code or not decided.ok_response.headers:
        raise LoadError(f"authz refused: {decided}")
    if limited.overall_code != RateLimitResponse.OK or not limited.statuses:
        raise LoadError(f"ratelimit refused: {limited}")
    return {CHECK_PATH: check, LIMIT_PATH: limit, LOG_PATH: StreamAccessLogsResponse().SerializeToString()}


def call(address: str, path: str, message: bytes) -> bytes:
    """Make one call with grpcio, and return the answer. Raises grpc.RpcError."""
    with grpc.insecure_channel(address) as channel:
        ask: Any = channel.unary_unary(path)
        answer: bytes = ask(message, timeout=ANSWER_SECONDS, wait_for_ready=True)
        return answer


@contextmanager
def floor(folder: Path, files: Mapping[str, bytes], core: int) -> Iterator[tuple[int, int] | None]:
    """Run nghttpd, a C server, with the given answers by path; yield its pid and port, None without it."""
    if which("nghttpd") is None:
        yield None
        return
    for path, answer in files.items():
        file = Path(f"{folder}{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\x00" + len(answer).to_bytes(4, "big") + answer)
    port = free_port()
    options = ("--no-tls", "-a", "127.0.0.1", "-d", str(folder), "--trailer=grpc-status: 0")
    with running(["nghttpd", *options, str(port)], core) as process:
        wait_for_port(port)
        yield process.pid, port
