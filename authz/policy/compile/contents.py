"""The content of a policy as plain data, with everything that its rules inherit.

Two rules with the same content mean the same, whether conditions are named, inherited or written out. The
content has every key of the models, so a new key needs no change in this file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from authz.policy.inheritance import SharedBlocks, WrittenRule, effective_rules
from authz.policy.model import DEFAULT_IDENTITY_HEADERS, ConditionConfig, PolicyFile
from authz.policy.source import Source
from authz.policy.types.paths import PathsConfig

Content = Mapping[str, Any]
"""JSON values by the keys of the policy language."""

_LEFT_OUT: Final = frozenset({"include", "conditions", "defaults", "rules", "revision"})
"""The keys of a file whose content shows up in the rules, and the revision, which changes no decision."""
_RESOLVED: Final = frozenset({"name", "inherit", "named"})
"""The keys of a rule that are a name or refer to a name."""
_CONDITIONS: Final = frozenset(ConditionConfig.model_fields)
_CALLERS: Final = frozenset({"allow", "deny"})
_UNSAID: Final[Content] = {
    "credentials": {},
    "identity_headers": {name: str(value) for name, value in DEFAULT_IDENTITY_HEADERS.items()},
    "metadata": {},
    "paths": PathsConfig().model_dump(),
    "strip_session_cookie": True,
}
"""The defaults of keys for the whole policy; all other keys default to None."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The content of all files of a policy together."""

    whole: Content
    """The settings of the whole policy."""
    rules: Mapping[str, Content]
    """The content of each rule by its name, in order."""


def contents_of(files: Sequence[Source]) -> Contents:
    """Return the content of the files of a policy."""
    shared = SharedBlocks.of(files)
    return Contents(
        {key: _value(files, key) for key in PolicyFile.model_fields if key not in _LEFT_OUT},
        {entry.config.name: rule_content(entry, shared) for entry in effective_rules(files, shared)},
    )


def _value(files: Sequence[Source], key: str) -> Any:
    """Return the value of a key that only one file may hold, or its default.

    It is validated without a folder, so that relative file names of two policies compare as equal.
    """
    written = next((source.keys[key] for source in files if key in source.keys), _UNSAID.get(key))
    if written is None:
        return None
    file = PolicyFile.model_validate({key: written})
    return file.model_dump(mode="json", by_alias=True, warnings=False, include={key})[key]


def rule_content(entry: WrittenRule, shared: SharedBlocks) -> Content:
    """Return the content of the rule without its name."""
    rest = entry.config.model_dump(
        mode="json", by_alias=True, warnings=False, exclude={*_RESOLVED, *_CONDITIONS, *_CALLERS}
    )
    return {**rest, **compared_conditions(entry, shared)}


def compared_conditions(entry: WrittenRule, shared: SharedBlocks) -> Content:
    """Return the rule's conditions on callers and requests, without host, method and path."""
    conditions: dict[str, dict[bytes, Any]] = {}
    for _, block in shared.conditions_of(entry):
        for key, one in _parts(block):
            conditions.setdefault(key, {})[orjson.dumps(one, option=orjson.OPT_SORT_KEYS)] = one
    return {
        **entry.config.model_dump(mode="json", by_alias=True, warnings=False, include=set(_CALLERS)),
        # All conditions must hold, so neither their order nor repetition matters.
        **{key: [one for _, one in sorted(found.items())] for key, found in conditions.items()},
    }


def _parts(block: ConditionConfig) -> Iterator[tuple[str, Any]]:
    """Yield each condition of the block with its key."""
    dumped = block.model_dump(mode="json", by_alias=True, warnings=False, include=set(_CONDITIONS))
    if block.when is not None:
        # The source text: the displayed form has lost the blanks within string literals.
        dumped["when"] = block.when.program.source
    for key, value in dumped.items():
        if isinstance(getattr(block, key), dict):
            yield from ((key, [name, one]) for name, one in value.items())
        elif value is not None:
            yield key, value
