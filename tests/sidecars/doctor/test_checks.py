"""The checks of the doctor that need no running suite."""

import base64
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from sidecars.admin.health import Health
from sidecars.admin.server import Admin
from sidecars.client.pages import NoAnswerError
from sidecars.doctor.admin import findings_of, of_no_answer, read_admin
from sidecars.doctor.clocks import check_key_servers, key_set_urls, of_skew
from sidecars.doctor.files import check_files
from sidecars.doctor.finding import Finding
from sidecars.doctor.packages import check_packages
from sidecars.doctor.redis import check_redis
from sidecars.doctor.redis_rights import RedisUses
from sidecars.doctor.sockets import of_certificate
from sidecars.observability.process_metrics import package_version
from sidecars.settings.process import AdminSettings
from sidecars.settings.root import Settings


def lines(found: Iterator[Finding] | list[Finding]) -> list[str]:
    return [f"{one.level} {one.check}: {one.seen}" for one in found]


@pytest.mark.parametrize(
    ("ahead", "exact", "level"),
    [(0.2, True, "ok"), (1.5, True, "warn"), (1.5, False, "ok"), (-31, True, "fail"), (600, False, "fail")],
)
def test_a_clock_is_off_when_tokens_and_windows_would_notice(ahead: float, exact: bool, level: str) -> None:
    assert of_skew("redis clock", ahead, exact=exact).level == level


