"""A real Prometheus that scrapes one admin port, without rules."""

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.free_ports import free_port
from tests.support.prometheus import program_path
from tests.support.running import WAIT_SECONDS


class ScrapingPrometheus:
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
def scraping(folder: Path, target: str) -> Iterator[ScrapingPrometheus]:
    """A Prometheus that scrapes `target` (host:port) each half second, with its data in `folder`."""
    program = program_path("prometheus")
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
        yield ScrapingPrometheus(f"http://127.0.0.1:{port}")
    finally:
        with process:
            process.terminate()
