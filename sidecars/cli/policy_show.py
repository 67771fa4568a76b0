"""Shows the rules as they apply, for people and for programs."""

from pathlib import Path
from typing import Any, Final

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from authz.policy.compile.load import load_policy
from authz.policy.rule import Rule
from authz.tools.diff import when_text, who_text
from common.configfile import ConfigError
from sidecars.cli.report import report

_KEYS: Final = ("methods", "hosts", "paths", "who", "when", "mode", "owner", "ticket")
_ORDINARY: Final = {"hosts": ["*"], "mode": "enforce", "methods": None}
"""Values that are usual, and so are not shown to people."""


def show_rules(files: list[Path], *, json: bool) -> None:
    """Print the rules of a policy, deny rules first."""
    try:
        policy = load_policy(files)
    except ConfigError as error:
        report(error.problems)
    rules = sorted(policy.rules, key=lambda rule: (rule.allows, rule.order))
    if json:
        content = {"revision": policy.revision, "rules": [_data(rule) for rule in rules]}
        typer.echo(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        return
    out = Console(highlight=False)
    for rule in rules:
        colour = "green" if rule.allows else "red"
        out.print(f"[{colour}]{'allow' if rule.allows else 'deny'}[/] [bold]{escape(rule.name)}[/]")
        out.print(_block(_data(rule)))
    out.print("Whatever no rule allows is refused; a deny rule beats every allow rule.")


def _block(data: dict[str, Any]) -> Table:
    """One line for each key, which folds in a narrow terminal; a table of ten columns would be torn."""
    block = Table.grid(padding=(0, 1))
    block.add_column(min_width=2)
    block.add_column(style="dim", no_wrap=True)
    block.add_column(overflow="fold")
    for key in _KEYS:
        value = data[key]
        if value and value != _ORDINARY.get(key):
            block.add_row("", key, escape(" ".join(value) if isinstance(value, list) else value))
    return block


def _data(rule: Rule) -> dict[str, Any]:
    """The format of `--json`, which only ever gains keys."""
    return {
        "rule": rule.name,
        "source": rule.source,
        "effect": "allow" if rule.allows else "deny",
        "methods": None if rule.methods is None else list(rule.methods),
        "hosts": [str(host) for host in rule.hosts],
        "paths": [str(template) for template in rule.templates],
        "who": who_text(rule),
        "when": when_text(rule),
        "mode": "shadow" if rule.shadow else "enforce",
        "owner": rule.owner,
        "ticket": rule.ticket,
    }
