"""A policy file as it was read; of one with mistakes, the part that can be held against the others.

Pydantic says all that is wrong in a file, or gives the model: never both. What it finds is left out here,
rule by rule and key by key, so that what is right still counts: that a name stands twice, or that there is
no condition of a name, is said in the same run as every other mistake.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from authz.policy.model import ONLY_FOR_ALLOW, PolicyFile, RuleConfig
from common.configfile import Document, KeyPart, Problem, problems_of

KeyPath = tuple[KeyPart, ...]

_NONE: Final = frozenset[KeyPart]()
_ROUNDS: Final = 3
"""A rule is asked as a whole only once each of its keys is right; then everything has been said."""
_STANDS_FOR_ANY: Final = "anyone"
"""In place of an `allow` or `deny` with mistakes: the rule has one all the same."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a policy."""

    document: Document
    file: PolicyFile
    amended: frozenset[KeyPath] = frozenset()
    """What of the file had mistakes, and was left out or replaced: `("rules", 3, "paths")`; `()`: all."""

    @property
    def keys(self) -> Mapping[Any, Any]:
        """The content as it is written, by key."""
        return self.document.data if isinstance(self.document.data, dict) else {}

    def amended_names(self, kind: str) -> Iterator[str]:
        """The conditions or defaults with mistakes: they are there, and it is known where."""
        for path in self.amended:
            if len(path) > 1 and path[0] == kind and isinstance(path[1], str):
                yield path[1]

    def rules(self) -> Iterator[tuple[int, RuleConfig, frozenset[KeyPart]]]:
        """The position of each rule, the rule, and its keys that had mistakes."""
        amended: dict[KeyPart, set[KeyPart]] = {}
        for path in self.amended:
            if path[:1] == ("rules",) and len(path) > 1:
                amended.setdefault(path[1], set()).update(path[2:])
        for position, config in enumerate(self.file.rules):
            if ("rules", position) not in self.amended:
                yield position, config, frozenset(amended[position]) if position in amended else _NONE


def source_of(document: Document, context: Mapping[str, Any] | None = None) -> tuple[Source, list[Problem]]:
    """The file, or what of it is right, and every problem of the rest. `context`: for its models."""
    try:
        content = {} if document.data is None else document.data
        return Source(document, PolicyFile.model_validate(content, context=context)), []
    except ValidationError as error:
        return _sound_part(document, error, context)


def _sound_part(
    document: Document, error: ValidationError, context: Mapping[str, Any] | None
) -> tuple[Source, list[Problem]]:
    problems = problems_of(error, document, PolicyFile)
    if isinstance(document.data, dict):
        amending = _Amending(document.data)
        for _ in range(_ROUNDS):
            for finding in error.errors(include_url=False, include_input=False):
                amending.amend(finding["loc"])
            try:
                file = PolicyFile.model_validate(amending.content, context=context)
                return Source(document, file, frozenset(amending.amended)), problems
            except ValidationError as another:
                error = another
                # Of rules that nothing could be said of as a whole before; no more than that is new.
                new = (one for one in problems_of(error, document, PolicyFile) if one not in problems)
                problems += new
    return Source(document, PolicyFile(), frozenset({()})), problems


class _Amending:
    """The content of a file, from which mistakes are taken out. What was read stays as it is."""

    def __init__(self, content: Mapping[Any, Any]) -> None:
        self.content: dict[Any, Any] = {
            key: part.copy() if isinstance(part, list | dict) else part for key, part in content.items()
        }
        self.amended: set[KeyPath] = set()

    def amend(self, location: Sequence[KeyPart]) -> None:
        """Leave out what stands at `location`, or put something right in its place."""
        kind = location[0]
        if kind == "rules" and len(location) > 1 and isinstance(location[1], int):
            self._amend_rule(location[1], location[2:3])
        elif kind in {"conditions", "defaults"} and len(location) > 1:
            self._amend_block(str(kind), location[1], location[2:3])
        else:
            self.content.pop(kind, None)
            self.amended.add((kind,))

    def _amend_rule(self, position: int, keys: Sequence[KeyPart]) -> None:
        rules = self.content["rules"]
        name = f"rules[{position}]"
        if not isinstance(rules[position], dict):
            rules[position] = {"name": name, "allow": _STANDS_FOR_ANY}
            self.amended.add(("rules", position))
            return
        rule = rules[position] = rules[position].copy()
        if not keys:
            for unsound in ("deny", "answer", *ONLY_FOR_ALLOW):
                rule.pop(unsound, None)
            rule["allow"] = _STANDS_FOR_ANY
        for key in keys:
            self.amended.add(("rules", position, key))
            if key in {"allow", "deny"}:
                rule[key] = _STANDS_FOR_ANY
            elif key == "name":
                rule[key] = name
            else:
                rule.pop(key, None)

    def _amend_block(self, kind: str, name: KeyPart, keys: Sequence[KeyPart]) -> None:
        blocks = self.content[kind]
        block = blocks.get(name)
        self.amended.add((kind, name, *keys))
        if not keys or keys[0] == "[key]" or not isinstance(block, dict) or block.keys() <= set(keys):
            blocks.pop(name, None)
        else:
            blocks[name] = {key: value for key, value in block.items() if key not in keys}
