"""The conformance suite of HTTP/2 that others wrote, against our own transport."""

import asyncio
import re

import pytest

from sidecars.transport.api.service import Call, Unary
from tests.support.gotools import BUILD_SECONDS, go_tool
from tests.support.transport.harness import Serve, path

MODULE = "github.com/summerwind/h2spec/cmd/h2spec@latest"
SUITE_SECONDS = 300

MISTAKEN = {
    "generic": {"Sends a dynamic table size update", "Sends multiple dynamic table size update"},
    "http2": set(),
    "hpack": set(),
}
"""Cases that set the dynamic table to 128 and 4,096 bytes, although our SETTINGS allow none. RFC 7541 section
6.3 makes that a decoding error, as the case of section hpack says, which reads our SETTINGS."""


async def finished(process: asyncio.subprocess.Process, seconds: float) -> str:
    try:
        async with asyncio.timeout(seconds):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode()


async def start(*command: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )


def echo(request: bytes, call: Call) -> bytes:
    return request


@pytest.mark.timeout(BUILD_SECONDS + SUITE_SECONDS)
@pytest.mark.parametrize("transport", ["native"], indirect=True)
@pytest.mark.parametrize("section", MISTAKEN)
async def test_h2spec_passes(serve: Serve, section: str) -> None:
    """Every case, the strict ones too, but for those that are mistaken."""
    command = await asyncio.to_thread(go_tool, "h2spec", MODULE)
    served = await serve({"Echo": Unary(echo)})
    suite = await start(
        command, section, "--strict", "--port", str(served.port), "--path", path("Echo"), "--timeout", "5"
    )
    output = await finished(suite, SUITE_SECONDS)
    assert set(re.findall(r"\u00d7 \d+: (.*)", output)) == MISTAKEN[section], output
    assert f"0 skipped, {len(MISTAKEN[section])} failed" in output, output
