"""Takes the notes of a release from the CHANGELOG."""

import re


class NotesError(Exception):
    """The CHANGELOG has no section for the version, or an empty one."""


def release_notes(changelog: str, version: str) -> str:
    """Return the section `## VERSION - DATE` of `changelog`, without its heading. Raises NotesError."""
    heading = re.compile(rf"^## \[?{re.escape(version)}\]?(?: - \d{{4}}-\d\d-\d\d)?$", re.MULTILINE)
    found = heading.search(changelog)
    if found is None:
        raise NotesError(f"CHANGELOG.md has no section `## {version} - YYYY-MM-DD`: rename *Unreleased*")
    section = re.split(r"^## ", changelog[found.end() :], maxsplit=1, flags=re.MULTILINE)[0].strip()
    if not section:
        raise NotesError(f"CHANGELOG.md has nothing below `## {version}`")
    return f"{section}\n"
