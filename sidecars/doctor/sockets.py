"""Whether each address in the settings answers gRPC health checks, and how long its certificate lasts."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from cryptography import x509

from common.os_errors import in_words
from protos.health_pb2 import HealthCheckRequest, HealthCheckResponse
from sidecars.doctor.finding import Finding, fail, ok, warn
from sidecars.doctor.tls_relay import connect, reachable, relayed
from sidecars.settings.per_worker import for_worker
from sidecars.settings.root import Settings
from sidecars.transport.api.address import Address, TcpAddress

SECTIONS: Final = ("authz", "ratelimit", "accesslog")
CONNECT_SECONDS: Final = 2.0
HEALTH_SECONDS: Final = 2.0
SLOW_MS: Final = 50.0
"""A health check takes less than a millisecond; this long, Envoy's 20 ms for rate limits are gone."""

SHORT_DAYS: Final = 14
_DAY: Final = 86_400
_CHECK: Final = "/grpc.health.v1.Health/Check"


async def check_sockets(settings: Settings, now: float) -> AsyncIterator[Finding]:
    """Yield a finding for each address of each sidecar. `now`: seconds since 1970."""
    for worker in range(settings.workers):
        own = for_worker(settings, worker)
        for name in SECTIONS:
            section = getattr(own, name)
            for address in () if section is None else section.listen:
                yield await _of_address(name, address)
    for name in SECTIONS:
        section = getattr(settings, name)
        for address in () if section is None else section.listen:
            if address.tls is not None:
                for finding in of_certificate(f"{name} certificate", address.tls.cert_file, now):
                    yield finding


async def _of_address(name: str, address: Address) -> Finding:
    check = f"{name} {address}"
    if isinstance(address, TcpAddress) and not address.port:
        return warn(check, "the kernel chooses the port, so Envoy cannot know it", "name a port")
    start = f"start it (`sidecars run {name} --config FILE`), or read its log for the reason"
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await connect(address)
        writer.close()
    except TimeoutError:
        return fail(check, f"no connection within {CONNECT_SECONDS:g} s", start)
    except ssl.SSLError as error:
        return fail(check, f"no TLS connection: {error.reason}", "compare cert_file and key_file of its tls")
    except OSError as error:
        return fail(check, in_words(error), start)
    if address.tls is None:
        return await _health(name, _target(address), check)
    async with relayed(address) as relay:
        found = await _health(name, f"unix:{relay.target}", check)
    if relay.refusal is not None and address.tls.client_ca_file is not None:
        why = "its own is not one of client_ca_file, so its health is not checked"
        return ok(check, f"accepts TLS connections and asks for a certificate; {why}")
    return found


async def _health(name: str, target: str, check: str) -> Finding:
    # A proxy in the environment is not between Envoy and the sidecar.
    options = [("grpc.enable_http_proxy", 0), ("grpc.default_authority", "localhost")]
    try:
        async with grpc.aio.insecure_channel(target, options) as channel:
            ask: Any = channel.unary_unary(_CHECK)
            request = HealthCheckRequest(service=name).SerializeToString()
            await ask(request, timeout=HEALTH_SECONDS)  # connects, which Envoy has done before
            began = time.perf_counter()
            reply = HealthCheckResponse.FromString(await ask(request, timeout=HEALTH_SECONDS))
            took_ms = (time.perf_counter() - began) * 1000
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return fail(check, f"a server answers that is not {name}", "give each sidecar its own address")
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            hangs = f"accepts connections, and does not answer within {HEALTH_SECONDS:g} s: it hangs"
            return fail(check, hangs, "read its log, take a stack trace (py-spy dump), then start it again")
        fix = "see what listens there: ss -xlp or ss -tlnp"
        return fail(check, f"the health check ends with {error.code().name}", fix)
    if reply.status != HealthCheckResponse.SERVING:
        return fail(check, "NOT_SERVING: it starts or drains", "see /readyz on its admin port")
    if took_ms > SLOW_MS:
        return warn(check, f"serving, after {took_ms:.0f} ms", "look for a busy CPU: it answers Envoy late")
    return ok(check, "serving")


def _target(address: Address) -> str:
    if isinstance(address, TcpAddress):
        host = reachable(address.host)
        return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
    return f"unix-abstract:{address.path[1:]}" if address.abstract else f"unix:{address.path}"


def of_certificate(check: str, file: Path, now: float) -> Iterator[Finding]:
    """Yield the finding of the first certificate in `file`. `now`: seconds since 1970."""
    try:
        ends = x509.load_pem_x509_certificates(file.read_bytes())[0].not_valid_after_utc.timestamp()
    except OSError as error:
        yield fail(check, f"{file}: {in_words(error)}", "name a file that this user can read")
        return
    except ValueError:
        yield fail(check, f"{file} holds no PEM certificate", "write the certificate chain into it")
        return
    day = datetime.fromtimestamp(ends, UTC).strftime("%Y-%m-%d")
    days = (ends - now) / _DAY
    renew = f"replace {file}: it is read again without a restart"
    if days < 0:
        yield fail(check, f"has expired on {day}: Envoy refuses it", renew)
    elif days < SHORT_DAYS:
        yield warn(check, f"expires on {day}, in {days:.0f} days", renew)
    else:
        yield ok(check, f"valid until {day}")
