"""Shows the limits of files, or of a running process, for `sidecars limits show`."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from common.configfile import ConfigError
from ratelimit.config import load_limits
from ratelimit.listing import limits_data
from ratelimit.rules import Options
from sidecars.cli.limits_running import ask_running, settings_in
from sidecars.services.xds.limits import kept_documents


def shown_limits(
    config: Path | None, files: Sequence[Path], environ: dict[str, str], *, running: bool
) -> dict[str, Any]:
    """Return the limits of a settings file or of limits files as plain data, or those that a process uses.

    Raises ConfigError for bad settings or limits, and NotRunningError.
    """
    if config is None:
        return limits_data(load_limits(files, Options()))
    settings = settings_in(config, environ)
    if settings.ratelimit is None:
        raise ConfigError.of(config, "has no section ratelimit")
    if running:
        return dict(asyncio.run(ask_running(settings, "GET", "/rlconfig", params={"format": "json"})))
    ratelimit = settings.ratelimit
    sent = () if ratelimit.xds is None else kept_documents(ratelimit.xds.state_file)
    return limits_data(load_limits(ratelimit.limits, ratelimit.options, sent))


def print_limits(data: dict[str, Any], *, json: bool) -> None:
    """Print the limits as a tree of each domain, or as JSON."""
    if json:
        typer.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2))
        return
    out = Console(highlight=False)
    for domain in data["domains"]:
        out.print(_tree(domain, [rule for rule in data["rules"] if rule["domain"] == domain]))
    for warning in data["warnings"]:
        typer.echo(f"warning: {warning}", err=True)


def _tree(domain: str, rules: Sequence[dict[str, Any]]) -> Tree:
    root = Tree(f"[bold]{escape(domain)}[/]")
    branches: dict[tuple[str, ...], Tree] = {(): root}
    for rule in rules:
        path = tuple(rule["path"])
        for depth in range(1, len(path) + 1):
            if path[:depth] not in branches:
                branches[path[:depth]] = branches[path[: depth - 1]].add(escape(path[depth - 1]))
        branches[path].label = _label(path[-1], rule)
    return root


def _label(level: str, rule: dict[str, Any]) -> str:
    words = [rule["limit"]]
    if rule["name"]:
        words.append(f"name {rule['name']}")
    words += [f"replaces {name}" for name in rule["replaces"]]
    return f"[bold]{escape(level)}[/]: {escape(', '.join(words))} [dim]{escape(rule['source'])}[/]"
