"""Whether each Redis of the settings answers in time, fits, and allows what the sidecars do."""

import statistics
import time
from collections.abc import AsyncIterator, Iterator
from typing import Final
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from common.redis_errors import error_text
from sidecars.doctor.clocks import of_skew
from sidecars.doctor.finding import Finding, fail, ok, warn
from sidecars.doctor.redis_rights import RedisUses, lacking_rights
from sidecars.process.redis_cluster import RedisCluster, open_redis
from sidecars.process.redis_fitness import ServerFacts
from sidecars.settings.redis import RedisSettings
from sidecars.settings.root import Settings

PINGS: Final = 20
PATIENT_MS: Final = 2_000
"""The timeout here: how slow a Redis is can be told only by waiting longer than the sidecars do."""

_ACL: Final = "docs/deployment.md lists the rights for each use"


async def check_redis(settings: Settings, section: str, uses: RedisUses) -> AsyncIterator[Finding]:
    """Yield findings of the Redis in `section`, if the settings have it."""
    written: RedisSettings | None = getattr(settings, section)
    if written is None:
        return
    patient = {"operation_timeout_ms": PATIENT_MS, "connect_timeout_ms": PATIENT_MS}
    client = open_redis(written.model_copy(update=patient))
    try:
        if isinstance(client, RedisCluster):
            try:
                await client.load()
            except (RedisError, OSError, TimeoutError) as error:
                yield fail(section, error_text(error), "start the cluster, or correct url and cluster.nodes")
            for address in sorted(client.masters):
                name = f"{section} {address[0]}:{address[1]}"
                async for finding in _of_server(name, client.client(address), written, uses, in_cluster=True):
                    yield finding
        else:
            async for finding in _of_server(section, client, written, uses, in_cluster=False):
                yield finding
    finally:
        await client.aclose()


async def _of_server(
    check: str, client: Redis, written: RedisSettings, uses: RedisUses, *, in_cluster: bool
) -> AsyncIterator[Finding]:
    try:
        facts = ServerFacts.of(await client.info())
    except NoPermissionError:
        facts = None
        yield warn(check, "its user may not call INFO", f"allow +info: {_ACL}")
    except (RedisError, OSError, TimeoutError) as error:
        yield fail(
            check,
            f"does not answer: {error_text(error)}",
            f"start it, or correct {check.partition(' ')[0]}.url",
        )
        return
    if facts is not None:
        yield ok(check, f"version {facts.version}, {facts.mode}, {facts.role}")
        for misfit in facts.misfits(in_cluster=in_cluster):
            seen, _, fix = misfit.rpartition("; ")
            yield fail(check, seen or misfit, fix if seen else "see docs/deployment.md, Redis")
    async for finding in _of_latency(check, client, written):
        yield finding
    async for finding in _of_rights(check, client, uses):
        yield finding
    for finding in _of_access(check, written):
        yield finding


async def _of_latency(check: str, client: Redis, written: RedisSettings) -> AsyncIterator[Finding]:
    took: list[float] = []
    try:
        for _ in range(PINGS):
            began = time.perf_counter()
            await client.ping()
            took.append((time.perf_counter() - began) * 1000)
        before = time.time()
        seconds, microseconds = await client.time()
        after = time.time()
    except NoPermissionError:
        return  # `_of_rights` says which
    except (RedisError, OSError, TimeoutError) as error:
        yield fail(f"{check} latency", error_text(error), "see the log of Redis")
        return
    median, longest = statistics.median(took), max(took)
    seen = f"median {median:.2f} ms, longest of {PINGS} {longest:.2f} ms"
    limit = written.operation_timeout_ms
    if median > limit / 2:
        fix = "move Redis closer or raise operation_timeout_ms; Envoy waits 20 ms for a rate limit"
        yield warn(f"{check} latency", f"{seen}; operation_timeout_ms is {limit}", fix)
    else:
        yield ok(f"{check} latency", seen)
    yield of_skew(f"{check} clock", seconds + microseconds / 1e6 - (before + after) / 2, exact=True)


async def _of_rights(check: str, client: Redis, uses: RedisUses) -> AsyncIterator[Finding]:
    try:
        lacking = [problem async for problem in lacking_rights(client, uses)]
    except (RedisError, OSError, TimeoutError):
        return  # another line says that it does not answer
    if lacking:
        yield fail(f"{check} rights", f"its user may not call {', '.join(lacking)}", _ACL)
    else:
        yield ok(f"{check} rights", "the reads, writes and scripts of the configured uses are allowed")


def _of_access(check: str, written: RedisSettings) -> Iterator[Finding]:
    parts = urlsplit(written.url)
    # With Sentinels, the host is the name of the master, which is reached as they are.
    urls = (written.url,) if written.sentinel is None else written.sentinel.urls
    hosts = {urlsplit(url).hostname for url in urls if urlsplit(url).scheme != "unix"}
    protected = written.uses_tls or parts.password or written.password_file is not None
    if hosts - {"127.0.0.1", "::1", "localhost"} and not protected:
        seen = f"{', '.join(sorted(filter(None, hosts)))} is reached without TLS and without a password"
        yield warn(f"{check} access", seen, "use rediss:// and username with password_file")
