"""Two policies compared, for the tests of diff."""

from pathlib import Path

import yaml

from authz.policy.compile.load import load_with_contents
from authz.tools.diff import PolicyDiff, diff


def compared(folder: Path, old: object, new: object) -> PolicyDiff:
    """The difference between two policies, each the text or the content of a file."""
    both = []
    for name, content in (("old", old), ("new", new)):
        file = folder / name / "policy.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        both.append(load_with_contents([file]))
    return diff(*both)


def changes(folder: Path, old: object, new: object) -> dict[str, dict[str, tuple[str, str]]]:
    """For each changed rule, what changed: its old and its new value. `whole`: outside of the rules."""
    found = compared(folder, old, new)
    described = {
        change.new.name: {one.what: (one.old, one.new) for one in change.changes} for change in found.changed
    }
    if found.whole:
        described["whole"] = {one.what: (one.old, one.new) for one in found.whole}
    return described
