"""The revision that files of limits state, instead of a hash of their content."""

import re
from typing import Final

from ratelimit.map_reader import MapReader

_REVISION: Final = re.compile("[A-Za-z0-9._+-]{1,64}")


class StatedRevision:
    """What the files say about their revision. All that have one must have the same."""

    __slots__ = ("_place", "value")

    def __init__(self) -> None:
        self.value = ""
        """Empty until a file states one."""
        self._place = ""

    def add(self, root: MapReader) -> None:
        """Read the revision of a file, if it has one."""
        if "revision" not in root.data:
            return
        revision = root.text("revision")
        if not _REVISION.fullmatch(revision):
            text = f"'{revision}': a revision has 1 to 64 letters, digits and any of . _ + -"
            root.problem(text, "revision")
        elif not self.value:
            self.value = revision
            self._place = f"{root.document.file}:{root.document.line(('revision',))}"
        elif revision != self.value:
            text = f"'{revision}', but {self._place} has '{self.value}': limits have one revision"
            root.problem(text, "revision")
