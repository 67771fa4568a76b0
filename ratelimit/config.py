"""Limits from YAML, as envoyproxy/ratelimit reads them (src/config/config_impl.go), and a little more.

Keys that envoyproxy/ratelimit lacks, next to `domain`:
- `revision`: the name of the release, instead of a hash of the files

next to `key`:
- `normalise`: host, path or address, for values that a client can spell in many ways

and below `rate_limit`:
- `algorithm`: token_bucket, sliding_window or fixed_window (there: always fixed_window)
- `burst`: the capacity of a token bucket, where it is not `requests_per_unit`
- `unit_multiplier`: the window is so many units long (envoyproxy/ratelimit#190)
- `period`: the same in short, as in 30s or 5m, instead of unit and unit_multiplier; or a calendar window:
  month, quarter or year
- `cost`: what one hit takes of the limit
- `charge_rejected`: whether hits that do not pass are charged all the same
- `on_failure`: open, closed or local, while the store is away
- `concurrency`: the requests in flight, instead of a rate; `release_after`: when a slot that was not given
  back is free again
- `ban`: for how long a key is refused without counting after so many rejections
- `lease`: whether a sidecar takes a part of the limit in advance, to answer from memory
- `priority`: high, for requests that are shed last under overload

Stricter than there: a key is known only where it has a meaning (`shadow_mode` below `rate_limit` is read
by nothing there); every problem is reported at once, each with file and line; nothing is loaded then.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from common.background import background_work, freeze_gc
from common.configfile import Breathe, ConfigError, Document, Problem, no_breaks, read
from common.os_errors import in_words
from ratelimit.bans import read_ban
from ratelimit.concurrency import read_concurrency
from ratelimit.digest import ContentDigest
from ratelimit.files import limit_files
from ratelimit.keys import DESCRIPTOR_KEYS, LIMIT_KEYS, RATE_KEYS, ROOT_KEYS
from ratelimit.map_reader import MapReader
from ratelimit.normalise import Normalisers, normalisers
from ratelimit.period import Period, read_period, read_unit
from ratelimit.rules import (
    BLANKS,
    UNIT_SECONDS,
    Algorithm,
    CompiledLimits,
    LimitRule,
    Node,
    OnFailure,
    Options,
    Priority,
    Unit,
    Wildcard,
    build_bucket,
    goes_into_debt,
)
from ratelimit.stated_revision import StatedRevision

_KUBERNETES: Final = (
    "this is a Kubernetes object, not a limits file: mount the ConfigMap as a volume, or copy the text below "
    "its data into a file"
)
_NO_DESCRIPTORS: Final = "domain '{}' has no descriptors, so nothing is limited; a reload to this is refused"
_NO_CONSTANT_LENGTH: Final = (
    "a calendar {} has no constant length, which {} needs: leave algorithm out, or write a period of days"
)

_NEEDS_WILDCARD: Final = (
    "share_threshold can only be used with wildcard values (containing '*'), but found key"
)


LARGE_LIMITS_RULES: Final = 1_000
"""From this size on, garbage collection of limits would take tens of milliseconds."""


def load_limits(
    paths: Sequence[Path],
    options: Options,
    sent: Sequence[Document] = (),
    yield_gil: Breathe = no_breaks,
) -> CompiledLimits:
    """The limits in files and folders, and those `sent`. Raises ConfigError with every problem of every file.

    `options.folder_files` says which files of a folder are read; its other entries are in `warnings`.
    In a thread of a process with an event loop, pass `GilYielder().yield_gil`.
    """
    with background_work():
        limits = _load(paths, options, sent, yield_gil)
        if len(limits.rules) >= LARGE_LIMITS_RULES:
            freeze_gc()
        return limits


def _load(
    paths: Sequence[Path], options: Options, sent: Sequence[Document], yield_gil: Breathe
) -> CompiledLimits:
    documents: list[Document] = []
    problems: list[Problem] = []
    warnings: list[Problem] = []
    digest = ContentDigest(yield_gil)
    for path in paths:
        try:
            found = limit_files(path, options.folder_files)
        except ConfigError as error:
            problems += error.problems
            continue
        except OSError as error:
            problems.append(Problem(str(path), 0, "", f"cannot be read: {in_words(error)}"))
            continue
        if found.skipped is not None:
            warnings.append(found.skipped)
        for file in found.files:
            try:
                document = read(file, yield_gil, problems)
            except ConfigError as error:
                problems += error.problems
                continue
            documents.append(document)
            digest.add(file.name, document)
    for document in sent:
        digest.add(document.file, document)
    try:
        limits = compile_limits([*documents, *sent], options, digest.revision, yield_gil)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    for document in documents:
        document.let_go(yield_gil)
    return replace(limits, warnings=(*warnings, *limits.warnings))


def compile_limits(
    documents: Sequence[Document], options: Options, revision: str = "", yield_gil: Breathe = no_breaks
) -> CompiledLimits:
    """The limits in `documents`. Raises ConfigError with every problem found.

    `revision` is that of limits whose files state none.
    """
    compiler = _Compiler(options, yield_gil)
    for document in documents:
        compiler.add(document)
    if compiler.problems:
        raise ConfigError(compiler.problems)
    domains = {
        name: draft.freeze(compiler.normalisers, yield_gil) for name, draft in compiler.domains.items()
    }
    empty = {name: compiler.empty[name] for name, node in domains.items() if not node.children}
    revision = compiler.revision.value or revision
    return CompiledLimits(domains, tuple(compiler.rules), revision, options, tuple(empty.values()), empty)


def check_reload(before: CompiledLimits, after: CompiledLimits) -> None:
    """Raises ConfigError where `after` leaves a domain without descriptors that has some `before`, or is new.

    A file that is still being written may look so, and must not replace good limits.
    """
    known = {name for name, node in before.domains.items() if not node.children}
    emptied = [name for name, node in after.domains.items() if not node.children and name not in known]
    if emptied:
        raise ConfigError([after.without_descriptors[name] for name in emptied])


@dataclass(slots=True)
class _Draft:
    """A node that still grows: several files may add to one domain."""

    composite: str
    shown: str
    source: str
    children: dict[str, "_Draft"] = field(default_factory=dict)
    rule: LimitRule | None = None
    shared_value: str = ""
    value_to_metric: bool = False
    normalise: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By key of the children: host, path, address or empty, and where that was said first."""

    def freeze(self, normalisers: Normalisers, yield_gil: Breathe) -> Node:
        yield_gil()
        children = {
            composite: draft.freeze(normalisers, yield_gil) for composite, draft in self.children.items()
        }
        wildcards = tuple(
            Wildcard(tuple(composite.split("*")), node)
            for composite, node in children.items()
            if "*" in composite
        )
        normalise = {key: normalisers[kind] for key, (kind, _) in self.normalise.items() if kind}
        self.children.clear()  # level by level: freed together, all drafts would hold up a loop
        return Node(
            children,
            wildcards,
            self.rule,
            self.shared_value,
            self.value_to_metric,
            normalise,
            self.composite,
            self.shown,
        )


