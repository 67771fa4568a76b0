"""An explanation as a tree for people."""

from collections.abc import Iterable
from typing import Final

from rich.markup import escape
from rich.tree import Tree

from authz.tools.explain import Answer, Considered, Explanation, Finding

_COLOURS: Final = {"allow": "green", "deny": "red", "error": "yellow", "preflight": "cyan"}
MAX_FOUND_CHARACTERS: Final = 200
"""The most characters shown of a value: a token or a body would bury the tree."""


def tree(explanation: Explanation, *, everything: bool = False) -> Tree:
    """The explanation as a tree. `everything`: also each rule that does not cover host, method and path."""
    root = Tree(answer_text(explanation.answer))
    for step in explanation.steps:
        root.add(f"[bold]{escape(step.title)}[/]: {escape(step.text)}")
    if explanation.shadow is not None:
        root.add(f"[bold]shadow[/]: would have been {answer_text(explanation.shadow)}")
    covered = [one for one in explanation.considered if one.covered]
    if covered:
        _add_rules(root.add("[bold]rules that cover host, method and path[/]"), covered)
    others = [one for one in explanation.considered if not one.covered]
    if others and everything:
        branch = root.add("[bold]rules that do not[/]")
        for one in others:
            branch.add(f"[dim]{escape(one.rule.name)}: {escape(one.why_not)}[/]")
    elif others:
        root.add(f"[dim]{len(others)} rules do not cover host, method and path[/]")
    return root


def answer_text(answer: Answer) -> str:
    """The answer in one line of rich markup."""
    by = f" by rule {escape(repr(answer.rule))}" if answer.rule else ""
    colour = _COLOURS[answer.outcome.value]
    return f"[bold {colour}]{answer.outcome.value}[/] {answer.status} {escape(answer.reason)}{by}"


def _add_rules(branch: Tree, rules: Iterable[Considered]) -> None:
    for one in sorted(rules, key=lambda one: (one.rule.allows, one.rule.order)):
        rule = one.rule
        effect = "allow" if rule.allows else "deny"
        shadow = " [magenta](shadow)[/]" if rule.shadow else ""
        twig = branch.add(
            f"{_mark(one.applies)} {effect} [bold]{escape(rule.name)}[/]{shadow}"
            f" [dim]{escape(rule.source)}[/]"
        )
        _add_findings(twig, (*one.requests, *one.demands))
        if rule.open and not rule.callers:
            twig.add("[dim]any caller[/]")
        for number, conditions in enumerate(one.callers, start=1):
            several = len(one.callers) > 1
            _add_findings(twig.add(f"caller, description {number}") if several else twig, conditions)
        if one.applies is None:
            twig.add("[dim]the caller did not matter[/]")


def _add_findings(branch: Tree, findings: Iterable[Finding]) -> None:
    for finding in findings:
        name = f" [dim]({escape(finding.name)})[/]" if finding.name else ""
        found = f"[dim]; found: {escape(_short(finding.found))}[/]" if finding.found else ""
        branch.add(f"{_mark(finding.held)} {escape(finding.text)}{name}{found}")


def _mark(held: bool | None) -> str:
    if held is None:
        return "[yellow]?[/]"
    return "[green]✓[/]" if held else "[red]✗[/]"


def _short(found: str) -> str:
    return found if len(found) <= MAX_FOUND_CHARACTERS else f"{found[:MAX_FOUND_CHARACTERS]}..."
