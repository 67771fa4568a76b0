"""Compares policies, for `sidecars policy diff` and `sidecars policy replay`."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from authz.policy.compile.compile import Policy
from authz.policy.compile.load import load_policy, load_with_contents
from authz.policy.rule import Rule
from authz.request.identity import Identity
from authz.tools.diff import Change, PolicyDiff, diff, when_text, who_text
from authz.tools.explain import Explanation
from authz.tools.replay import Report, replay
from authz.tools.suites.load import Case, load_suites
from authz.tools.suites.model import CallersFile
from authz.tools.suites.run import Runner
from common.configfile import ConfigError, read, validate
from sidecars.cli.exit import WRONG
from sidecars.cli.policy_tree import answer_text
from sidecars.cli.report import report


def compare_policies(old: Path, new: Path, suites: list[Path] | None, *, json: bool) -> None:
    """Print what differs. Exits with 1 when something does."""
    try:
        before, after = load_with_contents([old]), load_with_contents([new])
        cases = [case for suite in load_suites(suites) for case in suite.cases] if suites else []
    except ConfigError as error:
        report(error.problems)
    difference = diff(before, after)
    turned = _turned(before[0], after[0], cases)
    if json:
        typer.echo(orjson.dumps(_diff_data(difference, turned), option=orjson.OPT_INDENT_2))
    else:
        _show_diff(Console(highlight=False), difference, turned, cases)
    if difference or turned:
        raise typer.Exit(WRONG)


def replay_log(
    log: list[Path],
    against: list[Path],
    policy: list[Path] | None,
    callers: list[Path] | None,
    *,
    json: bool,
) -> None:
    """Print which recorded requests would be answered differently. Exits with 1 when some would."""
    try:
        new = load_policy(against)
        old = load_policy(policy) if policy else None
        known = {key: one for file in callers or () for key, one in _identities(file).items()}
    except ConfigError as error:
        report(error.problems)
    result = replay(_lines(log), new, old, known)
    if json:
        typer.echo(orjson.dumps(_replay_data(result), option=orjson.OPT_INDENT_2))
    else:
        _show_replay(Console(highlight=False), result)
    if result.different:
        raise typer.Exit(WRONG)


def _identities(file: Path) -> dict[str, Identity]:
    content = validate(read(file), CallersFile)
    outcomes = {name: one.outcome() for name, one in content.callers.items()}
    return {one.subject or name: one for name, one in outcomes.items() if isinstance(one, Identity)}


def _lines(files: list[Path]) -> Iterator[bytes]:
    for file in files:
        if str(file) == "-":
            yield from typer.get_binary_stream("stdin")
        else:
            with file.open("rb") as lines:
                yield from lines


_Turned = list[tuple[Case, Explanation, Explanation]]


def _turned(old: Policy, new: Policy, cases: list[Case]) -> _Turned:
    """The cases that are answered differently: another outcome, status or rule."""
    before, after = Runner(old), Runner(new)
    pairs = ((case, before.decide(case)[1], after.decide(case)[1]) for case in cases)
    return [(case, one, other) for case, one, other in pairs if one.answer != other.answer]


def _show_diff(out: Console, difference: PolicyDiff, turned: _Turned, cases: list[Case]) -> None:
    if difference.whole:
        out.print("[yellow]~[/] the whole policy")
        _show_changes(out, difference.whole)
    for rule in difference.removed:
        out.print(f"[red]- {escape(_rule_text(rule))}[/]")
    for rule in difference.added:
        out.print(f"[green]+ {escape(_rule_text(rule))}[/]")
    for change in difference.changed:
        out.print(f"[yellow]~ {escape(change.new.name)}[/] [dim]{escape(change.new.source)}[/]")
        _show_changes(out, change.changes)
    if not difference:
        out.print("nothing differs")
    if cases:
        out.print(f"{len(turned)} of {len(cases)} cases would be answered differently")
    for case, one, other in turned:
        out.print(
            f"  {escape(case.request_name)} by {escape(case.caller_name)} [dim]{escape(case.source)}[/]"
        )
        out.print(f"    {answer_text(one.answer)} -> {answer_text(other.answer)}", soft_wrap=True)


def _show_changes(out: Console, changes: Iterable[Change]) -> None:
    for one in changes:
        old, new = escape(one.old or "nothing"), escape(one.new or "nothing")
        out.print(f"    {escape(one.what)}: [red]{old}[/] -> [green]{new}[/]", soft_wrap=True)


def _rule_text(rule: Rule) -> str:
    methods = "every method" if rule.methods is None else " ".join(rule.methods)
    places = ", ".join(f"{host}{path}" for host in rule.hosts for path in rule.templates)
    effect = "allow" if rule.allows else "deny"
    when = f" when {when_text(rule)}" if rule.requests else ""
    shadow = " (shadow)" if rule.shadow else ""
    return f"{rule.name}: {effect} {methods} {places} to {who_text(rule)}{when}{shadow}"


def _diff_data(difference: PolicyDiff, turned: _Turned) -> dict[str, Any]:
    return {
        "policy": _changes_data(difference.whole),
        "added": [rule.name for rule in difference.added],
        "removed": [rule.name for rule in difference.removed],
        "changed": {change.new.name: _changes_data(change.changes) for change in difference.changed},
        "cases": [
            {
                "source": case.source,
                "request": case.request_name,
                "caller": case.caller_name,
                "old": {"outcome": one.answer.outcome.value, "rule": one.answer.rule},
                "new": {"outcome": other.answer.outcome.value, "rule": other.answer.rule},
            }
            for case, one, other in turned
        ],
    }


def _changes_data(changes: Iterable[Change]) -> dict[str, Any]:
    return {one.what: {"old": one.old, "new": one.new} for one in changes}


def _show_replay(out: Console, result: Report) -> None:
    table = Table("was", "by rule", "would be", "by rule", "times", "for instance")
    for group in sorted(result.groups.values(), key=lambda group: -group.times):
        table.add_row(
            group.was,
            escape(group.was_rule),
            group.would_be,
            escape(group.would_be_rule),
            str(group.times),
            escape("\n".join(group.examples)),
        )
    if table.row_count:
        out.print(table)
    out.print(f"{result.different} different, {result.same} the same, {result.unknown} undecidable")
    for what, times in result.missing.most_common():
        out.print(f"  undecidable without {escape(what)}: {times}")
    for reason, times in result.skipped.most_common():
        out.print(f"  not compared, {reason}: {times}")
    for revision, times in result.other_revisions.most_common():
        out.print(f"  decided by another policy than the old one given ({escape(revision)}): {times}")


def _replay_data(result: Report) -> dict[str, Any]:
    return {
        "different": result.different,
        "same": result.same,
        "undecidable": result.unknown,
        "groups": [
            {
                "was": group.was,
                "was_rule": group.was_rule,
                "would_be": group.would_be,
                "would_be_rule": group.would_be_rule,
                "times": group.times,
                "examples": group.examples,
            }
            for group in result.groups.values()
        ],
        "undecidable_without": dict(result.missing),
        "not_compared": {reason.value: times for reason, times in result.skipped.items()},
        "other_revisions": dict(result.other_revisions),
    }
