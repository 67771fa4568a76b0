"""Where every transport listens, and how it refuses to."""

import os
import socket
import stat
from pathlib import Path

import pytest

from sidecars.transport.api.address import Address, TcpAddress, UnixAddress
from sidecars.transport.api.service import Call, Unary
from tests.support.transport.harness import (
    LOOPBACK,
    Connect,
    Serve,
    Served,
    make_server,
    within,
)


def echo(request: bytes, call: Call) -> bytes:
    return request


METHODS = {"Echo": Unary(echo)}


def exists(path: str) -> bool:
    return Path(path).exists()


async def answers(connect: Connect, served: Served | str) -> bool:
    return await within(connect(served).unary("Echo", b"here")) == b"here"


async def refusal(transport: str, address: Address) -> str:
    server = make_server(transport, (), [LOOPBACK, address])
    with pytest.raises(OSError) as caught:
        await within(server.start())
    await within(server.drain(0))
    return str(caught.value)


async def test_a_free_port_is_found_and_told(serve: Serve, connect: Connect) -> None:
    served = await serve(METHODS)
    assert served.port > 0
    assert await answers(connect, served)


async def test_every_address_is_served_and_ports_keep_their_order(
    serve: Serve, connect: Connect, socket_address: UnixAddress
) -> None:
    served = await serve(METHODS, LOOPBACK, socket_address, TcpAddress("::1", 0))
    first, second = served.server.ports
    for target in (f"127.0.0.1:{first}", f"unix:{socket_address.path}", f"[::1]:{second}"):
        assert await answers(connect, target)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777], ids=oct)
async def test_a_unix_socket_has_the_mode_asked_for(
    serve: Serve, connect: Connect, socket_address: UnixAddress, mode: int
) -> None:
    before = os.umask(0o022)
    try:
        served = await serve(METHODS, UnixAddress(socket_address.path, mode))
        assert stat.S_IMODE(os.stat(socket_address.path).st_mode)  # noqa: PTH116 == mode
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert await answers(connect, served)


async def test_an_abstract_name_is_served_and_leaves_no_file(
    serve: Serve, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    served = await serve(METHODS, UnixAddress(f"@edge-sidecars-test-{os.getpid()}"))
    assert await answers(connect, served)
    assert os.listdir(tmp_path) == []  # noqa: PTH208


async def test_a_path_with_characters_that_urls_escape_is_served(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    address = UnixAddress(str(tmp_path / "a %41 b.sock"))
    await serve(METHODS, address)
    assert stat.S_ISSOCK(os.stat(address.path).st_mode)  # noqa: PTH116
    assert await answers(connect, f"unix:{address.path.replace('%', '%25')}")


async def test_a_stale_socket_file_is_replaced(
    serve: Serve, connect: Connect, socket_address: UnixAddress
) -> None:
    """A server that was killed leaves its file behind; the next start must not need a hand."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(socket_address.path)
        dead.listen()
    assert await answers(connect, await serve(METHODS, socket_address))


async def test_the_socket_of_a_live_server_is_left_alone(
    transport: str, serve: Serve, connect: Connect, socket_address: UnixAddress
) -> None:
    served = await serve(METHODS, socket_address)
    assert str(socket_address) in await refusal(transport, socket_address)
    assert await answers(connect, served)


async def test_a_file_that_is_no_socket_is_left_alone(transport: str, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("precious")
    assert str(file) in await refusal(transport, UnixAddress(str(file)))
    assert file.read_text() == "precious"


async def test_a_folder_that_does_not_exist_is_named(transport: str, tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "missing" / "probe.sock"))
    message = await refusal(transport, address)
    assert str(address) in message
    assert "the folder" in message


async def test_a_taken_port_is_named(transport: str, serve: Serve) -> None:
    """Never shared in silence (SO_REUSEPORT): half of the calls would go to the other server."""
    served = await serve(METHODS)
    message = await refusal(transport, TcpAddress("127.0.0.1", served.port))
    assert f"127.0.0.1:{served.port}" in message
    assert "another process listens on it" in message


async def test_a_start_that_failed_releases_what_it_had_bound(transport: str, tmp_path: Path) -> None:
    first = UnixAddress(str(tmp_path / "first.sock"))
    server = make_server(transport, (), [first, UnixAddress(str(tmp_path / "missing" / "second.sock"))])
    with pytest.raises(OSError, match="second"):
        await within(server.start())
    again = make_server(transport, (), [first])
    await within(again.start())
    await within(again.drain(0))


def test_nothing_is_bound_before_start(transport: str, socket_address: UnixAddress) -> None:
    make_server(transport, (), [socket_address])
    assert not exists(socket_address.path)


async def test_the_socket_file_is_gone_after_the_drain(serve: Serve, socket_address: UnixAddress) -> None:
    served = await serve(METHODS, socket_address)
    await within(served.server.drain(1))
    assert not exists(socket_address.path)