class _Compiler:
    def __init__(self, options: Options, yield_gil: Breathe) -> None:
        self.options = options
        self._yield_gil = yield_gil
        self.normalisers = normalisers(options.max_path_length, options.max_host_length, options.ipv6_prefix)
        self.domains: dict[str, _Draft] = {}
        self.rules: list[LimitRule] = []
        self.problems: list[Problem] = []
        self.empty: dict[str, Problem] = {}
        """By domain: the warning that it has no descriptors, if that is so in the end."""
        self.revision = StatedRevision()

    def add(self, document: Document) -> None:
        root = MapReader(document, (), document.data, self.problems)
        if root.is_kubernetes_object:
            root.problem(_KUBERNETES)
            return
        if not root.check(ROOT_KEYS):
            return
        domain = root.text("domain")
        if not domain:
            root.problem("config file cannot have empty domain", "domain")
            return
        self.revision.add(root)
        source = f"{document.file}:{document.line(('domain',))}"
        known = self.domains.get(domain)
        if known is not None and not self.options.merge_domains:
            root.problem(f"duplicate domain '{domain}' in config file, first in {known.source}", "domain")
        draft = known or self.domains.setdefault(domain, _Draft(domain, domain, source))
        self.empty.setdefault(domain, document.problem(("descriptors",), _NO_DESCRIPTORS.format(domain)))
        # A duplicate domain is read on into a draft of its own: its other errors are reported, too.
        target = draft if known is None or self.options.merge_domains else _Draft(domain, domain, source)
        self._add_descriptors(root, target, (domain,), has_values=False)

    def _add_descriptors(
        self, parent: MapReader, into: _Draft, path: tuple[str, ...], *, has_values: bool
    ) -> None:
        for descriptor in parent.maps("descriptors"):
            self._yield_gil()
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
            shown = f"{key}_{self.options.secrets.shown_pattern(key, value)}" if written else key
            child_path = (*path, shown)
            source = f"{descriptor.document.file}:{descriptor.line}"
            draft = _Draft(composite, shown, source)
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

    def _normalise(self, descriptor: MapReader, into: _Draft, key: str, value: str) -> None:
        """What is said once for each key of a level: a value is normalised before its rule is looked for."""
        kind = descriptor.text("normalise")
        if kind and kind not in self.normalisers:
            expected = " or ".join(self.normalisers)
            descriptor.problem(f"expected {expected}, found '{kind}'", "normalise")
            return
        first, where = into.normalise.setdefault(key, (kind, f"{descriptor.document.file}:{descriptor.line}"))
        if first != kind:
            said = f"normalise: {first}" if first else "no normalise"
            text = f"descriptors of one key are normalised alike: '{key}' has {said} in {where}"
            descriptor.problem(text, "normalise" if kind else "key")
        elif kind and value and (normal := self.normalisers[kind](value)[0]) != value:
            descriptor.problem(
                f"'{value}' is not normalised and would match nothing; write '{normal}'", "value"
            )

    def _rule(
        self, descriptor: MapReader, path: tuple[str, ...], source: str, *, has_values: bool
    ) -> LimitRule | None:
        shadow_mode, quota_mode = descriptor.flag("shadow_mode"), descriptor.flag("quota_mode")
        detailed_metric, metadata = descriptor.flag("detailed_metric"), descriptor.metadata()
        limit = descriptor.map("rate_limit")
        if limit is None or not limit.check(LIMIT_KEYS):
            return None
        found = len(self.problems)
        name = limit.text("name")
        replaces = frozenset(_replaces(limit, name))
        on_failure = limit.choice("on_failure", OnFailure, self.options.on_failure)
        if limit.flag("unlimited"):
            counting = self._unlimited(limit)
        elif "concurrency" in limit.data:
            counting = read_concurrency(descriptor, limit)
        else:
            counting = self._counting(limit)
        if len(self.problems) > found:
            return None
        rule = LimitRule(
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
            ban=read_ban(limit),
            priority=limit.choice("priority", Priority, Priority.NORMAL),
            source=source,
        )
        self.rules.append(rule)
        return rule

    @staticmethod
    def _unlimited(limit: MapReader) -> dict[str, Any]:
        if limit.text("unit").upper() in Unit.__members__:
            limit.problem("should not specify rate limit unit when unlimited", "unit")
        limit.number("requests_per_unit", 0, 0)
        for key in (*RATE_KEYS, "concurrency", "release_after", "ban"):
            if key in limit.data:
                limit.problem(f"should not specify {key} when unlimited", key)
        return {"bucket": None}

    def _counting(self, limit: MapReader) -> dict[str, Any]:
        if "release_after" in limit.data:
            limit.problem("release_after needs concurrency", "release_after")
        period = read_period(limit) if "period" in limit.data else read_unit(limit)
        unit, multiplier, calendar_months = period
        requests = limit.number("requests_per_unit", 0, 0)
        algorithm = self._algorithm(limit, period)
        charge = limit.flag("charge_rejected") if "charge_rejected" in limit.data else None
        burst = limit.number("burst", 1, 1) if limit.data.get("burst") is not None else None
        if burst is not None and (algorithm is not Algorithm.TOKEN_BUCKET or requests == 0):
            limit.problem("burst needs algorithm: token_bucket and requests_per_unit of at least 1", "burst")
        lease = limit.flag("lease") if "lease" in limit.data else self.options.lease
        window = UNIT_SECONDS[unit] * multiplier
        bucket = build_bucket(
            requests,
            window,
            algorithm,
            burst=burst,
            charge_rejected=charge,
            calendar_months=calendar_months,
        )
        if lease and goes_into_debt(bucket) and "lease" in limit.data:
            limit.problem(f"lease excludes charge_rejected: true of a {algorithm.value}", "lease")
        return {
            "bucket": bucket,
            "lease": lease and not goes_into_debt(bucket),
            "charging": None if charge is False else replace(bucket, charge_rejected=True),
            "requests_per_unit": requests,
            "unit": unit,
            "unit_multiplier": multiplier,
            "cost": limit.number("cost", 1, 1),
        }

    def _algorithm(self, limit: MapReader, period: Period) -> Algorithm:
        default = Algorithm.FIXED_WINDOW if period.calendar_months else self.options.algorithm
        algorithm = limit.choice("algorithm", Algorithm, default)
        if period.calendar_months and algorithm is not Algorithm.FIXED_WINDOW:
            text = _NO_CONSTANT_LENGTH.format(limit.text("period"), algorithm.value)
            limit.problem(text, "algorithm")
        return algorithm


def _replaces(limit: MapReader, name: str) -> Iterator[str]:
    for entry in limit.maps("replaces"):
        if not entry.check(("name",)):
            continue
        replaced = entry.text("name")
        if not replaced:
            entry.problem("should not have an empty replaces entry")
        elif replaced == name:
            entry.problem("replaces should not contain name of same descriptor", "name")
        yield replaced
