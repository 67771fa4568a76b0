"""Replays each input that fuzzing has found."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.transport import MAX_INPUT_BYTES, check, corpus


@pytest.mark.parametrize("path", corpus(), ids=lambda path: path.name)
def test_no_input_of_the_corpus_crashes_hangs_or_grows(path: Path) -> None:
    check(path.read_bytes())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=MAX_INPUT_BYTES // 8))
def test_no_random_program_crashes_hangs_or_grows(data: bytes) -> None:
    check(data)