class Handler(BaseHTTPRequestHandler):
    """Answers with a Date that is ten minutes ahead."""

    def do_GET(self) -> None:
        self.send_response_only(200)
        self.send_header("Date", format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


async def test_a_key_server_whose_clock_is_ten_minutes_off_fails() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/keys"
        found = lines([one async for one in check_key_servers([url])])
        server.shutdown()
    assert len(found) == 1
    assert found[0].startswith(f"fail clock of 127.0.0.1:{server.server_port}: ")
    assert found[0].endswith(" s ahead of this machine")


def process(**sidecars: Any) -> dict[str, Any]:
    return {"version": package_version(), "phase": "ready", "redis": None, "sidecars": sidecars}


def authz(**key_set: Any) -> dict[str, Any]:
    limits = {"refresh_seconds": 300.0, "max_stale_seconds": 86_400.0}
    key_set = {"url": "https://a/keys", "refused_keys": [], **limits, **key_set}
    issuers = [{"issuer": "https://a", "key_set": key_set}]
    return {"state": {"revision": "1", "credentials": {"issuers": issuers}}, "last_reload": None}


@pytest.mark.parametrize(
    ("key_set", "line"),
    [
        ({"keys": ["k"], "age_seconds": 3.0, "problem": None}, "ok keys of https://a: 1 keys, 3 s old"),
        (
            {"keys": [], "age_seconds": None, "problem": "timed out"},
            "fail keys of https://a: no usable key: timed out",
        ),
        (
            {"keys": ["k"], "age_seconds": 400.0, "problem": "status 500"},
            "warn keys of https://a: 1 keys, 400 s old; the last fetch failed: status 500",
        ),
        ({"keys": ["k"], "age_seconds": 700.0, "problem": None}, "warn keys of https://a: 1 keys, 700 s old"),
        (
            {"keys": ["k"], "age_seconds": 90_000.0, "problem": "timed out"},
            (
                "fail keys of https://a: 1 keys, 90000 s old; the last fetch failed: timed out: "
                "every token is refused (max_stale_seconds)"
            ),
        ),
    ],
)
def test_a_key_set_is_judged_by_its_keys_its_age_and_its_last_fetch(
    key_set: dict[str, Any], line: str
) -> None:
    config = process(authz=authz(**key_set))
    assert lines(findings_of(config)) == [line]
    assert key_set_urls(config) == ["https://a/keys"]


def test_a_failing_sink_another_version_and_revisions_that_differ_have_a_line() -> None:
    spool = {"folder": "/spool", "failing": True, "problem": "no such file or folder"}
    sink = {"name": "file", "failing": True, "problem": "no space left", "queue_entries": 7, "spool": spool}
    first = process(accesslog={"state": {"sinks": [sink]}}, authz={"state": {"revision": "1"}})
    second = process(authz={"state": {"revision": "2"}})
    workers = [{"worker": 0, "config": first}, {"worker": 1, "config": second}]
    found = lines(findings_of({"version": "0.0.1", "workers": workers}))
    assert f"warn version: 0.0.1 runs, {package_version()} is installed" in found
    assert "fail worker 0 accesslog sink file: cannot be written: no space left; 7 entries wait" in found
    assert "fail worker 0 accesslog spool file: /spool cannot be used: no such file or folder" in found
    assert "fail authz revision: the workers serve different revisions: 1, 2" in [
        line.replace("2, 1", "1, 2") for line in found
    ]


async def test_a_token_that_cannot_be_read_or_is_refused_is_named(tmp_path: Path) -> None:
    ours, theirs, port = tmp_path / "ours", tmp_path / "theirs", tmp_path / "port"
    theirs.write_text("the-token-of-the-process")
    of_process = AdminSettings(listen="127.0.0.1:0", token_file=theirs, port_file=port)
    admin = Admin(of_process, Health(()), CollectorRegistry(), dict)
    await admin.start()

    async def seen(token_file: Path | None) -> str:
        settings = Settings(admin=AdminSettings(listen="127.0.0.1:0", token_file=token_file, port_file=port))
        with pytest.raises(NoAnswerError) as raised:
            await read_admin(settings)
        assert "admin.token_file" in of_no_answer(settings, raised.value).fix
        return str(raised.value)

    assert await seen(ours) == f"admin.token_file {ours} cannot be used: no such file or folder"
    ours.write_text("short")
    assert await seen(ours) == f"admin.token_file {ours} cannot be used: it holds fewer than 16 characters"
    ours.write_text("a-token-of-another-process")
    assert await seen(ours) == f"it refuses the token in admin.token_file {ours}"
    assert await seen(None) == "it needs a token, and the settings name no admin.token_file"
    await admin.stop()


async def test_a_cluster_that_is_away_is_a_failure() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        url = f"redis://127.0.0.1:{unused.getsockname()[1]}"
        settings = Settings.model_validate({"redis": {"url": url, "cluster": {}}})
        [found] = [one async for one in check_redis(settings, "redis", RedisUses("ratelimit:"))]
    assert (found.level, found.check) == ("fail", "redis")
    assert "the connection is refused" in found.seen


def test_a_device_that_everyone_may_read_keeps_nothing(tmp_path: Path) -> None:
    sink = {"type": "file", "path": "/dev/null"}
    log = {"listen": [f"unix:{tmp_path}/log"], "sinks": [sink]}
    settings = Settings.model_validate({"accesslog": log})
    assert [one.level for one in check_files(settings, [])] == ["ok"]


def test_a_token_that_others_can_read_has_a_line(tmp_path: Path) -> None:
    admin, login = tmp_path / "admin.token", tmp_path / "login.token"
    for file in (admin, login):
        file.write_text("t" * 32)
        file.chmod(0o644)
    client = {"name": "login", "token_file": str(login), "may": ["create"]}
    api = {"listen": f"unix:{tmp_path}/sessions", "clients": [client]}
    authz = {"listen": [f"unix:{tmp_path}/authz"], "policy": ["policy.yaml"], "sessions_api": api}
    settings = Settings.model_validate({"admin": {"token_file": str(admin)}, "authz": authz})
    assert lines(check_files(settings, [])) == [
        f"fail secret {file}: mode 0644: every user of this machine can read it" for file in (admin, login)
    ]


def test_what_others_can_read_or_replace_has_a_line(tmp_path: Path) -> None:
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    path = open_folder / "authz"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        path.chmod(0o666)
        log, spool = tmp_path / "access.jsonl", tmp_path / "spool"
        log.write_text("")
        log.chmod(0o644)
        spool.mkdir(mode=0o755)
        sink = {"type": "file", "path": str(log), "spool": {"folder": str(spool)}}
        settings = Settings.model_validate(
            {
                "authz": {"listen": [f"unix:{path}"], "policy": ["policy.yaml"]},
                "accesslog": {"listen": [f"unix:{tmp_path}/log"], "sinks": [sink]},
            }
        )
        found = lines(check_files(settings, [tmp_path / "gone"]))
        assert found == [
            f"fail secret {tmp_path}/gone: no such file or folder",
            f"warn socket {path}: mode 0666: every user of this machine can connect",
            f"fail folder {open_folder}: mode 0777: every user of this machine can replace the socket",
            f"warn access log {log}: mode 0644: every user of this machine can read who asked for what",
            f"warn spool {spool}: mode 0755: every user of this machine can read who asked for what",
        ]
        open_folder.chmod(0o750)
        path.chmod(0o660)
        log.chmod(0o640)
        spool.chmod(0o750)
        assert [one.level for one in check_files(settings, [])] == ["ok"]


def install(site: Path, name: str, files: dict[str, bytes], requires: str = "") -> None:
    """Install a distribution as pip does: its files, and a RECORD of their hashes."""
    rows = []
    for file, content in files.items():
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        rows.append(f"{file},sha256={digest},{len(content)}")
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    required = f"Requires-Dist: {requires}\n" if requires else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{required}")
    (info / "RECORD").write_text("\n".join(rows) + "\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "doctored_app", {"doctored_app/a.py": b"1"}, requires="doctored-stubs>=1")
    install(tmp_path, "doctored_stubs", {"doctored_ns/stubs.py": b"2", "doctored_ns/more.py": b"3"})
    return tmp_path


def test_packages_as_installed_are_one_line(site: Path) -> None:
    assert lines(check_packages("doctored-app")) == [
        "ok packages: the files of 2 distributions are as installed"
    ]


def test_a_file_of_a_dependency_that_another_distribution_replaced_names_both(site: Path) -> None:
    install(site, "doctored_intruder", {"doctored_ns/stubs.py": b"other"})
    (found,) = lines(check_packages("doctored-app"))
    assert found == (
        f"fail package doctored-stubs: {site}/doctored_ns/stubs.py was changed; "
        "doctored-intruder also installed it"
    )


def test_a_file_that_two_distributions_own_with_the_same_content_is_a_warning(site: Path) -> None:
    install(site, "doctored_twin", {"doctored_ns/stubs.py": b"2"})
    (found,) = lines(check_packages("doctored-app"))
    assert found.startswith(f"warn package doctored-stubs: {site}/doctored_ns/stubs.py belongs to two")


def test_a_file_that_was_removed_is_a_failure(site: Path) -> None:
    (site / "doctored_ns" / "more.py").unlink()
    (found,) = lines(check_packages("doctored-app"))
    assert found == f"fail package doctored-stubs: {site}/doctored_ns/more.py is missing"


def certificate(file: Path, ends: datetime) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authz")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, ends - timedelta(days=90), ends)
    file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return file


@pytest.mark.parametrize(("days", "level"), [(-1, "fail"), (3, "warn"), (60, "ok")])
def test_a_certificate_that_ends_soon_is_a_warning_and_an_ended_one_a_failure(
    tmp_path: Path, days: int, level: str
) -> None:
    file = certificate(tmp_path / "cert.pem", datetime.now(UTC) + timedelta(days=days))
    assert [one.level for one in of_certificate("authz certificate", file, time.time())] == [level]
