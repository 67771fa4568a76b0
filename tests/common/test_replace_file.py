"""A file is replaced whole or not at all, and errors name it."""

from pathlib import Path

import pytest

from common.replace_file import replace_file


@pytest.mark.parametrize("durable", [False, True])
def test_the_file_has_the_new_content_and_nothing_else_is_left(tmp_path: Path, durable: bool) -> None:
    file = tmp_path / "state"
    file.write_bytes(b"old")
    replace_file(file, b"new", durable=durable)
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_an_error_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    with pytest.raises(OSError, match=r"state'$") as raised:
        replace_file(folder, b"new")
    assert raised.value.filename == str(folder)
    assert list(tmp_path.iterdir()) == [folder]
