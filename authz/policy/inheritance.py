"""Rules as they count: with the named conditions and the defaults that they ask for.

Nothing is inherited that a rule does not ask for by name (envoyproxy/gateway#8781: a policy that
silently took the place of its parent's). What a rule inherits can only narrow it: conditions add up.
Every other key of the defaults counts where the rule does not have that key itself.
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
    """A rule with what it inherits, and where it is written."""

    config: RuleConfig
    document: Document
    position: int
    conditional: bool
    """Whether it asks for more than host, method, path and who."""
    amended: frozenset[KeyPart] = frozenset()
    """Keys with mistakes: what stands there is not what was written."""

    def problem(self, message: str, *keys: str) -> Problem:
        """`message` about this rule, or about one key of it."""
        return self.document.problem(("rules", self.position, *keys), message)

    @property
    def source(self) -> str:
        """Where it is written, as `file:line`."""
        return f"{self.document.file}:{self.document.line(('rules', self.position))}"


@dataclass(frozen=True, slots=True)
class Shared:
    """The named conditions and the defaults of every file."""

    conditions: dict[str, NamedConditionConfig]
    defaults: dict[str, DefaultsConfig]
    places: dict[tuple[str, str], tuple[Document, tuple[KeyPart, ...]]]
    """Where each is written, by kind and name: those with mistakes too."""
    hidden: frozenset[str] = frozenset()
    """The kinds of which not every name is known: a file that holds more of them could not be read."""
    problems: list[Problem] = field(default_factory=list)
    used: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def of(cls, files: Sequence[Source], *, complete: bool = True) -> "Shared":
        """What the files share. `problems` holds the names that stand twice.

        `complete`: whether these are all the files of the policy.
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
            self.problems.append(document.problem(path, f"{name!r} stands already in {where}"))
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
                yield document.problem(path, f"there is no {name!r} under {kind}{hint}")

    def effective(
        self, config: RuleConfig, document: Document, position: int, amended: frozenset[KeyPart]
    ) -> WrittenRule:
        """The rule with what it inherits. `problems` grows by the names that do not exist."""
        said = config.model_fields_set
        if said.isdisjoint(_CONDITION_KEYS):
            return WrittenRule(config, document, position, conditional=False, amended=amended)
        path: tuple[KeyPart, ...] = ("rules", position)
        self.problems.extend(self._unknown("conditions", config.named or (), document, (*path, "if")))
        if config.inherit is not None:
            self.problems.extend(self._unknown("defaults", (config.inherit,), document, (*path, "inherit")))
            defaults = self.defaults.get(config.inherit)
            if defaults is not None:
                inherited = (defaults.model_fields_set & _OTHER_KEYS) - said
                inherited -= ONLY_FOR_ALLOW if config.deny is not None else frozenset()
                config = config.model_copy(update={key: getattr(defaults, key) for key in inherited})
        return WrittenRule(config, document, position, conditional=True, amended=amended)

    def conditions_of(self, entry: WrittenRule) -> Iterator[tuple[str, ConditionConfig]]:
        """Every block of conditions that the rule has to meet, with its name; its own has none.

        Blocks that are not there, or have mistakes, are passed over: `problems` holds those.
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
        """Warnings about what no rule asks for."""
        return [
            document.problem(path, f"no rule uses {name!r}")
            for (kind, name), (document, path) in self.places.items()
            if (kind, name) not in self.used
        ]


def effective_rules(files: Iterable[Source], shared: Shared) -> list[WrittenRule]:
    """Every rule of every file, in order."""
    return [
        shared.effective(config, source.document, position, amended)
        for source in files
        for position, config, amended in source.rules()
    ]
