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
    [("ratelimit", {"authz", "jwt", "re2", "grpc"}), ("accesslog", {"authz", "jwt", "grpc"})],
)
def test_a_sidecar_loads_nothing_of_another(service: str, unused: set[str]) -> None:
    command = [sys.executable, "-c", PROGRAM.format(service=service)]
    loaded = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert service in loaded
    assert not unused & set(loaded)
