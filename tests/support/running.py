"""A real sidecar process for tests: start it, call its admin port and sockets, signal it, end it."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import yaml

WAIT_SECONDS = 60.0
"""The longest wait for a condition; a busy machine needs a few seconds to start Python."""

PROBE = ("-m", "tests.support.probe")
ANSWER = "/test.Probe/Answer"
SIDECARS = ("-m", "sidecars", "run", "all", "--config")


class Running:
    """`python PROGRAM SETTINGS-FILE` in its own folder, with the admin server on a free port.

    `arguments` replaces the settings file. `token` is sent with each request for an admin page.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        program: Sequence[str] = PROBE,
        environ: Mapping[str, str] | None = None,
        arguments: Sequence[str] | None = None,
        token: str = "",
    ) -> None:
        self.folder = folder
        self._arguments = arguments
        self.file = folder / "sidecars.yaml"
        self._port_file = folder / "admin.port"
        quick = {"drain_delay_seconds": 0, "grace_seconds": 10, "flush_seconds": 5}
        admin = {"listen": "127.0.0.1:0", "port_file": "admin.port"}
        self.file.write_text(yaml.safe_dump({"admin": admin, "drain": quick, **settings}))
        self._program = program
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._environ = {**os.environ, "SIDECARS_RELOAD__INTERVAL_SECONDS": "0.05", **(environ or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with (self.folder / "stdout").open("wb") as stdout, (self.folder / "stderr").open("wb") as stderr:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    *self._program,
                    *([str(self.file)] if self._arguments is None else self._arguments),
                ],
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                env=self._environ,
                cwd=Path(__file__).parents[2],
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.process:
            self.process.kill()
        if error is not None:
            sys.stdout.write(self.stderr)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def log(self) -> list[dict[str, Any]]:
        """Return the log lines so far."""
        return [json.loads(line) for line in self.stderr.splitlines()]

    def events(self) -> list[str]:
        """Return the events of the log lines so far."""
        return [line["event"] for line in self.log]

    def wait_until(self, condition: Callable[[], Any]) -> Any:
        """Return the result of `condition` once it is true. Fails if it stays false or the process exits."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            if found := condition():
                return found
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode}:\n{self.stderr}")
            time.sleep(0.01)
        raise AssertionError(f"never came to pass; the log:\n{self.stderr}")

    def wait_until_ready(self) -> Self:
        self.wait_until(self._port_file.exists)
        self.wait_until(lambda: self.get("/readyz")[0] == 200)
        return self

    def wait_for_exit(self) -> int:
        """Wait for the exit and return the code."""
        return self.process.wait(WAIT_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def get(self, path: str, form: str | None = None) -> tuple[int, str]:
        """Return status and body of a page of the admin server; with `form`, of the response to its POST."""
        url = f"http://127.0.0.1:{self._port_file.read_text().strip()}{path}"
        body = None if form is None else form.encode()
        return _answer(urllib.request.Request(url, body, self._headers))

    def post_json(self, path: str, body: str) -> tuple[int, str]:
        """Return status and body of the response of the admin server to a POST of JSON."""
        url = f"http://127.0.0.1:{self._port_file.read_text().strip()}{path}"
        headers = {"content-type": "application/json", **self._headers}
        return _answer(urllib.request.Request(url, body.encode(), headers))

    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/config")[1])
        return found

    def metric(self, sample: str) -> float | None:
        """Return the value of the sample with exactly this name and these labels, as /metrics prints it."""
        for line in self.get("/metrics")[1].splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        return None


def _answer(request: urllib.request.Request) -> tuple[int, str]:
    """Return status and body of the response to `request`."""
    try:
        with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def probe_section(folder: Path) -> dict[str, list[str]]:
    """The section of the probe sidecar, which listens on the socket `s` in `folder`."""
    return {"listen": [f"unix:{folder}/s"], "policy": ["policy.yaml"]}


def connect(address: str) -> Any:
    """Return a grpc.Channel, a context manager; untyped, because messages are raw bytes here."""
    return grpc.insecure_channel(address)


def call(channel: Any, method: str, request: bytes = b"") -> bytes:
    """Make one unary call and return the reply."""
    reply: bytes = channel.unary_unary(method)(request, timeout=WAIT_SECONDS, wait_for_ready=True)
    return reply
