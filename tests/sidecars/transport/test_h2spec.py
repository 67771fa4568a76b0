"""The conformance suite of HTTP/2 that others wrote, against our own transport."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from sidecars.transport.service import Call, Unary
from tests.sidecars.transport.harness import Serve, path

REPOSITORY = Path(__file__).parents[3]
MODULE = "github.com/summerwind/h2spec/cmd/h2spec@latest"
BUILD_SECONDS = 300
SUITE_SECONDS = 300


async def finished(process: asyncio.subprocess.Process, seconds: float) -> str:
    try:
        async with asyncio.timeout(seconds):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode()


async def start(*command: str, **variables: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **variables},
    )


async def h2spec() -> str:
    """The path of h2spec: installed, or built once into .cache; skips the test where neither can be."""
    folder = REPOSITORY / ".cache" / "bin"
    found = shutil.which("h2spec") or shutil.which("h2spec", path=str(folder))
    if found is not None:
        return found
    go = shutil.which("go")
    if go is None:
        pytest.skip("h2spec is not on the PATH, and there is no go to build it with")
    build = await start(go, "install", MODULE, GOBIN=str(folder))
    output = await finished(build, BUILD_SECONDS)
    if build.returncode:
        pytest.skip(f"h2spec could not be built: {output}")
    return str(folder / "h2spec")


def echo(request: bytes, call: Call) -> bytes:
    return request


@pytest.mark.timeout(BUILD_SECONDS + SUITE_SECONDS)
@pytest.mark.parametrize("transport", ["own"], indirect=True)
@pytest.mark.parametrize("section", ["generic", "http2", "hpack"])
async def test_h2spec_passes(serve: Serve, section: str) -> None:
    """Every case, the strict ones too."""
    command = await h2spec()
    served = await serve({"Echo": Unary(echo)})
    suite = await start(
        command, section, "--strict", "--port", str(served.port), "--path", path("Echo"), "--timeout", "5"
    )
    output = await finished(suite, SUITE_SECONDS)
    assert suite.returncode == 0, output
    assert "0 failed" in output, output
