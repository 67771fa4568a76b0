"""What holds for all tests."""

import os

from hypothesis import settings

from tests.support.redis_server import server_version

# A deadline for each example is a timed assertion: on a busy machine it fails for no fault of the code.
# `make test` draws the same examples each time, so that a change fails only for what it changed;
# `make test-all` draws new ones.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


def pytest_report_header() -> str:
    """The Redis or Valkey server that the tests of this run use."""
    return f"redis server: {server_version()}"
