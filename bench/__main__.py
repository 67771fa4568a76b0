"""`python -m bench` lists the benchmarks; `python -m bench NAME` runs one."""

import importlib
import inspect
import os
import pkgutil
import platform
import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

import bench
from bench.tools.goals import Figures, Goal
from bench.tools.peers import Peer, parse_peer

_EXIT_MISSED = 1
_EXIT_USAGE = 2
_QUIET_LOAD = 0.5

out = Console()
notes = Console(stderr=True)


def names() -> list[str]:
    """Return the names of all benchmarks: the other modules of this package."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(bench.__path__)
        if not module.ispkg and not module.name.startswith("_")
    )


def main(
    name: Annotated[str | None, typer.Argument(help="The benchmark to run. Default: list them.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file as JSON.")] = None,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Takes under a minute, with less precise figures.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a goal is missed.")] = False,
    transport: Annotated[
        str | None, typer.Option(help="native or grpcio, if the benchmark has the choice.")
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=ADDRESS", help="Another server to compare with, if the benchmark has the choice."
        ),
    ] = None,
) -> None:
    """Measure how fast the sidecars are, against the goals of the project."""
    if name is None:
        _list()
        return
    if name not in names():
        notes.print(f"no benchmark is named {name!r}; choose one of: {', '.join(names())}")
        raise typer.Exit(_EXIT_USAGE)
    busy = os.getloadavg()[0]
    if busy > _QUIET_LOAD:
        notes.print(f"the machine is busy (load average {busy:.1f}), which distorts the ratios")
    module: Any = importlib.import_module(f"bench.{name}")
    chosen: dict[str, Any] = {} if transport is None else {"transport": transport}
    if peer:
        chosen["peers"] = _peers(peer)
    for option in chosen:
        if option not in inspect.signature(module.run).parameters:
            notes.print(f"{name} has no choice of {option}: omit --{option.removesuffix('s')}")
            raise typer.Exit(_EXIT_USAGE)
    figures: Figures = module.run(quick=quick, say=notes.print, **chosen)
    missed = _show(figures, module.GOALS)
    if json is not None:
        machine = _machine() | {"load_average_before": busy}
        document = {"bench": name, "quick": quick, "machine": machine, "figures": figures, "missed": missed}
        json.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    if check and missed:
        raise typer.Exit(_EXIT_MISSED)


def _peers(texts: list[str]) -> list[Peer]:
    try:
        return list(map(parse_peer, texts))
    except ValueError as error:
        notes.print(f"--peer: {error}")
        raise typer.Exit(_EXIT_USAGE) from None


def _list() -> None:
    table = Table("bench", "what it measures")
    for name in names():
        doc = importlib.import_module(f"bench.{name}").__doc__ or ""
        table.add_row(name, doc.partition("\n")[0])
    out.print(table)


def _show(figures: Figures, goals: dict[str, Goal]) -> list[str]:
    """Print the figures and return the keys whose goal is missed."""
    table = Table("figure", "value", "goal", "")
    missed = []
    for key, value in figures.items():
        goal = goals.get(key)
        verdict = ""
        if goal is not None and isinstance(value, float | int):
            verdict = "met" if goal.met_by(value) else "[bold red]missed"
            if not goal.met_by(value):
                missed.append(key)
        shown = (
            f"{value:,.2f}" if isinstance(value, float) else "not measured" if value is None else str(value)
        )
        table.add_row(key, shown, str(goal or ""), verdict)
    out.print(table)
    return missed


def _machine() -> dict[str, str | float]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": sys.version.partition(" ")[0],
    }


if __name__ == "__main__":
    typer.run(main)
