"""The `sidecars` command, for the tests of commands and settings."""

import pytest

from tests.support.command import Command


@pytest.fixture
def sidecars(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("COLUMNS", "100")
    return Command(capsys)
