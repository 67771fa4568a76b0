"""Validates a policy file; if it has mistakes, keeps its valid part so that other checks can run too.

Pydantic either returns a model or reports the mistakes of a file, never both. This module removes what it
reports, rule by rule and key by key, and validates the rest. So duplicate names and references to missing
conditions are reported in the same run as every other mistake.
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
"""Pydantic validates a rule as a whole only once each of its keys is valid, so problems come in rounds."""
_PLACEHOLDER: Final = "anyone"
"""Replaces an `allow` or `deny` with mistakes, so that the rule still has one."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a policy."""

    document: Document
    file: PolicyFile
    amended: frozenset[KeyPath] = frozenset()
    """Key paths whose value had mistakes and was removed or replaced: `("rules", 3, "paths")`; `()`: all."""

    @property
    def keys(self) -> Mapping[Any, Any]:
        """The content as written, by key."""
        return self.document.data if isinstance(self.document.data, dict) else {}

    def parts(self) -> Iterator[object]:
        """Yield the objects that the file owns (`common.background.release`)."""
        yield from self.file.rules

    def amended_names(self, kind: str) -> Iterator[str]:
        """Yield the names of conditions or defaults that have mistakes."""
        for path in self.amended:
            if len(path) > 1 and path[0] == kind and isinstance(path[1], str):
                yield path[1]

    def rules(self) -> Iterator[tuple[int, RuleConfig, frozenset[KeyPart]]]:
        """Yield the position of each rule, the rule, and its keys that had mistakes."""
        amended: dict[KeyPart, set[KeyPart]] = {}
        for path in self.amended:
            if path[:1] == ("rules",) and len(path) > 1:
                amended.setdefault(path[1], set()).update(path[2:])
        for position, config in enumerate(self.file.rules):
            if ("rules", position) not in self.amended:
                yield position, config, frozenset(amended[position]) if position in amended else _NONE


def source_of(document: Document, context: Mapping[str, Any] | None = None) -> tuple[Source, list[Problem]]:
    """Return the valid part of the file, and every problem of the rest. `context` is passed to the models."""
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
                # New problems are those of rules that could not be validated as a whole before.
                new = (one for one in problems_of(error, document, PolicyFile) if one not in problems)
                problems += new
    return Source(document, PolicyFile(), frozenset({()})), problems


class _Amending:
    """A copy of a file's content, from which mistakes are removed."""

    def __init__(self, content: Mapping[Any, Any]) -> None:
        self.content: dict[Any, Any] = {
            key: part.copy() if isinstance(part, list | dict) else part for key, part in content.items()
        }
        self.amended: set[KeyPath] = set()

    def amend(self, location: Sequence[KeyPart]) -> None:
        """Remove the value at `location`, or replace it by a valid one."""
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
            rules[position] = {"name": name, "allow": _PLACEHOLDER}
            self.amended.add(("rules", position))
            return
        rule = rules[position] = rules[position].copy()
        if not keys:
            for unsound in ("deny", "answer", *ONLY_FOR_ALLOW):
                rule.pop(unsound, None)
            rule["allow"] = _PLACEHOLDER
        for key in keys:
            self.amended.add(("rules", position, key))
            if key in {"allow", "deny"}:
                rule[key] = _PLACEHOLDER
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
