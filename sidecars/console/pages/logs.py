"""The end of the access log, read from the files of its sinks, and the counters of entries."""

import asyncio
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from common.os_errors import in_words
from sidecars.console.source import Source, of_each_worker

TAIL_BYTES: Final = 512 * 1024
"""What is read of each file: some 500 records."""
LIMITS: Final = ("50", "100", "200")
_IDS: Final = ("request_id", "stream_id", "authz_decision_id")


async def show(source: Source, query: Mapping[str, str]) -> dict[str, Any]:
    """Return the newest records that match the filters of the page, and what became of entries."""
    filters = {name: query.get(name, "").strip() for name in ("find", "code", "subject", "path")}
    limit = query.get("limit", "") if query.get("limit") in LIMITS else LIMITS[0]
    config = of_each_worker(await source.get("/config"))
    sections = [
        one["settings"].get("accesslog") for _, one in config if one and "accesslog" in one["sidecars"]
    ]
    files = list(dict.fromkeys(file for section in sections for file in _files_of(section)))
    totals = (await source.get("/totals"))["sums"].get("sidecars", {}).get("accesslog", {})
    records, problems = await asyncio.to_thread(_newest, files, filters, int(limit))
    return {
        "filters": filters,
        "limit": limit,
        "limits": LIMITS,
        "runs": bool(sections),
        "files": files,
        "records": records,
        "problems": problems,
        "totals": totals,
        "sinks": [
            {"worker": number, **sink}
            for number, one in config
            if one and "accesslog" in one["sidecars"]
            for sink in one["sidecars"]["accesslog"]["state"]["sinks"]
        ],
    }


def matches(record: Mapping[str, Any], filters: Mapping[str, str]) -> bool:
    """Whether a record has one of its ids, its status, its caller and a part of its path as asked for."""
    find, code, subject, path = (filters.get(name, "") for name in ("find", "code", "subject", "path"))
    return (
        (not find or find in [record.get(name) for name in _IDS])
        and (not code or _has_code(record.get("code"), code))
        and (not subject or record.get("authz_subject") == subject)
        and (not path or path in str(record.get("path", "")))
    )


def _has_code(code: object, wanted: str) -> bool:
    """Whether the status is the wanted one; `5xx` means 500 to 599."""
    return str(code) == wanted or (wanted.lower().endswith("xx") and str(code)[:1] == wanted[:1])


def _files_of(section: Mapping[str, Any]) -> Iterator[str]:
    for sink in section.get("sinks", ()):
        if sink.get("type") == "file":
            yield str(sink["path"])


def _newest(
    files: list[str], filters: Mapping[str, str], limit: int
) -> tuple[list[dict[str, Any]], list[str]]:
    found: list[dict[str, Any]] = []
    problems: list[str] = []
    for file in files:
        try:
            # Opening a pipe waits for a writer, and reading one takes records from their reader.
            if not stat.S_ISREG(Path(file).stat().st_mode):
                problems.append(f"{file}: it is a device or a pipe, which keeps no records")
                continue
            found += [one for one in _tail(Path(file)) if matches(one, filters)]
        except OSError as error:
            problems.append(f"{file}: {in_words(error)}")
    found.sort(key=lambda record: str(record.get("time", "")), reverse=True)
    return found[:limit], problems


def _tail(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the records at the end of a file. Raises OSError."""
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        opened.seek(max(0, size - TAIL_BYTES))
        lines = opened.read(TAIL_BYTES).split(b"\n")
    if size > TAIL_BYTES:
        del lines[0]  # begun before
    for line in lines:
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue  # unfinished, or in a format of its own
        if isinstance(record, dict):
            yield record
