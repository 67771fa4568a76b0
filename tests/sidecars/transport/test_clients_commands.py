"""curl and h2load, where they are installed."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from sidecars.transport.api.service import Call, Unary
from tests.support.transport.harness import Serve, path, within
from tests.support.transport.rawclient import message


def echo(request: bytes, call: Call) -> bytes:
    return request


async def echo_later(request: bytes, call: Call) -> bytes:
    await asyncio.sleep(0)
    return request


def installed(name: str, package: str) -> str:
    """Where the command is; skips the test, with what to install, when it is not."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {package})")
    return found


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await within(process.communicate())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_curl_gets_an_answer_with_trailers(serve: Serve, tmp_path: Path) -> None:
    curl = installed("curl", "curl")
    body, reply, headers = (tmp_path / name for name in ("body", "reply", "headers"))
    body.write_bytes(message(b"from curl"))
    served = await serve({"Echo": Unary(echo)})
    await run(
        *(curl, "--silent", "--show-error", "--http2-prior-knowledge", "--noproxy", "*"),
        *("--data-binary", f"@{body}", "-H", "content-type: application/grpc", "-H", "te: trailers"),
        *("--output", str(reply), "--dump-header", str(headers)),
        f"http://127.0.0.1:{served.port}{path('Echo')}",
    )
    assert reply.read_bytes() == message(b"from curl")
    assert headers.read_text().startswith("HTTP/2 200")
    assert "grpc-status: 0" in headers.read_text()


@pytest.mark.parametrize("method", ["Echo", "Later"])
async def test_h2load_loses_no_call(serve: Serve, tmp_path: Path, method: str) -> None:
    """4 connections with 16 calls each in flight: the load of the benchmark."""
    h2load = installed("h2load", "nghttp2-client")
    body = tmp_path / "body"
    body.write_bytes(message(b"x" * 1200))
    served = await serve({"Echo": Unary(echo), "Later": Unary(echo_later)})
    output = await run(
        *(h2load, "-n", "3000", "-c", "4", "-m", "16", "-d", str(body)),
        *("-H", "content-type: application/grpc", "-H", "te: trailers"),
        f"http://127.0.0.1:{served.port}{path(method)}",
    )
    assert re.search(r"3000 succeeded, 0 failed, 0 errored, 0 timeout", output), output
    assert "status codes: 3000 2xx" in output
