"""The report as Markdown, for a comment on a pull request."""

from collections.abc import Mapping
from typing import Final

from bench.report.page import Documents, own_goals
from bench.report.units import shown, spread
from bench.tools.budget import judge
from bench.tools.goals import Goal

_MARKS: Final = {"met": "✅", "missed": "❌", "not measured": "❔"}


def markdown(documents: Documents, goals: Mapping[str, Goal]) -> str:
    """Return the budget, and the figures of each result folded away."""
    judged = [*judge(goals, documents), *own_goals(documents, goals)]
    parts = ["# Benchmarks\n"]
    if judged:
        parts.append("| figure | value | goal | |\n|---|---|---|---|")
        parts += [
            f"| {one.bench}.{one.figure} | {shown(one.figure, one.value)} | {one.goal} "
            f"| {_MARKS[one.verdict]} {one.verdict} |"
            for one in judged
        ]
        parts.append("")
    for name, content in sorted(documents.items()):
        parts += [f"> **{name}**: {note}\n" for note in content.get("notes", ())]
        rounds = content.get("rounds", {})
        parts.append(f"<details><summary>{name}: {len(content['figures'])} figures</summary>\n")
        parts.append("| figure | median | rounds from and to |\n|---|---|---|")
        parts += [
            f"| {key} | {_cell(shown(key, value))} | {spread(key, rounds.get(key))} |"
            for key, value in content["figures"].items()
        ]
        parts.append("\n</details>\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
