"""Explains the limits of one request, for `sidecars limits explain`."""

import asyncio
import random
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
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
from ratelimit.explain import explain_match
from ratelimit.listing import limit_text
from ratelimit.match import Entry
from ratelimit.plan import Modes, make_plan
from ratelimit.request import Descriptor, LimitRequest
from ratelimit.rules import Node, Options
from ratelimit.stats import Stats
from ratelimit.stores.cluster import ClusterStore
from ratelimit.stores.redis import RedisStore, ScriptClient
from ratelimit.stores.split import SplitStore
from ratelimit.stores.store import Store, Take
from ratelimit.token_budgets import TokenBudgets
from sidecars.process.redis_cluster import RedisCluster, open_redis
from sidecars.settings.load import load_settings
from sidecars.settings.redis import RedisSettings

REDIS_SECONDS: Final = 2.0
"""How long the command waits for Redis."""


@dataclass(frozen=True, slots=True)
class ExplainedDescriptor:
    """A descriptor, the rule that it falls under, and what is left of the limit."""

    descriptor: str
    rule: str | None
    source: str | None
    steps: list[str]
    """How the rule was found, one entry each."""
    limit: str | None
    reason: str
    """Why no limit applies; empty if one does."""
    key: str | None
    """The key of the bucket in the store."""
    remaining: int | None
    """Hits that would pass now; None if that is unknown."""
    reset_seconds: int | None


def entries_of(text: str) -> tuple[Entry, ...]:
    """Return the entries of a descriptor such as `route=login,subject=alice`. Raises BadParameter."""
    entries: list[Entry] = []
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"expected KEY=VALUE[,KEY=VALUE...], found {text!r}")
        entries.append((key, value))
    return tuple(entries)


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
    wanted = [Descriptor(entries_of(text)) for text in descriptors]
    settings = None if config is None else load_settings(config, environ)
    ratelimit = None if settings is None else settings.ratelimit
    if ratelimit is None and config is not None:
        raise typer.BadParameter("the settings have no section ratelimit", param_hint="--config")
    options = Options() if ratelimit is None else ratelimit.options
    limits = load_limits(files if ratelimit is None else ratelimit.limits, options)
    if domain not in limits.domains:
        known = ", ".join(sorted(limits.domains))
        raise typer.BadParameter(f"unknown domain {domain!r}; known are {known}", param_hint="--domain")
    modes = Modes() if ratelimit is None else Modes(bounds=ratelimit.bounds)
    plan = make_plan(LimitRequest(domain, wanted), limits, Stats(), modes, TokenBudgets())
    prefix, left = "", None
    if settings is not None and settings.redis and ratelimit is not None and ratelimit.store == "redis":
        prefix = ratelimit.redis_prefix
        redis = [settings.redis, settings.redis_per_second]
        left = asyncio.run(_ask(redis, prefix, plan)) if plan.takes else None
    root = limits.domains[domain]
    return [_explained(root, plan, position, text, prefix, left) for position, text in enumerate(descriptors)]


async def _ask(settings: Sequence[RedisSettings | None], prefix: str, plan: LimitPlan) -> Sequence[Taken]:
    """Return what each Redis says is left: the one for all limits, and the one for short windows, if any."""
    takes = [take._replace(hits=0) for take in plan.takes]
    # Not the milliseconds of a request: a person waits longer.
    patience_ms = round(REDIS_SECONDS * 1000)
    patience = {"connect_timeout_ms": patience_ms, "operation_timeout_ms": patience_ms}
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
        answer = store.take(takes)
        return answer if isinstance(answer, list) else await answer


def _store(client: Redis | RedisCluster, prefix: str) -> Store:
    def make_breaker(_node: NodeAddress | None = None) -> CircuitBreaker:
        return CircuitBreaker(time.monotonic, random.random)

    def make_store(
        client: ScriptClient,
        breaker: CircuitBreaker,
        group_of: Callable[[Sequence[Take]], Hashable] | None = None,
    ) -> RedisStore:
        return RedisStore(client, breaker, prefix=prefix, timeout_seconds=REDIS_SECONDS, group_of=group_of)

    if isinstance(client, Redis):
        return make_store(client, make_breaker())
    return ClusterStore(client, make_store, make_breaker, prefix=prefix, timeout_seconds=REDIS_SECONDS)


def _explained(
    root: Node, plan: LimitPlan, position: int, text: str, prefix: str, left: Sequence[Taken] | None
) -> ExplainedDescriptor:
    match = explain_match(root, plan.request.descriptors[position].entries, plan.limits.options.secrets)
    steps = [f"{step.composite}: {step.how}, counts as {step.counted!r}" for step in match.steps]
    rule = plan.statuses[position].rule
    key, taken = None, None
    for index, (charge, take) in enumerate(zip(plan.charges, plan.takes, strict=True)):
        if charge.position == position:
            rule, key = charge.rule, prefix + take.key
            taken = None if left is None else left[index]
    return ExplainedDescriptor(
        text,
        None if rule is None else rule.key,
        None if rule is None else rule.source,
        steps,
        None if rule is None else limit_text(rule),
        "" if rule is not None else match.missing or "another rule of this request replaces its rule",
        key,
        None if taken is None else taken.remaining,
        None if taken is None else taken.reset_seconds,
    )


def print_explained(explained: Sequence[ExplainedDescriptor], *, json: bool) -> None:
    """Print the explanation, for people or as JSON."""
    if json:
        typer.echo(orjson.dumps([asdict(one) for one in explained], option=orjson.OPT_INDENT_2))
        return
    out = Console(highlight=False)
    for one in explained:
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
    block = Table.grid(padding=(0, 1))
    block.add_column(min_width=2)
    block.add_column(style="dim", no_wrap=True)
    block.add_column(overflow="fold")
    for name, value in rows:
        if value:
            block.add_row("", name, escape(value))
    return block
