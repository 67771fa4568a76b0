"""The client for login applications: alone, as the page shows it, and when the API is away."""

import json
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecars.client import sessions
from sidecars.client.sessions import SessionsClient, SessionsError, SessionsUnavailableError
from sidecars.settings.root import Settings
from tests.support.running import SIDECARS, Running

PAGE = (Path(__file__).parents[3] / "docs" / "sessions.md").read_text(encoding="utf-8")
TOKEN = "shop-token-" + "a" * 32


def example(kind: str) -> str:
    [found] = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "shop-login.token"
    file.write_text(f"{TOKEN}\n")
    return file


def test_the_settings_of_the_page_and_its_python_work_together(tmp_path: Path, token_file: Path) -> None:
    section = yaml.safe_load(example("yaml").replace("/run/sidecars/", f"{tmp_path}/"))
    section["authz"]["sessions_api"]["clients"][0]["may"].append("revoke_subject")
    (tmp_path / "helpdesk.token").write_text("helpdesk-token-" + "b" * 32)
    policy = {"credentials": {"sessions": {}}, "rules": [{"name": "all", "paths": ["/"], "allow": "anyone"}]}
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy))
    with Running(tmp_path, section, program=SIDECARS) as running:
        running.wait_until_ready()
        program = example("python").replace("/run/sidecars/", f"{tmp_path}/")
        program += "\nassert shown.subject == 'alice' and sessions.show(made.token) is None\n"
        program += "assert SessionsUnavailableError and made.token not in repr(made)\n"
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={"PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")

        def events() -> list[str]:
            return [line["event"] for line in running.log if line["logger"] == "sidecars.authz.sessions"]

        assert running.wait_until(lambda: events() if len(events()) == 3 else None) == [
            "session created",
            "sessions revoked",
            "sessions revoked",
        ]


def test_the_settings_of_the_page_are_valid() -> None:
    checked = Settings.model_validate(yaml.safe_load(example("yaml")))
    assert checked.authz is not None
    assert checked.authz.sessions_api is not None
    assert [client.may for client in checked.authz.sessions_api.clients] == [
        ("create", "show", "revoke"),
        ("revoke_subject",),
    ]


def test_a_copy_of_the_file_works_without_anything_else(tmp_path: Path) -> None:
    shutil.copy(sessions.__file__, tmp_path / "sessions_client.py")
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        import sessions_client
        client = sessions_client.SessionsClient("unix:/nowhere/s", Path(__file__).with_name("token"))
        try:
            client.revoke("t")
        except sessions_client.SessionsUnavailableError as error:
            print(error)
    """)
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "token").write_text(TOKEN)
    done = subprocess.run(
        [sys.executable, "-S", "-E", "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "the sessions API does not answer: [Errno 2] No such file or directory\n", (
        done.stderr
    )


class Answer(BaseHTTPRequestHandler):
    """Answers every request with the status and body that the test has set."""

    status, body = 200, b""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(type(self).status)
        self.end_headers()
        self.wfile.write(type(self).body)

    def log_message(self, *_: Any) -> None:
        """Write nothing."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Answer) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (503, {"error_description": "Redis is away"}, SessionsUnavailableError, "Redis is away"),
        (429, {}, SessionsUnavailableError, "status 429"),
        (403, {"error_description": "may not create"}, SessionsError, "may not create"),
        (502, "<html>", SessionsError, "status 502 is not a JSON object"),
        (200, [1], SessionsError, "status 200 is not a JSON object"),
    ],
)
def test_each_failure_says_whether_to_try_again(
    server: HTTPServer, token_file: Path, status: int, body: object, kind: type[SessionsError], text: str
) -> None:
    Answer.status, Answer.body = status, body.encode() if isinstance(body, str) else json.dumps(body).encode()
    client = SessionsClient(f"http://127.0.0.1:{server.server_port}", token_file)
    with pytest.raises(SessionsError, match=text) as failed:
        client.create("alice")
    assert (type(failed.value), failed.value.status) == (kind, status)


def test_a_server_that_is_not_there_is_unavailable(token_file: Path) -> None:
    for address in ("unix:/nowhere/s", "http://127.0.0.1:1"):
        with pytest.raises(SessionsUnavailableError):
            SessionsClient(address, token_file).show("t")


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1:9091", "https://127.0.0.1:9091", "http://127.0.0.1", "unix:"]
)
def test_an_address_that_cannot_work_is_an_error_at_once(address: str, token_file: Path) -> None:
    with pytest.raises(ValueError, match="expected unix:/PATH or http://HOST:PORT"):
        SessionsClient(address, token_file)
