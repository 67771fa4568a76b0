"""What a sidecar does not use costs it no memory."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import sidecars.process.lifecycle, sidecars.settings.load, sidecars.settings.named_files
import sidecars.services.{service}
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


@pytest.mark.parametrize(
    ("service", "unused"),
    [
        ("ratelimit", {"authz", "jwt", "re2", "grpc", "redis"}),
        ("accesslog", {"authz", "jwt", "re2", "grpc", "redis"}),
    ],
)
def test_a_sidecar_loads_nothing_of_another(service: str, unused: set[str]) -> None:
    command = [sys.executable, "-c", PROGRAM.format(service=service)]
    loaded = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert service in loaded
    assert not unused & set(loaded)


def test_the_command_line_loads_what_a_command_needs() -> None:
    """Else every command, and the completion of each word, would take a second."""
    program = "import sys, sidecars.cli.app; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert "sidecars.cli.logs" in loaded
    assert not {"sidecars.settings.root", "accesslog.records.redact", "redis", "aiohttp"} & set(loaded)
