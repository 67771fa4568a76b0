"""docs/migrating-opa.md: a real OPA-Envoy answers the messages of the page as the page says.

Needs `opa-envoy` on the PATH, a build of github.com/open-policy-agent/opa-envoy-plugin.
"""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from protos.authz_pb2 import CheckRequest, CheckResponse
from tests.support.free_ports import free_port
from tests.support.opa_examples import Example, examples, facts_of
from tests.support.running import call
from tests.support.signing import jwk, key_set, private_key

CHECK = "/envoy.service.auth.v3.Authorization/Check"
START_SECONDS = 30
TOKENS, *PATTERNS = examples()


@contextmanager
def opa_envoy(folder: Path, example: Example) -> Iterator[grpc.Channel]:
    """Run OPA-Envoy with the Rego of the example; the test is skipped if it is not installed."""
    program = shutil.which("opa-envoy")
    if program is None:
        pytest.skip("opa-envoy is not on the PATH: the page's answers of OPA were not compared")
    (folder / "keys.json").write_bytes(key_set(jwk(private_key("ES256"))))
    (folder / "token.rego").write_text(TOKENS.rego)
    (folder / "policy.rego").write_text(example.rego)
    address = f"127.0.0.1:{free_port()}"
    settings = {
        "plugins.envoy_ext_authz_grpc.addr": address,
        "plugins.envoy_ext_authz_grpc.path": "envoy/authz/allow",
    }
    options = [f"--set={name}={value}" for name, value in settings.items()]
    quiet = ["--addr=127.0.0.1:0", "--skip-version-check", "--log-level=error"]
    files = [str(folder / name) for name in ("keys.json", "token.rego", "policy.rego")]
    process = subprocess.Popen([program, "run", "--server", *quiet, *options, *files], text=True)
    try:
        with grpc.insecure_channel(address) as channel:
            wait_until_ready(process, channel)
            yield channel
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def wait_until_ready(process: subprocess.Popen[str], channel: grpc.Channel) -> None:
    """Wait until it listens. A policy that it cannot compile ends the process and fails the test."""
    ready = grpc.channel_ready_future(channel)
    for _ in range(START_SECONDS):
        try:
            return ready.result(timeout=1)
        except grpc.FutureTimeoutError:
            assert process.poll() is None, "OPA-Envoy ended: its output is above"
    pytest.fail("OPA-Envoy does not listen")


def answer(channel: grpc.Channel, message: CheckRequest) -> CheckResponse | None:
    """Return the response; None if the call itself fails."""
    try:
        return CheckResponse.FromString(call(channel, CHECK, message.SerializeToString()))
    except grpc.RpcError:
        return None


@pytest.mark.parametrize("example", PATTERNS, ids=lambda example: example.title)
def test_opa_envoy_answers_as_the_page_says(example: Example, tmp_path: Path) -> None:
    with opa_envoy(tmp_path, example) as channel:
        for case in example.cases(time.time()):
            response = answer(channel, case.message)
            found = {"status": "error"} if response is None else facts_of(response, case.opa)
            assert found == case.opa, case.line
