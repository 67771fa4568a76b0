"""Configuration and fixtures for all tests."""

import gc
import os
import signal
from collections import Counter

import pytest
import structlog
from hypothesis import settings

from tests.support.redis_server import server_version

# A deadline for each example is a timed assertion, which can fail on a busy machine although the code is
# right.
# `make test` uses the same examples each time, so that only a change of the code makes a test fail;
# `make test-all` draws new ones.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

# A shell starts a job in the background with SIGINT ignored, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What structlog does unless it is configured, but with plain tracebacks: those of rich show every variable,
# which takes most of the time of a test that logs many errors.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_report_header() -> str:
    """The Redis or Valkey server that the tests of this run use."""
    return f"redis server: {server_version()}"


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names long bytes after their parameter: what a packer makes can differ between two workers."""
    return argname if isinstance(val, bytes) and len(val) > 16 else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the files: those with a real Envoy first, then by their number of tests, least first.

    Files with few tests have the slow ones, from end to end, and one that starts last would keep one worker
    busy while the others have nothing left.
    """
    tests = Counter(item.path for item in items)
    with_envoy = {item.path for item in items if item.get_closest_marker("envoy")}
    items.sort(key=lambda item: (item.path not in with_envoy, tests[item.path]))


def pytest_collection_finish() -> None:
    """Leaves what exists by now out of each pass of the garbage collector: it is much, and stays."""
    gc.collect()
    gc.freeze()
