"""Regular expressions (RE2) of a policy. They take linear time, so no client can stall them."""

from collections.abc import Mapping
from typing import Any, Final

import re2

_OPTIONS: Final = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.max_mem = 1 << 20
"""1 MiB per pattern: a larger one, such as `(a{1000}){1000}`, is refused when the policy is loaded."""

_WORDS: Final[Mapping[str, str]] = {
    "missing )": "a ( is not closed",
    "unexpected )": "a ) closes nothing",
    "missing ]": "a [ is not closed",
    "no argument for repetition operator": "{0} repeats nothing; write [{0}] for the character itself",
    "bad repetition operator": "{} repeats a repetition",
    "invalid repetition size": "{} is more than 1,000 times in all, or has the larger number first",
    "invalid escape sequence": r"{} is unknown; \\ is a backslash, \z the end and \x{{41}} a character",
    "invalid perl operator": "{} is unknown: RE2 has (?i), (?s) and (?:...), but not lookahead or lookbehind",
    "invalid named capture group": "{} does not begin a group; groups do not need names here",
    "invalid character class range": "{} is not a range of characters, as in [a-z] or [[:alpha:]]",
    "invalid character class": "{} is not a class of characters, as in [a-z] or [[:alpha:]]",
    "trailing \\": r"it ends with a single backslash; \\ is the character",
    "pattern too large": "it is too large when its repetitions are written out",
}
"""Our message by RE2's message, which names the faulty part after a colon."""


def compile_pattern(pattern: str) -> Any:
    """Compile an RE2 pattern. Raises ValueError with a message that says what is wrong."""
    try:
        return re2.compile(pattern, _OPTIONS)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"{pattern!r} is not a regular expression (RE2): {_in_our_words(reason)}") from None
    except UnicodeEncodeError:
        raise ValueError(
            f"{pattern!r} is not a regular expression (RE2): half a surrogate matches nothing"
        ) from None


def _in_our_words(found: str) -> str:
    kind, _, what = found.partition(": ")
    for prefix, words in _WORDS.items():
        if kind.startswith(prefix):
            return words.format(what)
    return "it cannot be read"
