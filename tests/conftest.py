"""What holds for all tests."""

from hypothesis import settings

from tests.redis_server import server_version

# A deadline for each example is a timed assertion: on a busy machine it fails for no fault of the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


def pytest_report_header() -> str:
    """The Redis or Valkey server that the tests of this run use."""
    return f"redis server: {server_version()}"
