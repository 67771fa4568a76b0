"""Limits from YAML, as envoyproxy/ratelimit reads them (src/config/config_impl.go), and a little more.

Keys that envoyproxy/ratelimit lacks, next to `key`:
- `normalise`: host or path, for values that a client can spell in many ways

and below `rate_limit`:
- `algorithm`: token_bucket or fixed_window (there: always fixed_window)
- `burst`: the capacity of a token bucket, where it is not `requests_per_unit`
- `unit_multiplier`: the window is so many units long (envoyproxy/ratelimit#190)
- `charge_rejected`: whether hits that do not pass are charged all the same
- `on_failure`: open, closed or local, while the store is away

Stricter than there: a key is known only where it has a meaning (`shadow_mode` below `rate_limit` is read
by nothing there); every problem is reported at once, each with file and line; nothing is loaded then.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

from common.buckets import MAX_TOKENS, MAX_WINDOW_US, SECOND_US
from common.configfile import ConfigError, Document, KeyPart, Problem, read
from common.os_errors import in_words
from ratelimit.keys import DESCRIPTOR_KEYS, LIMIT_KEYS, ROOT_KEYS, hint_for
from ratelimit.metadata import MetadataError, as_metadata
from ratelimit.normalise import NORMALISERS
from ratelimit.rules import (
    BLANKS,
    UNIT_SECONDS,
    Algorithm,
    Limits,
    Node,
    OnFailure,
    Options,
    Rule,
    Unit,
    Wildcard,
    build_bucket,
)

SUFFIXES: Final = (".yaml", ".yml")

_NEEDS_WILDCARD = "share_threshold can only be used with wildcard values (containing '*'), but found key"

_Path = tuple[KeyPart, ...]
_Choice = TypeVar("_Choice", Algorithm, OnFailure)


def load_limits(paths: Sequence[Path], options: Options) -> Limits:
    """The limits in files and folders. Raises ConfigError with every problem of every file.

    Of a folder: its *.yaml and *.yml, sorted by name, without hidden files and subfolders.
    """
    documents: list[Document] = []
    problems: list[Problem] = []
    digest = sha256()
    for path in paths:
        try:
            for file in limit_files(path):
                document = read(file)
                documents.append(document)
                digest.update(f"{file.name}\0{document.data!r}\0".encode())
        except ConfigError as error:
            problems += error.problems
        except OSError as error:
            problems.append(Problem(str(path), 0, "", f"cannot be read: {in_words(error)}"))
    try:
        limits = compile_limits(documents, options, digest.hexdigest()[:12])
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return limits


def limit_files(path: Path) -> list[Path]:
    """The file at `path`, or the limit files of the folder at `path`.

    Raises OSError, and ConfigError for a folder without any.
    """
    if not path.is_dir():
        return [path]
    # A mounted ConfigMap holds its real files in hidden folders (..data) and links to them.
    files = sorted(
        file
        for file in path.iterdir()
        if file.suffix in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
    if not files:
        raise ConfigError.of(path, "the folder holds no limit file: *.yaml or *.yml")
    return files


def compile_limits(documents: Sequence[Document], options: Options, revision: str = "") -> Limits:
    """The limits in `documents`. Raises ConfigError with every problem found."""
    compiler = _Compiler(options)
    for document in documents:
        compiler.add(document)
    if compiler.problems:
        raise ConfigError(compiler.problems)
    domains = {name: draft.freeze() for name, draft in compiler.domains.items()}
    return Limits(domains, tuple(compiler.rules), revision, options)


@dataclass(slots=True)
class _Draft:
    """A node that still grows: several files may add to one domain."""

    composite: str
    source: str
    children: dict[str, "_Draft"] = field(default_factory=dict)
    rule: Rule | None = None
    shared_value: str = ""
    value_to_metric: bool = False
    normalise: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By key of the children: host, path or empty, and where that was said first."""

    def freeze(self) -> Node:
        children = {composite: draft.freeze() for composite, draft in self.children.items()}
        wildcards = tuple(
            Wildcard(tuple(composite.split("*")), node)
            for composite, node in children.items()
            if "*" in composite
        )
        normalise = {key: NORMALISERS[kind] for key, (kind, _) in self.normalise.items() if kind}
        return Node(
            children,
            wildcards,
            self.rule,
            self.shared_value,
            self.value_to_metric,
            normalise,
            self.composite,
        )


