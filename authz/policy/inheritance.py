"""Resolves rules: adds the named conditions and the defaults that they refer to.

A rule inherits nothing that it does not refer to by name (envoyproxy/gateway#8781: a policy that silently
replaced its parent's). Inherited conditions can only narrow a rule, because all conditions must hold. Every
other key of the defaults applies if the rule does not have that key itself.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final

from authz.policy.model import (
    ONLY_FOR_ALLOW,
    ConditionConfig,
    DefaultsConfig,
    NamedConditionConfig,
    RuleConfig,
    SharedConfig,
)
from authz.policy.source import Source
from common.configfile import Document, KeyPart, Problem

_CONDITION_KEYS: Final = frozenset(ConditionConfig.model_fields) | {"named", "inherit"}
_OTHER_KEYS: Final = frozenset(SharedConfig.model_fields) - _CONDITION_KEYS


@dataclass(frozen=True, slots=True)
class WrittenRule:
    """A rule with the keys it inherits, and its place in a file."""

    config: RuleConfig
    document: Document
    position: int
    conditional: bool
    """Whether it has more conditions than host, method, path and caller."""
    amended: frozenset[KeyPart] = frozenset()
    """Keys with mistakes, whose value was replaced or removed."""

    def problem(self, message: str, *keys: str) -> Problem:
        """Return `message` as a problem of this rule, or of one of its keys."""
        return self.document.problem(("rules", self.position, *keys), message)

    @property
    def source(self) -> str:
        """Where it is written, as `file:line`."""
        return f"{self.document.file}:{self.document.line(('rules', self.position))}"


@dataclass(frozen=True, slots=True)
class SharedBlocks:
    """The named conditions and the defaults of every file."""

    conditions: dict[str, NamedConditionConfig]
    defaults: dict[str, DefaultsConfig]
    places: dict[tuple[str, str], tuple[Document, tuple[KeyPart, ...]]]
    """Where each is written, by kind and name, including those with mistakes."""
    hidden: frozenset[str] = frozenset()
    """The kinds whose names are not all known, because a file could not be read."""
    problems: list[Problem] = field(default_factory=list)
    used: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def of(cls, files: Sequence[Source], *, complete: bool = True) -> "SharedBlocks":
        """Collect the named conditions and defaults of the files. `problems` reports duplicate names.

        `complete` says whether these are all files of the policy.
        """
        kinds = ("conditions", "defaults")
        hidden = (kind for kind in kinds if not complete or any((kind,) in one.amended for one in files))
        shared = cls({}, {}, {}, frozenset(hidden))
        for source in files:
            for kind in kinds:
                blocks = getattr(source.file, kind)
                for name in dict.fromkeys((*blocks, *source.amended_names(kind))):
                    shared._add(kind, name, blocks.get(name), source.document)
        for name, block in shared.defaults.items():
            document, path = shared.places["defaults", name]
            shared.problems.extend(shared._unknown("conditions", block.named or (), document, (*path, "if")))
        return shared

    def _add(self, kind: str, name: str, block: ConditionConfig | None, document: Document) -> None:
        known = self.places.get((kind, name))
        path: tuple[KeyPart, ...] = (kind, name)
        if known is not None:
            where = f"{known[0].file}:{known[0].line(known[1])}"
            self.problems.append(document.problem(path, f"{name!r} is already defined in {where}"))
            return
        self.places[kind, name] = (document, path)
        if block is not None:
            getattr(self, kind)[name] = block

    def _unknown(
        self, kind: str, names: Sequence[str], document: Document, path: tuple[KeyPart, ...]
    ) -> Iterator[Problem]:
        for name in names:
            self.used.add((kind, name))
            if (kind, name) not in self.places and kind not in self.hidden:
                known = [other for its_kind, other in self.places if its_kind == kind]
                close = get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                yield document.problem(path, f"{name!r} does not exist under {kind}{hint}")

    def effective(
        self, config: RuleConfig, document: Document, position: int, amended: frozenset[KeyPart]
    ) -> WrittenRule:
        """Return the rule with the keys it inherits, and add names that do not exist to `problems`."""
        keys = config.model_fields_set
        if keys.isdisjoint(_CONDITION_KEYS):
            return WrittenRule(config, document, position, conditional=False, amended=amended)
        path: tuple[KeyPart, ...] = ("rules", position)
        self.problems.extend(self._unknown("conditions", config.named or (), document, (*path, "if")))
        if config.inherit is not None:
            self.problems.extend(self._unknown("defaults", (config.inherit,), document, (*path, "inherit")))
            defaults = self.defaults.get(config.inherit)
            if defaults is not None:
                inherited = (defaults.model_fields_set & _OTHER_KEYS) - keys
                inherited -= ONLY_FOR_ALLOW if config.deny is not None else frozenset()
                config = config.model_copy(update={key: getattr(defaults, key) for key in inherited})
        return WrittenRule(config, document, position, conditional=True, amended=amended)

    def conditions_of(self, entry: WrittenRule) -> Iterator[tuple[str, ConditionConfig]]:
        """Yield every block of conditions that the rule has, with its name, which is empty for its own.

        Blocks that do not exist or have mistakes are skipped; `problems` reports them.
        """
        defaults = self.defaults.get(entry.config.inherit) if entry.config.inherit is not None else None
        if defaults is not None:
            yield "", defaults
        names = (*((defaults.named or ()) if defaults else ()), *(entry.config.named or ()))
        for name in dict.fromkeys(names):
            if name in self.conditions:
                yield name, self.conditions[name]
        yield "", entry.config

    def unused(self) -> list[Problem]:
        """Return warnings about conditions and defaults that no rule uses."""
        return [
            document.problem(path, f"no rule uses {name!r}")
            for (kind, name), (document, path) in self.places.items()
            if (kind, name) not in self.used
        ]


def effective_rules(files: Iterable[Source], shared: SharedBlocks) -> list[WrittenRule]:
    """Return every rule of every file, in order."""
    return [
        shared.effective(config, source.document, position, amended)
        for source in files
        for position, config, amended in source.rules()
    ]
