"""Prometheus and promtool, as Debian packages them."""

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
import pytest
import yaml

from sidecars.demo.process import spawn
from tests.support.free_ports import free_port
from tests.support.rules import FOLDER

HOW_TO_GET_IT: Final = "not on the PATH (Debian: apt-get install prometheus)"
WAIT_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0

FASTER: Final = 200
"""How many times faster than shipped the rules run in tests: five minutes become 1.5 seconds."""

_DURATION: Final = re.compile(r"(?<=\[|\s)(\d+)([smhd])(?=\]|\)|\s|$)", re.MULTILINE)
_AHEAD: Final = re.compile(r", 4 \* 3600\)")
_AHEAD_SECONDS: Final = 4 * 3600
"""How far predict_linear looks, which is a plain number of seconds."""

_MILLISECONDS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def promtool() -> str:
    """Return the path of promtool; skip the test where it is missing."""
    return program_path("promtool")


def faster(text: str) -> str:
    """Return rules or a query with every duration divided by FASTER, and nothing else changed."""
    text = _DURATION.sub(lambda found: f"{int(found[1]) * _MILLISECONDS[found[2]] // FASTER}ms", text)
    return _AHEAD.sub(f", {_AHEAD_SECONDS // FASTER})", text)


class Prometheus:
    """A running Prometheus with the shipped rules, made faster."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_SECONDS))

    async def close(self) -> None:
        await self._client.close()

    async def is_ready(self) -> bool:
        try:
            async with self._client.get(f"{self._url}/-/ready") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def query(self, expression: str, **more: str) -> list[dict[str, Any]]:
        """Return the series of an instant query. Raises ValueError with Prometheus's own words."""
        return await self._ask("query", {"query": expression, **more})

    async def over(self, expression: str, began: float) -> list[dict[str, Any]]:
        """Return the series of a query at each half second since `began`, in Unix seconds."""
        now = time.time()
        times = {"start": str(began), "end": str(now), "step": "0.5"}
        return await self._ask("query_range", {"query": expression, **times})

    async def firing(self) -> set[tuple[str, str]]:
        """Return name and severity of every alert that fires."""
        async with self._client.get(f"{self._url}/api/v1/alerts") as response:
            found = orjson.loads(await response.read())["data"]["alerts"]
        return {
            (one["labels"]["alertname"], one["labels"]["severity"])
            for one in found
            if one["state"] == "firing"
        }

    async def _check_annotations(self) -> None:
        async with self._client.get(f"{self._url}/api/v1/alerts") as response:
            alerts = orjson.loads(await response.read())["data"]["alerts"]
        texts = [text for one in alerts for text in one["annotations"].values()]
        assert texts
        assert [text for text in texts if "<" in text or "{{" in text or "%!" in text] == []

    async def rule_problems(self) -> list[str]:
        """Return the problem of each rule that Prometheus could not evaluate."""
        async with self._client.get(f"{self._url}/api/v1/rules") as response:
            groups = orjson.loads(await response.read())["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return [f"{rule['name']}: {rule['lastError']}" for rule in rules if rule.get("lastError")]

    async def until_firing(self, *names: str) -> None:
        """Return once each of these alerts fires, with any severity. Fails after a minute.

        Fails also if an annotation of an alert lacks what it should be filled with.
        """
        await self._until(lambda found: set(names) <= found, f"{names} fire")
        await self._check_annotations()

    async def until_silent(self, *names: str) -> None:
        """Return once none of these alerts fires. Fails after a minute."""
        await self._until(lambda found: not set(names) & found, f"{names} are silent")

    async def _until(self, holds: Any, what: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not holds(found := {name for name, _ in await self.firing()}):
            assert time.monotonic() < deadline, (
                f"not after {WAIT_SECONDS:g} s: {what}; firing: {sorted(found)}"
            )
            await asyncio.sleep(0.1)

    async def _ask(self, page: str, form: Mapping[str, str]) -> list[dict[str, Any]]:
        async with self._client.post(f"{self._url}/api/v1/{page}", data=form) as response:
            answer = orjson.loads(await response.read())
        if answer["status"] != "success":
            raise ValueError(answer["error"])
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found


@asynccontextmanager
async def serve_prometheus(
    folder: Path, jobs: Mapping[str, Sequence[Mapping[str, Any]]], interval: str, later: Path | None = None
) -> AsyncIterator[Prometheus]:
    """Run Prometheus during the block; `jobs` has the static_configs of each job. Skips where it is missing.

    It scrapes, and evaluates the rules, every `interval`. Further targets of edge-sidecars may appear in the
    file `later`, which is JSON.
    """
    program = program_path("prometheus")
    _write_rules(folder)
    scrapes: list[dict[str, Any]] = [
        {"job_name": name, "static_configs": list(targets)} for name, targets in jobs.items()
    ]
    for scrape in scrapes:
        if scrape["job_name"] == "envoy":
            scrape["metrics_path"] = "/stats/prometheus"
        elif later is not None:
            scrape["file_sd_configs"] = [{"files": [str(later)]}]
    times = {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval}
    config = {"global": times, "rule_files": [f"{folder}/*.yaml"], "scrape_configs": scrapes}
    file = folder / "prometheus.config"
    file.write_text(yaml.safe_dump(config))
    port = free_port()
    command = (
        program,
        f"--config.file={file}",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--query.lookback-delta=3s",
        "--log.level=warn",
    )
    async with spawn("Prometheus", command, folder / "prometheus.log", stop_seconds=STOP_SECONDS) as process:
        prometheus = Prometheus(f"http://127.0.0.1:{port}")
        try:
            await process.until_ready(prometheus.is_ready, WAIT_SECONDS)
            yield prometheus
        finally:
            await prometheus.close()


def _write_rules(folder: Path) -> None:
    folder.mkdir()
    for file in (FOLDER / "alerts").glob("*.yaml"):
        (folder / file.name).write_text(faster(file.read_text(encoding="utf-8")))


def program_path(name: str) -> str:
    """Return the path of a program; skip the test where it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is {HOW_TO_GET_IT}")
    return found
