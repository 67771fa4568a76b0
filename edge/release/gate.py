"""Gates of a roll-out: whether what the edges report lets it go on."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from edge.release.model import Release

COUNTS: Final = ("calls", "call_seconds", "decisions", "denied", "errors", "shadow_same", "shadow_changed")
"""What an edge counts since it serves its revision; `shadow_*` since it judges another one in the shadow."""

MAX_TEXT_CHARACTERS: Final = 256


@dataclass(frozen=True, slots=True)
class Report:
    """The latest status of one process of an edge."""

    node: str
    process: str
    revision: str
    counts: Mapping[str, float]


class Result(StrEnum):
    """The result of a gate that does not hold."""

    BROKEN = "broken"
    MISSING = "missing"
    """Too few reports to say so."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A gate that does not hold, and why."""

    gate: str
    result: Result
    text: str


def parse_report(content: Any) -> Report:
    """Return the report in a JSON document. Raises ValueError for another document."""
    given = content.get("counts", {}) if isinstance(content, dict) else None
    if not isinstance(given, dict):
        raise ValueError("not a status report: a JSON object with the object counts")  # noqa: TRY004
    node, process, revision = (content.get(name, "") for name in ("node", "process", "revision"))
    if not node or not all(_is_short_text(one) for one in (node, process, revision)):
        raise ValueError(f"node, process and revision must be texts of at most {MAX_TEXT_CHARACTERS}")
    counts = {name: given.get(name, 0) for name in COUNTS}
    if not all(type(one) in {int, float} and 0 <= one < 2**63 for one in counts.values()):
        raise ValueError("counts holds what is not a number")
    return Report(node, process, revision, counts)


def _is_short_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT_CHARACTERS


@dataclass(frozen=True, slots=True)
class Group:
    """The edges with one revision."""

    nodes: int
    counts: Mapping[str, float]

    def share(self, part: str, whole: str) -> float:
        """Return a count as a share of another; 0 of nothing."""
        return self.counts[part] / self.counts[whole] if self.counts[whole] else 0.0


def group_of(reports: Iterable[Report], revision: str) -> Group:
    """Return the sums of the reports with this revision."""
    found = [report for report in reports if report.revision == revision]
    sums = {name: sum(report.counts[name] for report in found) for name in COUNTS}
    return Group(len({report.node for report in found}), sums)


def check_gates(release: Release, reports: Sequence[Report]) -> list[Finding]:
    """Return the gates of a release that do not hold; none: the next wave may begin.

    Before the first wave only `max_changed_share` counts, as no edge serves the new revision yet. A gate that
    lacks reports does not hold: without decisions of the previous revision no one knows if denials rise.
    """
    new = group_of(reports, release.current.revision)
    old = group_of(reports, "" if release.previous is None else release.previous.revision)
    found = list(_shadow(release, old))
    if release.active == 0:
        return found
    gates = release.gates
    for gate, value, least in (
        ("min_nodes", new.nodes, gates.min_nodes),
        ("min_calls", new.counts["calls"], gates.min_calls),
    ):
        if value < least:
            text = f"{value:g} reported with the new revision, of {least} needed"
            found.append(Finding(gate, Result.MISSING, text))
    errors = new.share("errors", "decisions")
    rise = new.share("denied", "decisions") - old.share("denied", "decisions")
    before = old.share("call_seconds", "calls")
    times = new.share("call_seconds", "calls") / before if before else 0.0
    return [
        *found,
        *_bound("max_error_share", gates.max_error_share, "the share of errors", errors, "decisions", new),
        *_bound(
            "max_denied_rise",
            gates.max_denied_rise,
            "the rise of the share of denials",
            rise,
            "decisions",
            new,
            old,
        ),
        *_bound("max_slower", gates.max_slower, _TIMES, times, "calls", new, old),
    ]


_TIMES: Final = "the mean duration of a call, compared with before,"


def _shadow(release: Release, old: Group) -> Iterator[Finding]:
    judged = old.counts["shadow_same"] + old.counts["shadow_changed"]
    most = release.gates.max_changed_share
    if judged:
        share = old.counts["shadow_changed"] / judged
        yield from _bound("max_changed_share", most, "the share of changed decisions", share)
    elif most is not None and release.active == 0:
        yield Finding("max_changed_share", Result.MISSING, "no decision was judged in the shadow yet")


def _bound(
    gate: str, most: float | None, what: str, value: float, whole: str = "", *groups: Group
) -> Iterator[Finding]:
    """Yield a finding if `value` is more than `most`, or unknown because a group has none of `whole`."""
    if most is None:
        return
    for which, group in zip(("new", "previous"), groups, strict=False):
        if not group.counts[whole]:
            yield Finding(gate, Result.MISSING, f"no {whole} reported with the {which} revision yet")
            return
    if value > most:
        yield Finding(gate, Result.BROKEN, f"{what} is {value:.4g}, more than {most:g}")