class _Compiler:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.domains: dict[str, _Draft] = {}
        self.rules: list[Rule] = []
        self.problems: list[Problem] = []

    def add(self, document: Document) -> None:
        root = _Map(document, (), document.data, self.problems)
        if not root.check(ROOT_KEYS):
            return
        domain = root.text("domain")
        if not domain:
            root.problem("config file cannot have empty domain", "domain")
            return
        source = f"{document.file}:{document.line(('domain',))}"
        known = self.domains.get(domain)
        if known is not None and not self.options.merge_domains:
            root.problem(f"duplicate domain '{domain}' in config file, first in {known.source}", "domain")
        draft = known or self.domains.setdefault(domain, _Draft(domain, source))
        # A duplicate domain is read on into a draft of its own: its other errors are reported, too.
        target = draft if known is None or self.options.merge_domains else _Draft(domain, source)
        self._add_descriptors(root, target, (domain,), has_values=False)

    def _add_descriptors(
        self, parent: "_Map", into: _Draft, path: tuple[str, ...], *, has_values: bool
    ) -> None:
        for descriptor in parent.maps("descriptors"):
            if not descriptor.check(DESCRIPTOR_KEYS):
                continue
            key, written = descriptor.text("key"), descriptor.text("value")
            value = written.strip(BLANKS)
            if not key:
                descriptor.problem("descriptor has empty key", "key")
                continue
            self._normalise(descriptor, into, key, value)
            # A value of blanks alone is the empty value, not any value.
            composite = f"{key}_{value}" if written else key
            child_path = (*path, composite)
            source = f"{descriptor.document.file}:{descriptor.line}"
            draft = _Draft(composite, source)
            draft.value_to_metric = descriptor.flag("value_to_metric")
            if descriptor.flag("share_threshold"):
                draft.shared_value = value or composite
                if "*" not in composite:
                    descriptor.problem(f"{_NEEDS_WILDCARD} '{composite}'", "share_threshold")
            first = into.children.setdefault(composite, draft)
            if first is not draft:
                name = ".".join(child_path)
                descriptor.problem(f"duplicate descriptor composite key '{name}', first in {first.source}")
            below = has_values or draft.value_to_metric
            draft.rule = self._rule(descriptor, child_path, source, has_values=below)
            self._add_descriptors(descriptor, draft, child_path, has_values=below)

    @staticmethod
    def _normalise(descriptor: "_Map", into: _Draft, key: str, value: str) -> None:
        """What is said once for each key of a level: a value is normalised before its rule is looked for."""
        kind = descriptor.text("normalise")
        if kind and kind not in NORMALISERS:
            expected = " or ".join(NORMALISERS)
            descriptor.problem(f"expected {expected}, found '{kind}'", "normalise")
            return
        first, where = into.normalise.setdefault(key, (kind, f"{descriptor.document.file}:{descriptor.line}"))
        if first != kind:
            said = f"normalise: {first}" if first else "no normalise"
            text = f"descriptors of one key are normalised alike: '{key}' has {said} in {where}"
            descriptor.problem(text, "normalise" if kind else "key")
        elif kind and value and (normal := NORMALISERS[kind](value)[0]) != value:
            descriptor.problem(
                f"'{value}' is not normalised and would match nothing; write '{normal}'", "value"
            )

    def _rule(
        self, descriptor: "_Map", path: tuple[str, ...], source: str, *, has_values: bool
    ) -> Rule | None:
        shadow_mode, quota_mode = descriptor.flag("shadow_mode"), descriptor.flag("quota_mode")
        detailed_metric, metadata = descriptor.flag("detailed_metric"), descriptor.metadata()
        limit = descriptor.map("rate_limit")
        if limit is None or not limit.check(LIMIT_KEYS):
            return None
        found = len(self.problems)
        name = limit.text("name")
        replaces = frozenset(_replaces(limit, name))
        on_failure = limit.choice("on_failure", OnFailure, self.options.on_failure)
        counting = self._unlimited(limit) if limit.flag("unlimited") else self._counting(limit)
        if len(self.problems) > found:
            return None
        rule = Rule(
            path,
            **counting,
            name=name,
            replaces=replaces,
            shadow_mode=shadow_mode,
            quota_mode=quota_mode,
            detailed_metric=detailed_metric,
            metric_has_values=has_values or detailed_metric,
            metadata=metadata,
            on_failure=on_failure,
            source=source,
        )
        self.rules.append(rule)
        return rule

    @staticmethod
    def _unlimited(limit: "_Map") -> dict[str, Any]:
        if limit.text("unit").upper() in Unit.__members__:
            limit.problem("should not specify rate limit unit when unlimited", "unit")
        limit.number("requests_per_unit", 0, 0)
        for key in ("unit_multiplier", "algorithm", "burst", "charge_rejected"):
            if key in limit.data:
                limit.problem(f"should not specify {key} when unlimited", key)
        return {"bucket": None, "fallback": None}

    def _counting(self, limit: "_Map") -> dict[str, Any]:
        unit_text = limit.text("unit")
        unit = Unit.__members__.get(unit_text.upper())
        if unit is None:
            expected = ", ".join(name.lower() for name in Unit.__members__)
            limit.problem(f"invalid rate limit unit '{unit_text}'; expected one of {expected}", "unit")
            unit = Unit.SECOND
        requests = limit.number("requests_per_unit", 0, 0)
        unit_seconds = UNIT_SECONDS[unit]
        most = MAX_WINDOW_US // (unit_seconds * SECOND_US)
        multiplier = limit.number("unit_multiplier", 1, 1, most)
        algorithm = limit.choice("algorithm", Algorithm, self.options.algorithm)
        charge = limit.flag("charge_rejected") if "charge_rejected" in limit.data else None
        burst = limit.number("burst", 1, 1) if limit.data.get("burst") is not None else None
        if burst is not None and (algorithm is not Algorithm.TOKEN_BUCKET or requests == 0):
            limit.problem("burst needs algorithm: token_bucket and requests_per_unit of at least 1", "burst")
        window = unit_seconds * multiplier
        replicas = self.options.replicas
        return {
            "bucket": build_bucket(requests, window, algorithm, burst=burst, charge_rejected=charge),
            "fallback": build_bucket(
                requests, window, algorithm, burst=burst, charge_rejected=charge, replicas=replicas
            ),
            "requests_per_unit": requests,
            "unit": unit,
            "unit_multiplier": multiplier,
        }


