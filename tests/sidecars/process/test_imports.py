"""What a sidecar does not use costs it no memory."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
import sidecars.cli, sidecars.cli.run, sidecars.cli.serve, sidecars.settings.named_files
import sidecars.services.{service}
from sidecars.settings.load import read_settings
read_settings(Path("none.yaml"), {{}})
print(*sorted({{part for name in sys.modules for part in (name, name.partition(".")[0])}}))
"""


@pytest.mark.parametrize(
    ("service", "unused"),
    [
        (
            "ratelimit",
            {
                "accesslog.records.decoder",
                "google.protobuf.descriptor_pb2",
                "google.protobuf.json_format",
            },
        ),
        ("accesslog", {"ratelimit.limiter"}),
    ],
)
def test_a_sidecar_loads_nothing_of_another(service: str, unused: set[str]) -> None:
    command = [sys.executable, "-c", PROGRAM.format(service=service)]
    loaded = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert service in loaded
    unused |= {"authz", "jwt", "re2", "grpc", "redis", "rich", "sidecars.workers.supervisor"}
    unused |= {"sidecars.settings.compat.read", "sidecars.cli.edge", "sidecars.cli.policy"}
    unused.add("pydantic_settings")  # no variable is a setting
    assert not unused & set(loaded)


def test_bundles_need_the_keys_and_the_http_client_of_authz_alone() -> None:
    program = PROGRAM.format(service="ratelimit") + (
        "from sidecars.process.bundle import offer, puller, start\nprint(*sys.modules)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {name for name in loaded if name.startswith("authz.")} == {
        "authz.credentials",
        "authz.credentials.core",
        "authz.credentials.core.http",
        "authz.credentials.core.outbound",
        "authz.credentials.jwt",
        "authz.credentials.jwt.algorithms",
        "authz.credentials.jwt.weak_rsa",
    }
    assert not {"redis", "grpc", "re2", "rich"} & loaded


def test_the_command_line_loads_what_a_command_needs() -> None:
    """Else every command, and the completion of each word, would take a second."""
    program = "import sys, sidecars.cli.app; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert "sidecars.cli.logs" in loaded
    assert not {"sidecars.settings.root", "accesslog.records.redact", "redis", "aiohttp"} & set(loaded)
