"""A plain HTTP server of files in a thread, with ETags and, if wanted, long polling as OPA documents it."""

import hashlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

LONG_POLL_TYPE = "application/vnd.openpolicyagent.bundles"


class BundleServer:
    """Serves `files` by path; `posted` and `asked` record what came."""

    def __init__(self, *, long_poll: bool = False) -> None:
        self.files: dict[str, bytes] = {}
        self.status: int | None = None
        """The status of every answer, if it is set."""
        self.asked: list[dict[str, str]] = []
        self.posted: list[bytes] = []
        self._long_poll = long_poll
        self._changed = threading.Condition()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def put(self, path: str, content: bytes) -> None:
        with self._changed:
            self.files[path] = content
            self._changed.notify_all()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start on the same port as before, if any."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), _handler(self))
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(headers)
        wait = re.search(r"wait=(\d+)", headers.get("prefer", ""))
        until = time.monotonic() + (int(wait[1]) if wait and self._long_poll else 0)
        known = headers.get("if-none-match")
        with self._changed:
            while known == _etag(self.files.get(path)) and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            content = self.files.get(path)
        kind = {"content-type": LONG_POLL_TYPE if self._long_poll else "application/gzip"}
        if self.status is not None or content is None:
            return self.status or 404, kind, b""
        if known == _etag(content):
            return 304, kind, b""
        return 200, {**kind, "etag": _etag(content)}, content


def _etag(content: bytes | None) -> str:
    return "" if content is None else f'"{hashlib.sha256(content).hexdigest()}"'


def _handler(server: BundleServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._send(*server.answer(self.path.partition("?")[0], headers))

        def do_POST(self) -> None:
            server.posted.append(self.rfile.read(int(self.headers["content-length"])))
            self._send(204, {}, b"")

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                return  # the client left during a long poll

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Print nothing."""

    return Handler
