"""Explains the limits of one request, for `sidecars limits explain`."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

import orjson
import typer
from redis.asyncio import Redis
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.buckets import Taken
from common.circuit_breaker import CircuitBreaker
from common.redis_cluster import NodeAddress
from ratelimit.config import load_limits
from ratelimit.decision import LimitPlan
from ratelimit.explain_request import ExplainedDescriptor, ask_left, explained, plan_of
from ratelimit.plan import Modes
from ratelimit.request import RequestError
from ratelimit.rules import CompiledLimits, Options
from ratelimit.stores.cluster import ClusterStore
from ratelimit.stores.redis import RedisStore
from ratelimit.stores.split import SplitStore
from ratelimit.stores.store import Store
from sidecars.cli.limits_running import ask_running, settings_in
from sidecars.process.redis_cluster import RedisCluster, open_redis
from sidecars.services.xds.limits import kept_documents
from sidecars.settings.redis import RedisSettings

REDIS_SECONDS: Final = 2.0
"""How long the command waits for Redis."""

PATIENCE_MS: Final = round(REDIS_SECONDS * 1000)


def explain(
    config: Path | None,
    files: Sequence[Path],
    domain: str,
    descriptors: Sequence[str],
    environ: dict[str, str],
) -> list[ExplainedDescriptor]:
    """Return the explanation of each descriptor of one request, by a settings file or limits files.

    With `store: redis` in the settings, Redis is asked what is left, and nothing is charged.

    Raises ConfigError for bad settings or limits, StoreError if Redis does not answer, and BadParameter.
    """
    settings = None if config is None else settings_in(config, environ)
    ratelimit = None if settings is None else settings.ratelimit
    if ratelimit is None and config is not None:
        raise typer.BadParameter("the settings have no section ratelimit", param_hint="--config")
    options = Options() if ratelimit is None else ratelimit.options
    xds = None if ratelimit is None else ratelimit.xds
    sent = () if xds is None else kept_documents(xds.state_file)
    limits = load_limits(files if ratelimit is None else ratelimit.limits, options, sent)
    modes = Modes() if ratelimit is None else Modes(bounds=ratelimit.bounds)
    plan = _plan(limits, domain, descriptors, modes)
    prefix, left = "", None
    if settings is not None and settings.redis and ratelimit is not None and ratelimit.store == "redis":
        prefix = ratelimit.redis_prefix
        redis = [settings.redis, settings.redis_per_second]
        left = asyncio.run(_ask(redis, prefix, plan)) if plan.takes else None
    return explained(plan, descriptors, prefix, left)


def _plan(limits: CompiledLimits, domain: str, descriptors: Sequence[str], modes: Modes) -> LimitPlan:
    try:
        return plan_of(limits, domain, descriptors, modes)
    except (ValueError, RequestError) as error:
        raise typer.BadParameter(str(error)) from None


def explain_running(
    config: Path, domain: str, descriptors: Sequence[str], environ: dict[str, str]
) -> list[ExplainedDescriptor]:
    """Return the explanation by the running process of a settings file, with what is left by its store.

    Raises ConfigError, NotRunningError and BadParameter.
    """
    question = {"domain": domain, "descriptors": list(descriptors)}
    settings = settings_in(config, environ)
    answer = asyncio.run(ask_running(settings, "POST", "/limits/explain", json=question))
    return [ExplainedDescriptor(**one) for one in answer]


async def _ask(settings: Sequence[RedisSettings | None], prefix: str, plan: LimitPlan) -> Sequence[Taken]:
    """Return what each Redis says is left: the one for all limits, and the one for short windows, if any."""
    # Not the milliseconds of a request: a person waits longer.
    patience = dict.fromkeys(("connect_timeout_ms", "operation_timeout_ms"), PATIENCE_MS)
    async with AsyncExitStack() as opened:
        stores: list[Store] = []
        for one in settings:
            if one is not None:
                client = open_redis(one.model_copy(update=patience))
                opened.push_async_callback(client.aclose)
                store = _store(client, prefix)
                opened.push_async_callback(store.close)
                stores.append(store)
        store = stores[0] if len(stores) == 1 else SplitStore(stores[0], stores[1], REDIS_SECONDS)
        return await ask_left(store, plan)


def _store(client: Redis | RedisCluster, prefix: str) -> Store:
    def make_breaker(_node: NodeAddress | None = None) -> CircuitBreaker:
        return CircuitBreaker(time.monotonic, random.random)

    make_store = partial(RedisStore, prefix=prefix, timeout_seconds=REDIS_SECONDS)
    if isinstance(client, Redis):
        return make_store(client, make_breaker())
    return ClusterStore(client, make_store, make_breaker, prefix=prefix, timeout_seconds=REDIS_SECONDS)


def print_explained(found: Sequence[ExplainedDescriptor], *, json: bool) -> None:
    """Print the explanation, for people or as JSON."""
    if json:
        typer.echo(orjson.dumps([asdict(one) for one in found], option=orjson.OPT_INDENT_2))
        return
    out = Console(highlight=False)
    for one in found:
        out.print(f"[bold]{escape(one.descriptor)}[/]")
        out.print(_block(one))


def _block(one: ExplainedDescriptor) -> Table:
    rows: list[tuple[str, str | None]] = [
        ("rule", f"{one.rule} ({one.source})" if one.rule else f"none: {one.reason}")
    ]
    rows += [("found by", step) for step in one.steps]
    rows += [("limit", one.limit), ("bucket", one.key)]
    if one.remaining is not None:
        rows.append(("left", f"{one.remaining}, all of it in {one.reset_seconds} s"))
    if one.banned_seconds is not None:
        rows.append(("banned", f"for another {one.banned_seconds} s: sidecars limits bans lift ends it"))
    block = Table.grid(padding=(0, 1))
    block.add_column(min_width=2)
    block.add_column(style="dim", no_wrap=True)
    block.add_column(overflow="fold")
    for name, value in rows:
        if value:
            block.add_row("", name, escape(value))
    return block
