"""What a finding of the YAML parser means to the person who wrote the file, and in which line it begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import yaml


@dataclass(frozen=True, slots=True)
class _Words:
    text: str
    """`{}` is the character, or the word, that the finding is about."""
    from_begin: bool = False
    """Whether the fault is where the value begins: the parser stops where the file or the block ends."""


_TAB: Final = "a tab; lines are indented with spaces"
_FINDINGS: Final[Mapping[str, _Words]] = {
    "mapping values are not allowed": _Words(
        "a colon where no key ends: a value with a colon is in quotes, keys of a block begin in one column"
    ),
    "block sequence entries are not allowed": _Words(
        "a list begins within the line of its key: write each - in a line of its own"
    ),
    "mapping keys are not allowed": _Words("a ? is not possible here; write the value in quotes"),
    "found character that cannot start any token": _Words("a value cannot begin with {}; write it in quotes"),
    "found a tab character": _Words(_TAB),
    "did not find expected key": _Words(
        "this does not fit what is above: a line is indented differently, or more follows a closing quote"
    ),
    "did not find expected '-'": _Words("a list goes on with -, in the column where it began"),
    "did not find expected ',' or ']'": _Words(
        "a [ has no closing ], or a comma is missing", from_begin=True
    ),
    "did not find expected ',' or '}'": _Words(
        "a {{ has no closing }}, or a comma is missing", from_begin=True
    ),
    "did not find expected node content": _Words("a value is expected here, not {}"),
    "did not find expected alphabetic": _Words(
        "a name follows * and &; write a value that begins with one of them in quotes", from_begin=True
    ),
    "could not find expected ':'": _Words("a key has no colon and value", from_begin=True),
    "found unexpected end of stream": _Words("a quote is not closed", from_begin=True),
    "found unexpected document indicator": _Words("a quote is not closed", from_begin=True),
    "found unknown escape": _Words(
        "an escape that does not exist: in single quotes a backslash is itself", from_begin=True
    ),
    "did not find expected hexadecimal": _Words("an escape is cut short", from_begin=True),
    "found invalid Unicode character escape": _Words("an escape of half a character", from_begin=True),
    "found undefined alias": _Words(
        "{} is the name of an anchor that is not above; write a value that begins with * in quotes"
    ),
    "second occurrence": _Words("duplicate anchor {}"),
    "could not determine a constructor": _Words("the tag {} is unknown; write the value without it"),
    "but found another document": _Words("a second document begins (---); a file holds one"),
    "found unhashable key": _Words("a key must be plain text, without brackets"),
    "expected a mapping or list of mappings for merging": _Words(
        "<< takes an alias of a block, as in <<: *name"
    ),
    "found an indentation indicator": _Words("only a line end, + or - follows | and >", from_begin=True),
    "did not find expected comment or line break": _Words(
        "only a line end, + or - follows | and >", from_begin=True
    ),
    "found unknown directive": _Words("a line cannot begin with %"),
    "found incompatible YAML document": _Words("%YAML names a version that is not read; leave the line out"),
}
"""By the beginning of the parser's message (libyaml)."""


def in_our_words(error: yaml.YAMLError, text: str) -> tuple[int, str]:
    """The line (from 1; 0: unknown) and what is wrong there, of a finding in `text`."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return _line_of_control_character(text), "a control character; text holds none but tabs and line ends"
    mark = error.problem_mark or error.context_mark
    problem = error.problem or ""
    for begin, words in _FINDINGS.items():
        if problem.startswith(begin):
            if words.from_begin:
                mark = error.context_mark or mark
            subject = _subject(problem, mark, text)
            return _line(mark, text), _TAB if subject == "\t" else words.text.format(subject)
    return _line(mark, text), "it cannot be read from here on"


def _line(mark: yaml.Mark | None, text: str) -> int:
    """The line of the mark, which at the end of the file may be one too far."""
    return min(mark.line + 1, len(text.splitlines())) if mark else 0


def _subject(problem: str, mark: yaml.Mark | None, text: str) -> str:
    """The tag that the message names, else the word at the mark."""
    if problem.endswith("'"):
        return problem.split("'")[-2].replace("tag:yaml.org,2002:", "!!")
    lines = text.splitlines()
    rest = lines[mark.line][mark.column :] if mark and mark.line < len(lines) else ""
    if rest[:1] in {"*", "&"}:
        return rest.split()[0].rstrip(",]}:")
    return rest[:1] or "the end"


def _line_of_control_character(text: str) -> int:
    for number, line in enumerate(text.split("\n"), start=1):
        if any(not character.isprintable() and character not in "\t\r" for character in line):
            return number
    return 0
