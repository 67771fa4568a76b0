"""A suite that pulls its bundles, the server that it pulls them from, and the bundles of a large estate."""

import hashlib
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import orjson
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.authz import AUDIENCE
from bench.tools.edge_requests import TOKEN_SECONDS
from bench.tools.estate import large_estate
from bench.tools.processes import free_port
from edge.build.build import Builder
from edge.bundle.bundle import build_bundle, signed
from edge.bundle.keys import SigningKey
from edge.bundle.manifest import Manifest
from edge.intent.estate import EstateReader
from sidecars.demo.admin import SidecarsAdmin
from sidecars.demo.process import spawn

BUNDLE: Final = "/edge.tar.gz"
STATUS: Final = "/status"
SIDECAR_FILES: Final = ("policy.json", "limits.json", "accesslog.json", "revision")
"""The built files that sidecars read; those of Envoy stay out of the bundle."""

_CHANGED: Final = "services/team-007.yaml"

READY_SECONDS: Final = 120.0
STOP_SECONDS: Final = 10.0


class BundleServer:
    """A plain HTTP server with ETags: one bundle, and the status reports of those who pull it."""

    def __init__(self) -> None:
        self._bundle, self._etag = b"", ""
        self.port = 0
        self.served_since: dict[str, float] = {}
        """When the first report came that a revision serves, on the clock of `time.perf_counter`."""

    def publish(self, bundle: bytes) -> None:
        """Serve this bundle from now on."""
        self._bundle, self._etag = bundle, f'"{hashlib.sha256(bundle).hexdigest()}"'

    def answer(self, known: str | None) -> tuple[int, str, bytes]:
        """Return status, ETag and body for a request with this `If-None-Match`."""
        return (304, self._etag, b"") if known == self._etag else (200, self._etag, self._bundle)

    def report(self, body: bytes) -> None:
        """Take note of a status report."""
        self.served_since.setdefault(orjson.loads(body)["revision"], time.perf_counter())

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve on a free port of the loopback during the block."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = True
        self.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()


def _handler(bundles: BundleServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, etag, body = bundles.answer(self.headers["if-none-match"])
            self._send(status, body, etag)

        def do_POST(self) -> None:
            bundles.report(self.rfile.read(int(self.headers["content-length"])))
            self._send(204, b"")

        def _send(self, status: int, body: bytes, etag: str = "") -> None:
            self.send_response(status)
            self.send_header("etag", etag)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
            """Print nothing."""

    return Handler


@dataclass(slots=True)
class Bundles:
    """Signs the bundles of an estate, each with a change of one team. `keys` is the key set of its issuer."""

    keys: bytes
    teams: int
    routes_of_team: int
    _texts: dict[str, str] = field(init=False)
    _team: str = field(init=False)
    """The text of the team that changes."""
    _reader: EstateReader = field(default_factory=EstateReader)
    _builder: Builder = field(default_factory=Builder)
    _key: SigningKey = field(
        default_factory=lambda: SigningKey("bench", Ed25519PrivateKey.generate(), "EdDSA")
    )
    _sequence: int = 0

    def __post_init__(self) -> None:
        self._texts = dict(large_estate(self.teams, self.routes_of_team))
        self._team = self._texts[_CHANGED]
        platform = self._texts["platform.yaml"]
        platform = platform.replace("seconds: 3600", f"seconds: {TOKEN_SECONDS}")
        platform = platform.replace('{url: "https://idp.example/keys"}', "{file: keys.json}")
        self._texts["platform.yaml"] = platform.replace("https://api.example.com]", f"{AUDIENCE}]")

    def next(self) -> tuple[str, bytes]:
        """Return the revision and the archive of the next bundle."""
        self._sequence += 1
        changed = f"  - {{id: new, paths: [/team-007/new-{self._sequence}], who: {{allow: anyone}}}}\n"
        self._texts[_CHANGED] = self._team + changed
        built = self._builder.build(self._reader.read(self._texts, date(2026, 1, 1)))
        content: Mapping[str, bytes] = {
            "keys.json": self.keys,
            **{name: built.files[name] for name in SIDECAR_FILES},
        }
        files = build_bundle(content, Manifest(built.revision, ("",), {"sequence": self._sequence}))
        return built.revision, signed(files, self._key, issued_at=1, expires_at=None)

    def public_pem(self) -> bytes:
        """Return the key that verifies them."""
        public: bytes = self._key.key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        return public


@dataclass(frozen=True, slots=True)
class PullingSuite:
    """The three sidecars in one process, ready, with a bundle in service."""

    pid: int
    authz: int
    """Its port."""
    ratelimit: int
    """Its port."""


@asynccontextmanager
async def pulling_suite(folder: Path, server: BundleServer, core: int) -> AsyncIterator[PullingSuite]:
    """Run `sidecars run all` on `core`, with bundles of the server; `folder` has its key release.pem."""
    ports = {name: free_port() for name in ("authz", "ratelimit", "accesslog")}
    admin = SidecarsAdmin(folder / "admin.sock")
    file = folder / "sidecars.yaml"
    file.write_text(yaml.safe_dump(_settings(folder, server, ports, admin.socket)))
    command = (sys.executable, "-m", "sidecars", "run", "all", "--config", str(file))
    own = {name: value for name, value in os.environ.items() if not name.startswith("SIDECARS_")}
    log = file.with_suffix(".log")
    async with spawn("suite", command, log, stop_seconds=STOP_SECONDS, environment=own) as process:
        os.sched_setaffinity(process.child.pid, {core})
        await process.until_ready(admin.ready, READY_SECONDS)
        yield PullingSuite(process.child.pid, ports["authz"], ports["ratelimit"])


def _settings(folder: Path, server: BundleServer, ports: Mapping[str, int], admin: Path) -> dict[str, Any]:
    reached = {"allow_http": True, "allow_addresses": ["127.0.0.0/8"]}
    origin = f"http://127.0.0.1:{server.port}"
    listen = {name: [{"address": f"127.0.0.1:{port}", "trusted": True}] for name, port in ports.items()}
    return {
        "admin": {"listen": f"unix:{admin}"},
        "log": {"level": "warning"},
        "drain": {"drain_delay_seconds": 0, "grace_seconds": 2, "flush_seconds": 2},
        "connections": {"limits": {"shed_after_share": None}},
        "bundle": {
            **reached,
            "url": origin + BUNDLE,
            "keys": {"bench": "release.pem"},
            "folder": "bundles",
            "interval_seconds": 0.2,
            "status": {**reached, "url": origin + STATUS},
        },
        "authz": {"listen": listen["authz"], "policy": ["{bundle}/policy.json"]},
        "ratelimit": {"listen": listen["ratelimit"], "limits": ["{bundle}/limits.json"]},
        "accesslog": {
            "listen": listen["accesslog"],
            "route_rules": ["{bundle}/accesslog.json"],
            "sinks": [{"type": "file", "path": str(folder / "log.jsonl")}],
        },
    }
