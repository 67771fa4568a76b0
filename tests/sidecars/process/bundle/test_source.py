"""Bundles are fetched within bounds, and only from where the settings allow."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from authz.credentials.core.http import FetchError
from sidecars.process.bundle.source import fetch, post_json
from sidecars.settings.bundle import BundleSettings
from tests.support.bundle_server import BundleServer

LOOPBACK = ("127.0.0.0/8",)
MAX_BYTES = 1024


@pytest.fixture
def server() -> Iterator[BundleServer]:
    with BundleServer() as server:
        yield server


def settings(server: BundleServer, **changes: Any) -> BundleSettings:
    given = {"url": f"{server.url}/a", "allow_http": True, "allow_addresses": LOOPBACK, "timeout_seconds": 5}
    own = {"folder": "/bundles", "signature_required": False}
    return BundleSettings(**{**given, **own, **changes})


async def test_an_unchanged_bundle_is_not_sent_again(server: BundleServer) -> None:
    server.put("/a", b"one")
    first = await fetch(settings(server), max_bytes=MAX_BYTES)
    assert (first.body, first.long_poll) == (b"one", False)
    again = await fetch(settings(server), etag=first.etag, max_bytes=MAX_BYTES)
    assert (again.body, again.etag) == (None, first.etag)
    server.put("/a", b"two")
    assert (await fetch(settings(server), etag=first.etag, max_bytes=MAX_BYTES)).body == b"two"


async def test_a_server_that_holds_requests_is_asked_as_opa_asks_it() -> None:
    with BundleServer(long_poll=True) as server:
        server.put("/a", b"one")
        fetched = await fetch(settings(server), wait_seconds=7, max_bytes=MAX_BYTES)
    assert fetched.long_poll
    assert server.asked[0]["prefer"] == "modes=snapshot;wait=7"


async def test_the_file_of_headers_is_read_for_each_request(server: BundleServer, tmp_path: Path) -> None:
    server.put("/a", b"one")
    file = tmp_path / "headers"
    for token in ("first", "second"):
        file.write_text(f"authorization: Bearer {token}\n")
        await fetch(settings(server, headers_file=file), max_bytes=MAX_BYTES)
    assert [headers["authorization"] for headers in server.asked] == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("status", [204, 301, 304, 404, 500])
async def test_any_other_status_is_an_error(server: BundleServer, status: int) -> None:
    server.status = status
    with pytest.raises(FetchError, match=f"HTTP status {status}"):
        await fetch(settings(server), max_bytes=MAX_BYTES)


async def test_a_body_over_the_bound_is_not_read_to_its_end(server: BundleServer) -> None:
    server.put("/a", bytes(MAX_BYTES + 1))
    with pytest.raises(FetchError, match="larger than 1024 bytes"):
        await fetch(settings(server), max_bytes=MAX_BYTES)


async def test_a_private_address_needs_a_setting(server: BundleServer) -> None:
    server.put("/a", b"one")
    with pytest.raises(FetchError, match="not a public address"):
        await fetch(settings(server, allow_addresses=()), max_bytes=MAX_BYTES)
    assert not server.asked


async def test_a_server_that_is_away_is_named(server: BundleServer) -> None:
    server.stop()
    with pytest.raises(FetchError, match="cannot be reached: the connection is refused"):
        await fetch(settings(server), max_bytes=MAX_BYTES)


async def test_a_server_that_hangs_is_given_up(server: BundleServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
        with pytest.raises(FetchError, match=r"no answer within 0\.2 s"):
            await fetch(settings(server, url=url, timeout_seconds=0.2), max_bytes=MAX_BYTES)


async def test_a_status_is_posted(server: BundleServer) -> None:
    await post_json(settings(server), b"{}")
    assert server.posted == [b"{}"]


async def test_files_of_this_machine_that_cannot_be_read_are_named(
    server: BundleServer, tmp_path: Path
) -> None:
    for key in ("headers_file", "ca_file"):
        with pytest.raises(FetchError, match=f"{key} cannot be"):
            await fetch(settings(server, **{key: tmp_path / "none"}), max_bytes=MAX_BYTES)
