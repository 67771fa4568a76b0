"""Makes a serving process from a settings file, or reports everything that is wrong with it."""

import asyncio
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from common.configfile import ConfigError, Problem
from common.os_errors import in_words
from common.redaction import NO_NAMES
from sidecars.observability.logs import Logs
from sidecars.process.assembly import BUILDERS, BoundSidecar, Builder, build, configured
from sidecars.process.bundle.start import Start, start_with_bundle
from sidecars.process.lifecycle import Process, drain_at_most_seconds, force_exit_after
from sidecars.services.sidecar import Dependencies
from sidecars.settings.load import Reading, read_compat, read_settings, reading_of
from sidecars.settings.machine import on_this_machine
from sidecars.settings.named_files import at_its_name
from sidecars.settings.per_worker import for_worker
from sidecars.settings.process import LogSettings
from sidecars.settings.redis import RedisSettings
from sidecars.settings.root import Settings
from sidecars.workers.parent_pipe import on_parent_exit, receive_settings

if TYPE_CHECKING:  # else a sidecar without a Redis would load redis-py, 10 MB
    from redis.asyncio import Redis

    from sidecars.process.redis_cluster import RedisCluster

ALL: Final = "all"

_log = structlog.get_logger("sidecars.process")


@dataclass(frozen=True, slots=True)
class Assembly:
    """The parts of a process, built but not started."""

    settings: Settings
    bound: tuple[BoundSidecar, ...]
    dependencies: Dependencies
    located: Callable[[Problem], Problem]
    """A problem of a reload, with its line in the settings file where it has none of its own."""


def assemble(
    reading: Reading, which: str, builders: Mapping[str, Builder] = BUILDERS, worker: int = 0
) -> Assembly:
    """The sidecar `which`, or `all` that the settings have a section for, as worker number `worker` runs it.

    Raises ConfigError with every problem of the settings and of each file that they name.
    """
    problems = list(reading.problems)
    settings = reading.settings
    if settings is None:
        raise ConfigError(problems)
    settings = for_worker(settings, worker)
    there = configured(settings)
    names = there if which == ALL else tuple(name for name in there if name == which)
    if not names and not problems:
        needed = "a section authz, ratelimit or accesslog" if which == ALL else f"a section {which}"
        raise ConfigError.of(reading.path, f"holds nothing to run: write {needed}")
    dependencies = _dependencies(settings)
    located = partial(at_its_name, reading, settings)
    bound: tuple[BoundSidecar, ...] = ()
    try:
        bound = build(settings, names, dependencies, builders)
    except ConfigError as error:
        problems += map(located, error.problems)
    if problems:
        raise ConfigError(problems)
    return Assembly(settings, bound, dependencies, located)


def _assemble_bundle(
    start: Start, which: str, builders: Mapping[str, Builder] = BUILDERS, worker: int = 0
) -> Assembly:
    """As `assemble`. If the bundle that is kept cannot be used, a newer one is fetched once."""
    try:
        assembly = assemble(start.reading, which, builders, worker)
    except ConfigError:
        if not start.replace():
            raise
        assembly = assemble(start.reading, which, builders, worker)
    start.built()
    return assembly


def run(
    path: Path, which: str, environ: Mapping[str, str], builders: Mapping[str, Builder] = BUILDERS
) -> int:
    """Run the sidecar `which`, or `all`, until SIGTERM or SIGINT, in as many processes as `workers` says.

    Returns the exit code. Raises ConfigError before anything is bound, and OSError when an address cannot be.
    """
    reading = read_settings(path, environ)
    return _run(reading, which, environ, ("--config", str(path)), builders)


def run_compat(which: str, environ: Mapping[str, str]) -> int:
    """As `run`, with settings made of the variables of envoyproxy/ratelimit in `environ`."""
    reading, without_effect = read_compat(environ)
    return _run(reading, which, environ, ("--compat",), without_effect=without_effect)


def _run(
    reading: Reading,
    which: str,
    environ: Mapping[str, str],
    arguments: Sequence[str],
    builders: Mapping[str, Builder] = BUILDERS,
    without_effect: Mapping[str, str] = MappingProxyType({}),
) -> int:
    reading = on_this_machine(reading, BUILDERS if which == ALL else (which,))
    logs = Logs(reading.settings.log if reading.settings is not None else LogSettings())
    try:
        with start_with_bundle(reading, f"{which}-0") as start:
            assembly = _assemble_bundle(start, which, builders)
            if without_effect:
                text = "variables of envoyproxy/ratelimit that have no effect"
                _log.warning(text, variables=without_effect)
            if reading.settings is None or reading.settings.workers == 1:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(_process(assembly, environ).run())
                return 0
        from sidecars.workers.supervisor import supervise  # a process without workers does not need it

        del assembly  # built only to find the problems once, and not in each worker
        module = (sys.executable, "-P", "-m", "sidecars")
        command = (*module, "run", which, *arguments, "--worker")
        return supervise(reading.settings, command, environ)
    finally:
        logs.stop()


def run_worker(path: Path, which: str, environ: Mapping[str, str], worker: int) -> int:
    """Run as worker number `worker` of a supervisor, whose settings come over standard input.

    `path` is the file that the supervisor read. Returns the exit code. Raises OSError where there is no
    supervisor.
    """
    settings = receive_settings(sys.stdin.buffer)
    structlog.contextvars.bind_contextvars(worker=worker)
    logs = Logs(settings.log)
    try:
        with start_with_bundle(reading_of(path, settings, environ), f"{which}-{worker}") as start:
            assembly = _assemble_bundle(start, which, worker=worker)
            process = _process(assembly, environ)

            async def until_parent_exits() -> None:
                at_most_seconds = drain_at_most_seconds(settings.drain)
                on_parent_exit(sys.stdin.fileno(), process.stop, partial(force_exit_after, at_most_seconds))
                await process.run()

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(until_parent_exits())
    except ConfigError as error:
        # Into the log, whose lines name the worker: other workers log at the same time.
        _log.error("cannot start", problems=[str(problem) for problem in error.problems])
        return 2
    except OSError as error:
        _log.error("cannot start", problems=[in_words(error)])
        return 1
    finally:
        logs.stop()
    return 0


def _process(assembly: Assembly, environ: Mapping[str, str]) -> Process:
    return Process(
        assembly.settings,
        assembly.bound,
        assembly.dependencies,
        environ,
        force_exit_after,
        assembly.located,
    )


def _redis(settings: RedisSettings | None) -> "Redis | RedisCluster | None":
    if settings is None:
        return None
    from sidecars.process.redis_cluster import open_redis

    return open_redis(settings)


def _redis_for_log(settings: RedisSettings | None) -> "Callable[[int], Redis] | None":
    if settings is None or settings.cluster is not None:
        return None
    from sidecars.process.redis import connect

    def make_client(timeout_ms: int) -> "Redis":
        changes = {"operation_timeout_ms": timeout_ms, "connect_timeout_ms": timeout_ms, "max_connections": 4}
        return connect(settings.model_copy(update=changes))

    return make_client


def _dependencies(settings: Settings) -> Dependencies:
    return Dependencies(
        registry=CollectorRegistry(),
        wall_clock=time.time,
        monotonic_clock=time.monotonic,
        random=random.random,
        redis=_redis(settings.redis),
        redis_for_log=_redis_for_log(settings.redis),
        redis_per_second=_redis(settings.redis_per_second),
        policy=() if settings.authz is None else settings.authz.policy,
        secret_names=NO_NAMES if settings.accesslog is None else settings.accesslog.redact.names,
        workers=settings.workers,
    )
