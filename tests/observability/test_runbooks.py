"""Each alert has a runbook, and each command in one exists and runs against a real process."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import parse_qs, urlsplit

import click
import pytest
import yaml
from typer.main import get_command

from sidecars.cli.app import app
from sidecars.services.authz.decisions import _ASKED
from tests.support.redis_server import RedisServer
from tests.support.rules import ALERTS, page_of
from tests.support.running import SIDECARS, Running
from tests.support.series import SERIES

DOCS = Path(__file__).parents[2] / "docs"
DRILL = "drill"
PAGES = sorted(path for path in (DOCS / "runbooks").glob("*.md") if path.stem != DRILL)
SECTIONS = ["What it means", "What users see", "Look", "Stop the bleeding"]
ADMIN = "http://127.0.0.1:9090"
ETC = "/etc/sidecars"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def commands(page: Path) -> list[str]:
    """Return the lines of the first block of commands."""
    found = re.search(r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1].splitlines()


COMMANDS = sorted({command for page in PAGES for command in commands(page)})


def test_each_alert_has_a_page_and_each_page_an_alert() -> None:
    assert {page.stem for page in PAGES} == {page_of(alert["alert"]) for alert in ALERTS}
    nav = yaml.safe_load((DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    [listed] = [one["Runbooks"] for one in nav if "Runbooks" in one]
    names = {name: path for one in listed for name, path in one.items()}
    assert {name for name, path in names.items() if page_of(name) == Path(path).stem} >= {
        alert["alert"] for alert in ALERTS
    }


@each_page
def test_a_page_says_what_it_means_what_to_run_and_what_to_do(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert page_of(text.splitlines()[0].removeprefix("# ")) == page.stem
    headings = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert headings[: len(SECTIONS)] == SECTIONS
    assert len(commands(page)) == 3
    look = text.partition("## Look")[2].partition("## ")[0]
    assert len(re.findall(r"^\d\. ", look, re.MULTILINE)) == 3


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_names_what_exists(command: str, tmp_path: Path) -> None:
    program, *words = shlex.split(re.split(r" [|<] ", command)[0])
    if program == "sidecars":
        check_words(get_command(app), words)
        return
    assert program == "curl"
    url = urlsplit(words[-1])
    assert f"{url.scheme}://{url.netloc}" == ADMIN
    if url.path == "/decisions":
        assert parse_qs(url.query).keys() <= {*_ASKED, "limit"}
    if url.path == "/metrics":
        [pattern] = re.findall(r"grep (?:-E )?(\S+)$", command.replace("'", ""))
        for one in alternatives(pattern):
            assert any(re.search(one, name) for name in SERIES), one


def check_words(command: Any, words: list[str]) -> None:
    """Fail if a word is not a subcommand or an option of the command."""
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        if command.invoke_without_command and words[0].startswith("-"):
            break
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= options


def alternatives(pattern: str) -> Iterator[str]:
    """Yield what a pattern of grep names, each by itself: a(b|c) gives ab and ac."""
    group = re.fullmatch(r"(.*?)\(([^()]*)\)(.*)", pattern)
    if group is None:
        yield from pattern.split("|")
        return
    before, _, rest = group[1].rpartition("|")
    if before:
        yield from before.split("|")
    for one in group[2].split("|"):
        yield from alternatives(f"{rest}{one}{group[3]}")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The three sidecars with their files, a Redis, and one line in the access log."""
    folder = tmp_path_factory.mktemp("r")
    policy = "rules: [{name: public, paths: [/public], allow: anyone}]\n"
    for name in ("policy.yaml", "OLD.yaml", "NEW.yaml"):
        (folder / name).write_text(policy)
    limit = "{key: remote_address, rate_limit: {unit: second, requests_per_unit: 5}}"
    (folder / "limits.yaml").write_text(f"domain: edge\ndescriptors: [{limit}]\n")
    (folder / "access.jsonl").write_text('{"request_id": "REQUEST_ID", "code": 200}\n')
    (folder / "token").write_text("a.b.c")
    with RedisServer() as redis:
        settings = {
            "redis": {"url": redis.url},
            "authz": {"listen": [f"unix:{folder}/a"], "policy": ["policy.yaml"]},
            "ratelimit": {
                "listen": [f"unix:{folder}/r"],
                "limits": ["limits.yaml"],
                "store": "redis",
                "xds": {"server": "127.0.0.1:1"},
            },
            "accesslog": {
                "listen": [f"unix:{folder}/l"],
                "sinks": [{"type": "file", "path": "access.jsonl", "spool": {"folder": "spool"}}],
            },
        }
        with Running(folder, settings, program=SIDECARS) as running:
            yield running.wait_until_ready()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(command: str, suite: Running) -> None:
    if "sidecars_worker" in command or "_transport_tls_expiry" in command:
        pytest.skip("this suite has neither workers nor TLS")
    if command.startswith("curl ") and which("curl") is None:
        pytest.skip("curl is not installed (Debian: apt install curl)")
    port = (suite.folder / "admin.port").read_text().strip()
    admin = f"unix:{suite.folder}" if not port else f"http://127.0.0.1:{port}"
    command = command.replace(ADMIN, admin).replace(ETC, str(suite.folder))
    command = re.sub(r"^sidecars ", f"{sys.executable} -m sidecars ", command)
    ran = subprocess.run(
        command, shell=True, cwd=suite.folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.stdout.strip(), ran.stderr
    assert ran.returncode in {0, 1}, ran.stderr
