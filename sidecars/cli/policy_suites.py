"""Runs test suites, for `sidecars policy test`."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from authz.policy.compile.compile import Policy
from authz.policy.compile.load import load_policy
from authz.tools.suites.coverage import Coverage
from authz.tools.suites.load import Suite, load_suites
from authz.tools.suites.run import CaseResult, Runner
from common.configfile import ConfigError
from common.os_errors import in_words
from sidecars.cli.exit import WRONG
from sidecars.cli.policy_tree import tree
from sidecars.cli.report import report


def run_suites(
    suites: list[Path],
    policy: list[Path] | None,
    junit: Path | None,
    min_coverage: float | None,
    *,
    verbose: bool,
    coverage: bool,
) -> None:
    """Run the suites and print the results. Exits with 1 if a test failed or coverage is too low."""
    out = Console(highlight=False)
    try:
        loaded = load_suites(suites)
        groups = _by_policy(loaded, tuple(policy or ()))
    except ConfigError as error:
        report(error.problems)
    results: list[CaseResult] = []
    low = False
    for compiled, cases in groups:
        covered = Coverage(compiled)
        for result in _run(compiled, cases):
            covered.add(result.explanation)
            results.append(result)
            if verbose or not result.passed:
                _show(out, result)
        low = _show_coverage(out, covered, min_coverage, everything=coverage) or low
    failed = sum(not result.passed for result in results)
    _summary(out, results)
    if junit is not None:
        try:
            write_junit(junit, results)
        except ConfigError as error:
            report(error.problems)
    if failed or low:
        raise typer.Exit(WRONG)


def _by_policy(suites: Sequence[Suite], given: tuple[Path, ...]) -> list[tuple[Policy, list[Suite]]]:
    """Suites of one policy together, so that their coverage is counted together. Raises ConfigError."""
    groups: dict[tuple[Path, ...], list[Suite]] = {}
    for suite in suites:
        paths = given or suite.policy
        if not paths:
            raise ConfigError.of(suite.file, "names no policy: write `policy: FILE`, or use --policy FILE")
        groups.setdefault(tuple(path.resolve() for path in paths), []).append(suite)
    return [(load_policy(given or members[0].policy), members) for members in groups.values()]


def _run(policy: Policy, suites: Sequence[Suite]) -> list[CaseResult]:
    runner = Runner(policy)
    return [runner.run(case) for suite in suites for case in suite.cases]


def _show(out: Console, result: CaseResult) -> None:
    case = result.case
    mark = "[green]passed[/]" if result.passed else "[bold red]failed[/]"
    out.print(f"{mark} {escape(case.name)}  [dim]{escape(case.source)}[/]", soft_wrap=True)
    out.print(f"  {escape(case.request_name)} by {escape(case.caller_name)}")
    if not result.passed:
        table = Table("what", "expected", "got", box=None, pad_edge=False)
        for difference in result.differences:
            table.add_row(escape(difference.what), escape(difference.expected), escape(difference.got))
        out.print(table)
    out.print(tree(result.explanation, everything=True))
    out.print()


def _show_coverage(out: Console, covered: Coverage, least: float | None, *, everything: bool) -> bool:
    """Print the coverage; whether it is too low."""
    low = least is not None and covered.percent < least
    table = Table("rule", "cases", "reached", "missing", title="Coverage", title_justify="left")
    for entry in covered.rules:
        missing = entry.missing
        if missing and (everything or low):
            reached, total = entry.points
            table.add_row(
                escape(entry.rule.name), str(entry.applied), f"{reached}/{total}", escape("\n".join(missing))
            )
    if table.row_count:
        out.print(table)
    wanted = f", at least {least:g} % asked for" if least is not None else ""
    colour = "bold red" if low else "bold"
    out.print(f"[{colour}]coverage {covered.percent:.1f} %[/] of rules and conditions{wanted}")
    return low


def _summary(out: Console, results: Sequence[CaseResult]) -> None:
    suites: dict[str, list[CaseResult]] = {}
    for result in results:
        suites.setdefault(result.case.suite, []).append(result)
    table = Table("suite", "cases", "passed", "failed")
    for name, members in suites.items():
        passed = sum(result.passed for result in members)
        table.add_row(escape(name), str(len(members)), str(passed), str(len(members) - passed))
    out.print(table)


def write_junit(file: Path, results: Sequence[CaseResult]) -> None:
    """Write the results as JUnit XML, one testsuite for each file.

    Raises ConfigError if `file` cannot be written.
    """
    root = Element("testsuites", name="sidecars policy test")
    suites: dict[str, Element] = {}
    for result in results:
        case = result.case
        suite = suites.get(case.suite)
        if suite is None:
            suite = suites[case.suite] = SubElement(root, "testsuite", name=_xml(case.suite), time="0")
        name = f"{case.name} ({case.request_name} by {case.caller_name})"
        entry = SubElement(
            suite,
            "testcase",
            classname=_xml(case.suite),
            name=_xml(name),
            file=_xml(case.suite),
            line=str(case.line),
            time="0",
        )
        if not result.passed:
            lines = [f"{one.what}: expected {one.expected}, got {one.got}" for one in result.differences]
            SubElement(entry, "failure", message=_xml("; ".join(lines)), type="difference").text = _xml(
                _plain_tree(result)
            )
    for suite in suites.values():
        suite.set("tests", str(len(suite)))
        suite.set("failures", str(len(suite.findall("testcase/failure"))))
        suite.set("errors", "0")
    try:
        ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise ConfigError.of(file, f"cannot be written: {in_words(error)}") from error


def _plain_tree(result: CaseResult) -> str:
    console = Console(width=160, no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(tree(result.explanation, everything=True))
    return capture.get()


def _xml(text: str) -> str:
    """`text` without what XML 1.0 cannot hold (section 2.2)."""
    return "".join(one for one in text if one in "\t\n\r" or " " <= one <= "\ud7ff" or one >= "\ue000")
