"""Which files the page of logs reads."""

import os
from pathlib import Path
from typing import Any

from sidecars.console.pages.logs import show


class Answers:
    """The admin port of a process whose file sinks write `paths`."""

    def __init__(self, *paths: Path) -> None:
        sinks = [{"type": "file", "path": str(path)} for path in paths]
        sidecars: dict[str, Any] = {"accesslog": {"state": {"sinks": []}}}
        self._config = {"settings": {"accesslog": {"sinks": sinks}}, "sidecars": sidecars}

    async def get(self, path: str, _query: object = None) -> Any:
        return self._config if path == "/config" else {"sums": {}}

    async def post(self, path: str, _question: object, _query: object = None) -> Any:
        raise AssertionError(path)


async def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    log, pipe = tmp_path / "access.jsonl", tmp_path / "pipe"
    log.write_text('{"code": 200}\n')
    os.mkfifo(pipe)  # opening it would wait for a writer
    page = await show(Answers(pipe, Path("/dev/full"), log, tmp_path / "gone"), {})
    assert page["records"] == [{"code": 200}]
    assert page["problems"] == [
        f"{pipe}: it is a device or a pipe, which keeps no records",
        "/dev/full: it is a device or a pipe, which keeps no records",
        f"{tmp_path}/gone: no such file or folder",
    ]