def _replaces(limit: "_Map", name: str) -> Iterator[str]:
    for entry in limit.maps("replaces"):
        if not entry.check(("name",)):
            continue
        replaced = entry.text("name")
        if not replaced:
            entry.problem("should not have an empty replaces entry")
        elif replaced == name:
            entry.problem("replaces should not contain name of same descriptor", "name")
        yield replaced


class _Map:
    """A YAML mapping at its place in the file. A missing value reads as empty, as Go reads it."""

    def __init__(self, document: Document, path: _Path, data: Any, problems: list[Problem]) -> None:
        self.document = document
        self.path = path
        self.data: Mapping[Any, Any] = data if isinstance(data, dict) else {}
        self._is_map = isinstance(data, dict) or data is None
        self._problems = problems

    @property
    def line(self) -> int:
        return self.document.line(self.path)

    def problem(self, message: str, *below: KeyPart) -> None:
        self._problems.append(self.document.problem((*self.path, *below), message))

    def check(self, known: Sequence[str]) -> bool:
        """Whether it is a map at all; reports every key that is not one of `known`."""
        if not self._is_map:
            self.problem("error loading config file: expected a map")
        for key in self.data:
            if not isinstance(key, str):
                written = str(key)
                self.problem(f"config error, key is not of type string: {written}", written)
            elif key not in known:
                self.problem(f"config error, unknown key '{key}'{hint_for(key, known)}", key)
        return self._is_map

    def text(self, key: str) -> str:
        """Text as it is written; Go reads 010, true and 2024-01-01 as the text they are."""
        value = self.data.get(key)
        if value is None:
            return ""
        if isinstance(value, str):
            return value
        if isinstance(value, float | list | dict):
            self.problem(f"error checking config: expected text, found {_kind(value)}", key)
            return ""
        return self.document.text((*self.path, key)) or ""

    def flag(self, key: str) -> bool:
        value = self.data.get(key)
        if value is not None and not isinstance(value, bool):
            self.problem(f"error loading config file: expected true or false, found {_kind(value)}", key)
        return value is True

    def number(self, key: str, default: int, least: int, most: int = MAX_TOKENS) -> int:
        value = self.data.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            wrong = "error checking config" if isinstance(value, float) else "error loading config file"
            self.problem(f"{wrong}: expected a whole number, found {_kind(value)}", key)
            return default
        if not least <= value <= most:
            self.problem(f"error loading config file: expected {least} to {most}, found {value}", key)
            return default
        return value

    def choice(self, key: str, kind: type[_Choice], default: _Choice) -> _Choice:
        value = self.data.get(key)
        if value is None:
            return default
        for choice in kind:
            if choice.value == value:
                return choice
        expected = " or ".join(choice.value for choice in kind)
        self.problem(f"error loading config file: expected {expected}, found {value!r}", key)
        return default

    def map(self, key: str) -> "_Map | None":
        value = self.data.get(key)
        return None if value is None else _Map(self.document, (*self.path, key), value, self._problems)

    def maps(self, key: str) -> Iterator["_Map"]:
        values = self.data.get(key)
        if values is None:
            return
        if not isinstance(values, list):
            self.problem(f"error loading config file: expected a list, found {_kind(values)}", key)
            return
        for index, value in enumerate(values):
            if isinstance(value, dict):
                yield _Map(self.document, (*self.path, key, index), value, self._problems)
            else:
                text = f"config error, yaml file contains list of type other than map: {value}"
                self.problem(text, key, index)

    def metadata(self) -> Mapping[str, Any] | None:
        value = self.data.get("metadata")
        if value is None:
            return None
        try:
            return as_metadata(value)
        except MetadataError as error:
            self.problem(f"error loading config file: {error}", "metadata")
            return None


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    return "a map" if isinstance(value, dict) else repr(value)
