"""The last screen of the demo on a terminal of 80 columns and 24 lines."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sidecars.demo.screen import print_screen

FOLDER = Path("/tmp/edge-sidecars-abcdefgh")


@pytest.fixture
def edge() -> Any:
    """The longest addresses that an edge may have."""
    names = ("Envoy", "the sidecars", "the second authz", "the login application")
    processes = [SimpleNamespace(name=name, child=SimpleNamespace(pid=4_194_304)) for name in names]
    url = "http://127.0.0.1:65535"
    redis = f"unix://{FOLDER}/redis.sock?db=0"
    places = SimpleNamespace(folder=FOLDER, redis_url=redis, idp_port=65535, upstream_port=65535)
    return SimpleNamespace(
        places=places, processes=processes, url=url, other_url=url, login_url=f"{url}/auth/me"
    )


def test_it_fits_into_a_small_terminal(edge: Any, capsys: pytest.CaptureFixture[str]) -> None:
    print_screen(Console(width=80, highlight=False), edge, "t" * 43, 65535, FOLDER / "try.sh")
    lines = capsys.readouterr().out.strip().splitlines()
    table = lines[1 : lines.index(next(line for line in lines if line.startswith("Three things")))]
    assert [line.split("  ")[0] for line in table if not line.startswith(" ")] == [
        "Envoy, the edge",
        "authz, ratelimit, accesslog",
        "second authz, through Envoy",
        "Redis, for both authz",
        "identity provider",
        "upstream, which echoes",
        "login application",
    ]
    assert all("…" not in line and len(line.rstrip()) <= 80 for line in table)
    assert f"{FOLDER}/redis.sock" in "\n".join(table)
    # Commands are longer than a line, so that they can be pasted; the terminal wraps them.
    assert sum(max(1, -(-len(line.rstrip()) // 80)) for line in lines) <= 24
