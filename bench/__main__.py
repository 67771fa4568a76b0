"""`python -m bench` lists the benchmarks and commands; `python -m bench NAME` runs one."""

import ast
import importlib
import inspect
import os
import pkgutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import bench
from bench.openloop.order import MOST_CONNECTIONS
from bench.report.write import write_report
from bench.tools.budget import BUDGET_FILE, judge, load_budget
from bench.tools.diff import changes, incomparable
from bench.tools.document import Document, DocumentError, document, missed, read_documents, write_document
from bench.tools.goals import Figures, Goal, Measured
from bench.tools.load import LoadError
from bench.tools.probe import ProbePlan, Questions, parse_target
from bench.tools.probe import probe as run_probe
from common.configfile import ConfigError

_EXIT_MISSED = 1
_EXIT_USAGE = 2
_EXIT_NOT_MEASURED = 3
_QUIET_LOAD = 0.5

out = Console()
notes = Console(stderr=True)
app = typer.Typer(
    add_completion=False, help="Measure how fast the sidecars are, against the goals of the project."
)


def names() -> list[str]:
    """Return the names of all benchmarks: the other modules of this package."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(bench.__path__)
        if not module.ispkg and not module.name.startswith("_")
    )


def _first_line(name: str) -> str:
    """Return the first line of a benchmark's docstring without importing it."""
    text = (Path(bench.__path__[0]) / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    """Measure how fast the sidecars are, against the goals of the project."""
    if context.invoked_subcommand is None:
        table = Table("bench", "what it measures")
        for name in names():
            table.add_row(name, _first_line(name))
        out.print(table)
        out.print("Commands: probe, check, diff, report; `python -m bench NAME --help` lists the options.")


def _bench_command(name: str) -> Callable[..., None]:
    def command(
        json: Annotated[Path | None, typer.Option(help="Write the result to this file as JSON.")] = None,
        report: Annotated[
            Path | None, typer.Option(help="Write the result into this folder, and the report of all in it.")
        ] = None,
        *,
        quick: Annotated[
            bool, typer.Option("--quick", help="Takes about a minute, with less precise figures.")
        ] = False,
        check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a goal is missed.")] = False,
        transport: Annotated[
            str | None, typer.Option(help="native or grpcio, if the benchmark has the choice.")
        ] = None,
        peer: Annotated[
            list[str] | None,
            typer.Option(
                metavar="NAME=ADDRESS",
                help="Another server to measure (compare, ratelimit); repeat it.",
            ),
        ] = None,
        service: Annotated[
            str | None, typer.Option(help="authz, ratelimit or accesslog: what the peers are (compare).")
        ] = None,
        folder: Annotated[
            Path | None,
            typer.Option(help="Keeps the key of the tokens between runs (compare); gets the plots (fleet)."),
        ] = None,
        baseline: Annotated[
            Path | None, typer.Option(help="The source tree to compare with (instructions).")
        ] = None,
        minutes: Annotated[float | None, typer.Option(help="How long the load lasts (soak).")] = None,
    ) -> None:
        choices = {
            "transport": transport,
            "peer": peer,
            "service": service,
            "folder": folder,
            "baseline": baseline,
            "minutes": minutes,
        }
        _run(name, _Outputs(json, report), quick=quick, check=check, choices=choices)

    return command


for _name in names():
    app.command(_name, help=_first_line(_name))(_bench_command(_name))


@dataclass(frozen=True, slots=True)
class _Outputs:
    """Where a result goes."""

    json: Path | None
    report: Path | None

    def write(self, content: Document) -> None:
        """Write the result, and the report of all results in its folder."""
        if self.json is not None:
            write_document(self.json, content)
        if self.report is not None:
            write_document(self.report / f"{content['bench']}.json", content)
            notes.print(f"report: {write_report(self.report)}")


def _run(name: str, outputs: _Outputs, *, quick: bool, check: bool, choices: dict[str, Any]) -> None:
    busy = os.getloadavg()[0]
    if busy > _QUIET_LOAD:
        notes.print(f"the machine is busy (load average {busy:.1f}), which distorts the ratios")
    module: Any = importlib.import_module(f"bench.{name}")
    chosen = {key: value for key, value in choices.items() if value is not None}
    for key in chosen.keys() - inspect.signature(module.run).parameters.keys():
        notes.print(f"{name} has no choice of {key}: omit --{key}")
        raise typer.Exit(_EXIT_USAGE)
    try:
        with _progress(name) as say:
            result: Measured | Figures = module.run(quick=quick, say=say, **chosen)
    except LoadError as error:
        notes.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(_EXIT_MISSED) from error
    measured = result if isinstance(result, Measured) else Measured(result)
    _show(measured, module.GOALS)
    outputs.write(document(name, measured, module.GOALS, quick=quick, load_average=busy))
    if check and missed(measured, module.GOALS):
        raise typer.Exit(_EXIT_MISSED)


@contextmanager
def _progress(name: str) -> Iterator[Callable[[str], None]]:
    """Show what a benchmark says next to a bar on a terminal, and on lines elsewhere."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=notes, transient=True) as bar:
        task = bar.add_task(name, total=None)

        def say(text: str) -> None:
            bar.update(task, description=f"{name}: {text}")
            if not notes.is_terminal:
                notes.print(text)

        yield say


def _show(measured: Measured, goals: dict[str, Goal]) -> None:
    table = Table("figure", "value", "goal", "")
    wrong = missed(measured, goals)
    shown = measured.headlines or tuple(measured.figures)
    for key in shown:
        if key not in measured.figures:
            continue
        value = measured.figures[key]
        goal = goals.get(key)
        verdict = "" if goal is None or value is None else "[bold red]missed" if key in wrong else "met"
        table.add_row(key, _shown(value), str(goal or ""), verdict)
    out.print(table)
    if measured.headlines:
        out.print(f"{len(measured.figures)} figures are in the JSON (--json, --report).")
    for note in measured.notes:
        notes.print(f"note: {note}", markup=False, soft_wrap=True)


def _shown(value: float | str | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


@app.command()
def probe(
    envoy: Annotated[
        str, typer.Option(help="http://HOST:PORT/PATH of your Envoy's listener with the filters.")
    ],
    without: Annotated[
        str | None, typer.Option(help="The same for a listener without them, to see what they add.")
    ] = None,
    path: Annotated[list[str] | None, typer.Option(help="A path to request; repeat it.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="A header, `name: value`; repeat it.")] = None,
    tokens: Annotated[Path | None, typer.Option(help="A file with a bearer token on each line.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Requests a second. Default: saturate the listener, then 25, 50 and 75 % of that."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each load lasts.")] = 5.0,
    connections: Annotated[int, typer.Option(min=1, max=MOST_CONNECTIONS)] = 16,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    json: Annotated[Path | None, typer.Option(help="Write the result to this file as JSON.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the result and its report into this folder.")
    ] = None,
) -> None:
    """Measure your own Envoy with and without the filters."""
    busy = os.getloadavg()[0]
    try:
        bearer = tokens.read_text(encoding="ascii").split() if tokens is not None else []
        targets = {"filters": parse_target(envoy)}
        if without is not None:
            targets["none"] = parse_target(without)
        questions = Questions(path or (), header or (), bearer)
        plan = ProbePlan(rate, seconds, connections, rounds)
        with _progress("probe") as say, tempfile.TemporaryDirectory() as folder:
            measured = run_probe(targets, questions, plan, Path(folder), say)
    except (LoadError, OSError, UnicodeDecodeError, ValueError) as error:
        notes.print(f"probe: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(_EXIT_USAGE) from error
    except subprocess.CalledProcessError as error:
        said = error.output.decode(errors="replace")[-2000:]
        notes.print(f"probe: the load failed: {said}", markup=False, soft_wrap=True)
        raise typer.Exit(_EXIT_MISSED) from error
    _show(measured, {})
    _Outputs(json, report).write(document("probe", measured, {}, quick=False, load_average=busy))


@app.command()
def check(
    results: Annotated[list[Path], typer.Argument(help="Files of --json, or folders of --report.")],
    budget: Annotated[Path, typer.Option(help="The goals.")] = BUDGET_FILE,
) -> None:
    """Compare results with the budget. Exits with 1 if a goal is missed, with 3 if one was not measured."""
    try:
        judged = judge(load_budget(budget), read_documents(results))
    except (ConfigError, DocumentError) as error:
        notes.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(_EXIT_USAGE) from error
    table = Table("figure", "value", "goal", "")
    for one in judged:
        colour = {"met": "", "missed": "[bold red]", "not measured": "[yellow]"}[one.verdict]
        table.add_row(f"{one.bench}.{one.figure}", _shown(one.value), str(one.goal), colour + one.verdict)
    out.print(table)
    if not judged:
        notes.print("no goal is about these results")
        raise typer.Exit(_EXIT_NOT_MEASURED)
    verdicts = {one.verdict for one in judged}
    if "missed" in verdicts:
        raise typer.Exit(_EXIT_MISSED)
    if "not measured" in verdicts:
        raise typer.Exit(_EXIT_NOT_MEASURED)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A folder of --report.")]) -> None:
    """Write the report of the results in a folder again: report.html and report.md."""
    try:
        out.print(str(write_report(folder)))
    except (ConfigError, DocumentError) as error:
        notes.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(_EXIT_USAGE) from error


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="A file of --json, or a folder of --report.")],
    after: Annotated[Path, typer.Argument(help="The same, later.")],
    *,
    everything: Annotated[bool, typer.Option("--all", help="Show what may be noise, too.")] = False,
) -> None:
    """Show what changed between two results beyond noise: the rounds of a figure do not overlap."""
    try:
        old, new = read_documents([before]), read_documents([after])
    except DocumentError as error:
        notes.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(_EXIT_USAGE) from error
    for reason in incomparable(old, new):
        notes.print(f"note: {reason}", markup=False, soft_wrap=True)
    found = list(changes(old, new))
    table = Table("figure", "before", "after", "change", "")
    for one in sorted(found, key=lambda one: (one.bench, -abs(one.share))):
        if everything or not one.noise:
            name = f"{one.bench}.{one.figure}"
            verdict = one.noise or one.verdict
            table.add_row(name, _shown(one.before), _shown(one.after), f"{one.share:+.1%}", verdict)
    out.print(table)
    changed = sum(not one.noise for one in found)
    out.print(f"{changed} of {len(found)} figures changed beyond noise")


if __name__ == "__main__":
    app(prog_name="python -m bench")
