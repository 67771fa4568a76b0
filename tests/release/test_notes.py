"""The notes of a release are its section of the CHANGELOG."""

import pytest

from release.notes import NotesError, release_notes

CHANGELOG = """# Changelog

## Unreleased

## 1.2.0 - 2026-05-01

### Added
- This.

## 1.1.0 - 2026-01-01
- Old.
"""


def test_the_notes_are_the_section_of_the_version() -> None:
    assert release_notes(CHANGELOG, "1.2.0") == "### Added\n- This.\n"
    assert release_notes(CHANGELOG, "1.1.0") == "- Old.\n"


@pytest.mark.parametrize("version", ["1.2", "2.0.0", "1.2.0.1", "1x2.0"])
def test_a_version_without_a_section_is_an_error(version: str) -> None:
    with pytest.raises(NotesError, match="has no section"):
        release_notes(CHANGELOG, version)


def test_an_empty_section_is_an_error() -> None:
    with pytest.raises(NotesError, match="has nothing below"):
        release_notes("## 1.0.0\n\n## 0.9.0\n- Old.\n", "1.0.0")
