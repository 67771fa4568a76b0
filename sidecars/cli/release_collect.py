"""`sidecars release collect`: receives the status reports of edges, and keeps the latest of each."""

import asyncio
import hmac
import json
from dataclasses import asdict
from pathlib import Path
from typing import Final

from aiohttp import web

from common.replace_file import replace_file
from edge.release.gate import Report, parse_report
from sidecars.transport.api.address import TcpAddress

MAX_REPORT_BYTES: Final = 64 * 1024
WRITE_SECONDS: Final = 1.0
"""The shortest time between two writes of the file."""


class Collector:
    """Keeps the latest report of each process of an edge: at most `max_reports`, the oldest go first."""

    def __init__(self, output: Path, token: str, max_reports: int) -> None:
        self._output = output
        self._token = token.encode()
        self._max_reports = max_reports
        self._reports: dict[tuple[str, str], Report] = {}
        self._changed = asyncio.Event()
        for report in read_reports(output):
            self._keep(report)
        self._changed.set()  # a file that cannot be written is a problem of the start

    async def receive(self, request: web.Request) -> web.Response:
        """Answer one POST: 204; 401 without the token; 400 for another document."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if self._token and not hmac.compare_digest(given, self._token):
            return web.Response(status=401)
        try:
            self._keep(parse_report(json.loads(await request.read())))
        except (ValueError, RecursionError) as error:
            return web.Response(status=400, text=f"{error}\n")
        self._changed.set()
        return web.Response(status=204)

    async def write_changes(self) -> None:
        """Write the file after changes, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            lines = "".join(f"{json.dumps(asdict(report))}\n" for report in self._reports.values())
            await asyncio.to_thread(replace_file, self._output, lines.encode())
            await asyncio.sleep(WRITE_SECONDS)

    def _keep(self, report: Report) -> None:
        key = (report.node, report.process)
        self._reports.pop(key, None)
        self._reports[key] = report
        if len(self._reports) > self._max_reports:
            del self._reports[next(iter(self._reports))]


def read_reports(file: Path) -> list[Report]:
    """Return the reports in a file, none if there is no file.

    Raises OSError, and ValueError with the number of a line that is not a report.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [_report(number, line) for number, line in enumerate(lines, 1)]


def _report(number: int, line: str) -> Report:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"line {number} is not JSON") from None
    try:
        return parse_report(content)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None


async def serve(collector: Collector, address: TcpAddress) -> None:
    """Receive reports until cancelled. Raises OSError when the address cannot be bound."""
    app = web.Application(client_max_size=MAX_REPORT_BYTES)
    app.router.add_post("/{path:.*}", collector.receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address.host, address.port).start()
    try:
        await collector.write_changes()
    finally:
        await runner.cleanup()
