"""Comments, docstrings, messages and pages avoid wordings that read as translated."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]

WORDINGS = {
    r"(?<!\bthere )\b(?:is|are|was|were) no (?!longer|more|other)": "is not a, has no",
    r"\banew\b": "again, new",
    r"\bwhoever\b|\bwhosoever\b": "anyone who, the caller",
    r"\bnobody\b": "no one, or name the subject",
    r"\bfor ever\b": "forever",
    r"\bbeside\b": "next to, in addition to, together with",
    r"\bstands? (?:here|there|in|for|beside|behind|twice|first|last|alone|still)\b": "is, means, hangs",
    r"\bin place of\b": "instead of",
    r"\bwhat is asked\b|\bwho asks\b": "the request, the caller",
    r"\bwhat (?:came|comes|should come) of\b": "the result",
    r"\bfor good\b": "permanently, forever",
    r"\b(?:speaks?|says?) of\b": "is about, says about",
    r"\bheld against\b": "compared with",
    r"\bkept from the\b|\blets? in\b": "removed before, hidden from; accepts",
    r"\bas (?:it|they) stands?\b": "unchanged",
    r"\bone [a-z]+ an? (?:kind|row|stream|file|line|read|worker|turn)\b": "one for each",
    r"\bin (?:the )?meantime\b|\bmeanwhile\b": "until then, at the same time",
    r"\bbe it\b|\bso to say\b|\bby and by\b": "write it plainly",
    r'"""Of |"""The same (?:for|as|of)\b': "a docstring that makes sense alone",
}
"""Regular expressions, and what to write instead. Case does not matter."""

SKIPPED = {"tests/test_english.py", "CHANGELOG.md"}


def texts() -> list[tuple[str, str]]:
    """Return the name and content of each text that people read."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.proto", "*.yaml", "Makefile"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    names = [name for name in listed.stdout.splitlines() if "_pb2" not in name and name not in SKIPPED]
    return [(name, (ROOT / name).read_text(encoding="utf-8")) for name in names if (ROOT / name).exists()]


def test_wordings_are_plain() -> None:
    found = [
        f"{name}:{number}: {match[0]!r}: write {better}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        for wording, better in WORDINGS.items()
        for match in re.finditer(wording, line, re.IGNORECASE)
    ]
    assert not found, "\n".join(found)
