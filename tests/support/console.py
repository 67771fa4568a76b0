"""A real suite whose console is tested: the three sidecars, and calls to them."""

import hashlib
import json
from collections.abc import Mapping
from html.parser import HTMLParser
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from protos.ratelimit_pb2 import RateLimitRequest
from tests.support.checks import check_request
from tests.support.entries import ORIGIN, http_entry
from tests.support.running import SIDECARS, Running, call, connect

SECRET = "a-secret-of-many-random-bits"
KEY = f"reports.{SECRET}"
HOSTILE_KEY = f"hostile.{SECRET}"
TAKEN = "<script>alert(1)</script>\"'&"
"""What a hostile client writes where it can."""

POLICY = f"""
credentials:
  api_keys:
    keys:
      - id: reports
        sha256: {hashlib.sha256(SECRET.encode()).hexdigest()}
        subject: reports
        scopes: ["reports:read"]
      - id: hostile
        sha256: {hashlib.sha256(SECRET.encode()).hexdigest()}
        subject: {json.dumps(TAKEN)}
        scopes: ["reports:read"]
  sessions: {{}}
  revocations: {{}}
rules:
  - {{name: public, paths: ["/public/**"], allow: anyone}}
  - {{name: reports, paths: ["/reports"], allow: {{scopes: ["reports:read"]}}}}
  - {{name: orders, paths: ["/orders"], allow: {{scopes: ["orders:read"]}}}}
"""

LIMITS = """
domain: edge
descriptors:
  - {key: client, rate_limit: {unit: hour, requests_per_unit: 3}}
"""

CHECK = "/envoy.service.auth.v3.Authorization/Check"
LIMIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
LOG = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"


class Suite:
    """The three sidecars in a real process, with the files in `folder`."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        (folder / "policy.yaml").write_text(POLICY)
        (folder / "limits.yaml").write_text(LIMITS)
        several = settings.get("workers", 1) > 1
        end = ".{worker}" if several else ""
        authz: dict[str, Any] = {"listen": [f"unix:{folder}/a{end}"], "policy": ["policy.yaml"]}
        if not several:
            authz["session_admin"] = True
        sections: dict[str, Any] = {
            "authz": authz,
            "ratelimit": {"listen": [f"unix:{folder}/r{end}"], "limits": ["limits.yaml"]},
            "accesslog": {
                "listen": [f"unix:{folder}/l{end}"],
                "sinks": [{"type": "file", "path": f"access{end}.jsonl"}],
            },
        }
        self.folder = folder
        self.running = Running(folder, {**sections, **settings}, program=SIDECARS)

    def check(self, path: str, key: str = "", request_id: str = "", worker: int | None = None) -> None:
        """Ask authz for a decision."""
        headers = {"x-api-key": key, "x-request-id": request_id}
        sent = {name: value for name, value in headers.items() if value}
        self._call("a", worker, CHECK, check_request(path=path, headers=sent).SerializeToString())

    def limit(self, client: str, worker: int | None = None) -> None:
        """Ask ratelimit for a decision about one client."""
        request = RateLimitRequest(domain="edge")
        request.descriptors.add().entries.add(key="client", value=client)
        self._call("r", worker, LIMIT, request.SerializeToString())

    def log(self, user_agent: str = "", **entry: Any) -> None:
        """Send an entry to accesslog, and wait until it is in the file."""
        from protos.accesslog_pb2 import StreamAccessLogsMessage

        message = StreamAccessLogsMessage()
        message.identifier.log_name = ORIGIN["log_name"]
        message.identifier.node.id = ORIGIN["node_id"]
        made = http_entry(**entry)
        made.request.user_agent = user_agent
        message.http_logs.log_entry.append(made)
        file = self.folder / "access.jsonl"
        before = file.stat().st_size if file.exists() else 0
        with connect(f"unix:{self.folder}/l") as channel:
            channel.stream_unary(LOG)(iter([message.SerializeToString()]), timeout=20, wait_for_ready=True)
        self.running.wait_until(lambda: file.exists() and file.stat().st_size > before)

    def _call(self, socket: str, worker: int | None, method: str, request: bytes) -> None:
        with connect(f"unix:{self.folder}/{socket}{'' if worker is None else f'.{worker}'}") as channel:
            call(channel, method, request)

    @property
    def port(self) -> int:
        """The port of the admin server."""
        return int((self.folder / "admin.port").read_text())

    def ask(
        self, path: str, method: str = "GET", body: str = "", headers: Mapping[str, str] | None = None
    ) -> tuple[int, str, Mapping[str, str]]:
        """Return status, body and headers of a page."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=90)
        try:
            connection.request(method, path, body or None, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), dict(answer.getheaders())
        finally:
            connection.close()

    def page(self, path: str = "") -> "Page":
        """Return a page of the console, which must be a 200."""
        status, text, _ = self.ask(f"/console/{path}")
        assert status == 200, text
        return Page(text)

    def post(self, path: str, form: str) -> "Page":
        """Send a form as a browser on a page of the console does."""
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": f"http://127.0.0.1:{self.port}",
        }
        status, text, _ = self.ask(f"/console/{path}", "POST", form, headers)
        assert status == 200, text
        return Page(text)

    def decisions(self) -> list[dict[str, Any]]:
        """Return what `/decisions` has."""
        found: list[dict[str, Any]] = json.loads(self.ask("/decisions")[1])["decisions"]
        return found


class Page(HTMLParser):
    """The parts of a page that tests look at."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.links: list[str] = []
        self.scripts: list[dict[str, str | None]] = []
        self.handlers: list[str] = []
        """Attributes with scripts or styles in them."""
        self.tags: list[str] = []
        self._texts: list[str] = []
        self.feed(html)

    @property
    def text(self) -> str:
        """The text of the page, with single blanks."""
        return " ".join(" ".join(self._texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append(values)
        if tag == "a" and values.get("href"):
            self.links.append(str(values["href"]))
        self.handlers += [name for name in values if name.startswith("on") or name == "style"]

    def handle_data(self, data: str) -> None:
        self._texts.append(data)
