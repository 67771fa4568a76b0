"""The examples of docs/migrating-logs.md: configurations, entries, and the records of both sides."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protos.accesslog_data_pb2 import HTTPAccessLogEntry
from tests.support.entries import http_entry
from tests.support.manifests import ROOT

PAGE = (ROOT / "docs" / "migrating-logs.md").read_text(encoding="utf-8")
MANY = 1_000
DROPPED = {"dropped": "dropped"}
_OTHER = re.compile(r"(?:collector|vector)\.")
_LACKS, _HAS = "without", "has"


@dataclass(frozen=True, slots=True)
class Logged:
    """An entry of the page, and what the page says about the records."""

    line: str
    entry: HTTPAccessLogEntry
    request_id: str
    ours: Mapping[str, str]
    theirs: Mapping[str, str]


def block(kind: str, title: str = "") -> str:
    """Return the only block of this kind whose first line is `# TITLE`."""
    head = f"# {title}\n" if title else ""
    [found] = re.findall(rf"^```{kind}\n({re.escape(head)}.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def entries(kind: str = "entries") -> list[Logged]:
    """Return the entries of the page, each with a request id of its own."""
    return [_parse(line, number) for number, line in enumerate(block(kind).splitlines())]


def many_entries() -> list[Logged]:
    """Return MANY entries of requests that succeeded, and a tenth as many of ones that failed."""
    codes = [200] * MANY + [503] * (MANY // 10)
    return [_parse(f"path=/a code={code} -> code={code}", number) for number, code in enumerate(codes)]


def _parse(line: str, number: int) -> Logged:
    asked, _, expected = line.rpartition(" -> ")
    said = dict(detail.split("=", 1) for detail in shlex.split(asked))
    headers = {
        name.removeprefix("header."): text for name, text in said.items() if name.startswith("header.")
    }
    request_id = f"f0d5e1f0-aaaa-4000-8000-{number:012}"
    entry = http_entry(
        path=said["path"],
        code=int(said.get("code", "200")),
        request_id=request_id,
        request_headers=headers,
        referer=said.get("referer", ""),
    )
    entry.common_properties.route_name = said.get("route", "orders")
    if expected == "dropped":
        return Logged(line, entry, request_id, DROPPED, DROPPED)
    facts = dict(fact.split("=", 1) for fact in shlex.split(expected))
    ours = {name: text for name, text in facts.items() if not _OTHER.match(name)}
    other = {_OTHER.sub("", name): text for name, text in facts.items() if name not in ours}
    theirs = ours | other
    if _HAS in other:
        # What the other side still has, and the field that accesslog redacts for that reason.
        theirs = {name: text for name, text in theirs.items() if "[redacted]" not in text and name != _LACKS}
    return Logged(line, entry, request_id, ours, theirs)


def facts_of(record: Mapping[str, Any] | None, text: str, wanted: Mapping[str, str]) -> dict[str, str]:
    """Return what the record, and its `text`, have of each fact that the page names."""
    if record is None:
        return DROPPED
    found = {name: str(record.get(name, "-")) for name in wanted if name not in {_LACKS, _HAS}}
    if _LACKS in wanted and wanted[_LACKS] not in text:
        found[_LACKS] = wanted[_LACKS]
    if _HAS in wanted and wanted[_HAS] in text:
        found[_HAS] = wanted[_HAS]
    return found
