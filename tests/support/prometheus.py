"""Prometheus and promtool, as Debian packages them."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.redis_server import free_port
from tests.support.running import WAIT_SECONDS

HOW_TO_GET_IT = "not on the PATH (Debian: apt-get install prometheus)"


def promtool() -> str:
    """Return the path of promtool; skip the test where it is missing."""
    return _program("promtool")


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is {HOW_TO_GET_IT}")
    return found


class Prometheus:
    """Answers queries about what it has scraped."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str, **query: str) -> Any:
        """Return the data of an API page."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as response:
            return json.load(response)["data"]

    def wait_for(self, path: str, **query: str) -> Any:
        """Return the data of an API page once there is any."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                found = self.get(path, **query)
            except OSError:  # it has not begun to listen
                found = None
            result = found.get("result") if isinstance(found, dict) else found
            if result:
                return result
            assert time.monotonic() < deadline, f"Prometheus has no data for {path} {query}"
            time.sleep(0.1)


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """A Prometheus that scrapes `target` (host:port) each half second, with its data in `folder`."""
    program = _program("prometheus")
    scrape = {
        "job_name": "sidecars",
        "scrape_interval": "500ms",
        "scrape_timeout": "500ms",
        "static_configs": [{"targets": [target]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [scrape]}))
    port = free_port()
    command = [
        program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        with process:
            process.terminate()
