"""What a policy says, with all that its rules inherit, as plain data.

Two rules with the same contents mean the same, whatever is named, inherited or written out. Every key of the
models is here because it is a key of the models: a new one needs no line in this file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from authz.policy.inheritance import Shared, WrittenRule, effective_rules
from authz.policy.model import DEFAULT_IDENTITY_HEADERS, ConditionConfig, PolicyFile
from authz.policy.source import Source
from authz.policy.types.paths import PathsConfig

Content = Mapping[str, Any]
"""By the key of the language, as JSON has it."""

_SHARED: Final = frozenset({"include", "conditions", "defaults", "rules"})
"""The keys of a file that say nothing beyond the rules."""
_RESOLVED: Final = frozenset({"name", "inherit", "named"})
"""The keys of a rule that are a name, or stand for what others say."""
_CONDITIONS: Final = frozenset(ConditionConfig.model_fields)
_CALLERS: Final = frozenset({"allow", "deny"})
_UNSAID: Final[Content] = {
    "credentials": {},
    "identity_headers": {name: str(value) for name, value in DEFAULT_IDENTITY_HEADERS.items()},
    "metadata": {},
    "paths": PathsConfig().model_dump(),
    "strip_session_cookie": True,
}
"""What counts of the whole policy where no file says it; of other keys, nothing."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What the files of a policy say together."""

    whole: Content
    """What is said once, of the whole policy."""
    rules: Mapping[str, Content]
    """By name, in order."""


def contents_of(files: Sequence[Source]) -> Contents:
    """The contents of files that make a policy."""
    shared = Shared.of(files)
    return Contents(
        {key: _said(files, key) for key in PolicyFile.model_fields if key not in _SHARED},
        {entry.config.name: rule_content(entry, shared) for entry in effective_rules(files, shared)},
    )


def _said(files: Sequence[Source], key: str) -> Any:
    """What counts under a key that one file holds: what is written there, or what that means unwritten.

    From what was written, and without a folder: a file of the same name beside each of two policies is
    the same to whoever compares them.
    """
    written = next((source.keys[key] for source in files if key in source.keys), _UNSAID.get(key))
    if written is None:
        return None
    file = PolicyFile.model_validate({key: written})
    return file.model_dump(mode="json", by_alias=True, warnings=False, include={key})[key]


def rule_content(entry: WrittenRule, shared: Shared) -> Content:
    """What the rule says, its name aside."""
    rest = entry.config.model_dump(
        mode="json", by_alias=True, warnings=False, exclude={*_RESOLVED, *_CONDITIONS, *_CALLERS}
    )
    return {**rest, **asked_by(entry, shared)}


def asked_by(entry: WrittenRule, shared: Shared) -> Content:
    """What the rule asks of callers and requests, beside host, method and path."""
    conditions: dict[str, dict[bytes, Any]] = {}
    for _, block in shared.conditions_of(entry):
        for key, one in _parts(block):
            conditions.setdefault(key, {})[orjson.dumps(one, option=orjson.OPT_SORT_KEYS)] = one
    return {
        **entry.config.model_dump(mode="json", by_alias=True, warnings=False, include=set(_CALLERS)),
        # Conditions add up, so their order says nothing, and neither does saying one twice.
        **{key: [one for _, one in sorted(found.items())] for key, found in conditions.items()},
    }


def _parts(block: ConditionConfig) -> Iterator[tuple[str, Any]]:
    """Each condition of the block by itself, with the key it stands under."""
    dumped = block.model_dump(mode="json", by_alias=True, warnings=False, include=set(_CONDITIONS))
    if block.when is not None:
        # Word for word: what is shown of an expression has lost the blanks within its texts.
        dumped["when"] = block.when.program.source
    for key, value in dumped.items():
        if isinstance(getattr(block, key), dict):
            yield from ((key, [name, one]) for name, one in value.items())
        elif value is not None:
            yield key, value
