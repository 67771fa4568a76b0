"""Compiles the rules of policy files into a policy that can decide requests."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import or_
from pathlib import Path
from typing import Any, Final

import orjson

from authz.credentials import CredentialsConfig
from authz.policy.compile.conditions import conditions_of
from authz.policy.compile.contents import Content, compared_conditions
from authz.policy.conditions.caller_conditions import callers_of, scope_of
from authz.policy.conditions.condition import Condition, Subject
from authz.policy.expression.expression import Callers, Expression
from authz.policy.index import Index
from authz.policy.inheritance import SharedBlocks, WrittenRule, effective_rules
from authz.policy.lint.doubtful import doubts_of
from authz.policy.lint.impossible import Impossible
from authz.policy.lint.lint import Alike, lint
from authz.policy.lint.spelled_booleans import spelled_booleans
from authz.policy.lint.spellings import Expressions, escapes
from authz.policy.model import (
    DEFAULT_IDENTITY_HEADERS,
    ONCE,
    CorsConfig,
    DenialConfig,
    LoginConfig,
)
from authz.policy.rule import Cors, Mutations, Outcome, Rule, Verdict
from authz.policy.source import Source
from authz.policy.templates import ValueTemplate
from authz.policy.types.paths import EXACT, PathMatching
from authz.request.path import NO_ANOMALY
from common.configfile import Breathe, ConfigError, Problem, no_breaks

REVISION_CHARACTERS: Final = 12
"""48 bits of the hash: enough to distinguish the revisions of one policy, short enough to read aloud."""

_CANONICAL: Final = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
_RETRY_AFTER_SECONDS: Final = {503: 60}
"""Default Retry-After of deny rules by status: maintenance lasts minutes, our own outages only seconds."""
_DETAILS: Final = {
    429: "Too many requests. Try again later.",
    503: "This resource is out of service at the moment. Try again later.",
}
"""Texts for statuses whose default text is about credentials."""
_USUAL_DENIAL: Final = DenialConfig()


@dataclass(frozen=True, slots=True)
class Policy:
    """An immutable snapshot of every rule, ready to decide."""

    revision: str
    """The revision that the files state, else a hash of their content; comments and layout do not count."""
    index: Index
    rules: tuple[Rule, ...]
    credentials: CredentialsConfig
    removed_headers: frozenset[str]
    """Every identity header of any rule, with its underscore spellings, all removed from inbound requests."""
    warnings: tuple[Problem, ...] = ()
    files: tuple[Path, ...] = ()
    """Every file that was read, including those named by `include`; empty for a policy from text."""
    metadata: tuple[tuple[str, ValueTemplate], ...] = ()
    """Values of the caller that appear under `claims` in the dynamic metadata."""
    login: LoginConfig | None = None
    credential_cookies: tuple[str, ...] = ()
    """Cookies that may carry credentials."""
    cors: bool = False
    """Whether any rule answers CORS preflights."""
    matching: PathMatching = EXACT
    """How deny rules compare paths."""

    def parts(self) -> Iterator[object]:
        """Yield the objects that the policy owns, owners first (`common.background.release`)."""
        yield from self.index.parts()
        yield from self.rules


def compile_policy(
    files: Sequence[Source],
    yield_gil: Breathe = no_breaks,
    found: Sequence[Problem] = (),
    *,
    complete: bool = True,
) -> Policy:
    """Compile the files into one policy.

    `found` holds the problems of single files; `complete` says whether every file could be read.
    Raises ConfigError with these problems and with every contradiction between the files.
    """
    shared = SharedBlocks.of(files, complete=complete)
    written = effective_rules(files, shared)
    problems = [
        *found,
        *_repeated_blocks(files),
        *shared.problems,
        *_repeated_names(written),
        *_unbound_variables(written, shared, yield_gil),
    ]
    if problems:
        raise ConfigError(problems)
    compiler = _Compiler(files, shared)
    index = Index()
    rules = []
    for order, entry in enumerate(written):
        yield_gil()
        rule = compiler.rule(entry, order)
        rules.append(rule)
        paths = rule.matching.indexed(entry.config.paths)
        index.add(rule, entry.config.hosts, paths, entry.config.methods)
    pairs = [(entry.config, rule) for entry, rule in zip(written, rules, strict=True)]
    headers = {name for entry in written for name in entry.config.identity_headers}
    suspicious = [
        written[rule.order].problem(message)
        for rule, message in lint(
            pairs,
            _alike_in(written, shared),
            yield_gil,
            sets_identity=_value(files, "identity_headers") is not None,
        )
    ]
    suspicious += _impossible(files, written, shared, yield_gil)
    suspicious += _doubtful(written, shared, yield_gil)
    index.compile(yield_gil)
    suspicious += [
        written[rule.order].problem(
            message, *((key,) if key in written[rule.order].config.model_fields_set else ())
        )
        for rule, key, message in escapes(
            pairs, index, _value(files, "paths"), yield_gil, _expressions_in(written, shared)
        )
    ]
    return Policy(
        revision=_value(files, "revision")
        or _revision([source.document.data for source in files], yield_gil),
        index=index,
        rules=tuple(rules),
        credentials=compiler.credentials,
        removed_headers=frozenset(
            twin for name in headers | compiler.identity_headers.keys() for twin in spellings(name)
        ),
        warnings=(*suspicious, *shared.unused()),
        metadata=tuple((_value(files, "metadata") or {}).items()),
        login=_value(files, "login"),
        credential_cookies=_credential_cookies(compiler.credentials),
        cors=any(rule.verdict.mutations.cors is not None for rule in rules),
        matching=compiler.matching,
    )


def _expressions_in(written: Sequence[WrittenRule], shared: SharedBlocks) -> Expressions:
    def expressions(rule: Rule) -> Iterator[Expression]:
        entry = written[rule.order]
        for _, block in shared.conditions_of(entry) if entry.conditional else ():
            if block.when is not None:
                yield block.when

    return expressions


def _alike_in(written: Sequence[WrittenRule], shared: SharedBlocks) -> Alike:
    def conditions(rule: Rule) -> Content:
        return compared_conditions(written[rule.order], shared)

    return lambda one, other: conditions(one) == conditions(other)


def spellings(header: str) -> set[str]:
    """Return every spelling of the header in which hyphens may be underscores.

    Upstreams that follow CGI (RFC 3875 section 4.1.18) cannot distinguish `x_auth-subject` from
    `x-auth-subject` (CVE-2025-64484).
    """
    first, *others = header.split("-")
    return {
        first + "".join(joint + part for joint, part in zip(joints, others, strict=True))
        for joints in product("-_", repeat=len(others))
    }


class _Compiler:
    """Compiles written rules, given the settings that the whole policy shares."""

    def __init__(self, files: Sequence[Source], shared: SharedBlocks) -> None:
        self._shared = shared
        self._callers = Callers()
        self._strip = _value(files, "strip_session_cookie") is not False
        self.credentials: CredentialsConfig = _value(files, "credentials") or CredentialsConfig()
        said = _value(files, "identity_headers")
        self.identity_headers: Mapping[str, ValueTemplate] = (
            DEFAULT_IDENTITY_HEADERS if said is None else said
        )
        self._identity_headers = tuple(self.identity_headers.items())
        self._session_cookies = _session_cookies(self.credentials)
        self.matching = PathMatching.of(_value(files, "paths"))

    def rule(self, entry: WrittenRule, order: int) -> Rule:
        config = entry.config
        conditions = self._conditions(entry) if entry.conditional else ()
        return Rule(
            name=config.name,
            order=order,
            source=entry.source,
            verdict=self._verdict(entry),
            callers=callers_of(config.allow or config.deny or ()),
            accepts=reduce(or_, config.accept_in_path, NO_ANOMALY),
            shadow=config.mode == "shadow",
            requests=tuple(one for one in conditions if one.subject is Subject.REQUEST),
            demands=tuple(one for one in conditions if one.subject is Subject.CALLER),
            templates=config.paths,
            hosts=config.hosts,
            methods=config.methods,
            matching=self.matching if config.deny is not None else EXACT,
            identifies=config.identify == "optional" and "anyone" in (config.allow or ()),
            owner=config.owner or "",
            ticket=config.ticket or "",
        )

    def _conditions(self, entry: WrittenRule) -> tuple[Condition, ...]:
        config = entry.config
        conditions: list[Condition] = []
        for name, condition in self._shared.conditions_of(entry):
            conditions += conditions_of(
                condition,
                name,
                config.paths,
                self._callers,
                denies=config.deny is not None,
                matching=self.matching if config.deny is not None else EXACT,
            )
        return tuple(conditions)

    def _verdict(self, entry: WrittenRule) -> Verdict:
        config = entry.config
        if config.deny is not None:
            denial = config.answer or _USUAL_DENIAL
            return Verdict(
                Outcome.DENY,
                "denied_by_rule",
                denial.status,
                config.name,
                detail=denial.detail or _DETAILS.get(denial.status, ""),
                retry_after_seconds=denial.retry_after_seconds or _RETRY_AFTER_SECONDS.get(denial.status, 0),
            )
        strip = self._strip if config.strip_session_cookie is None else config.strip_session_cookie
        headers = self._identity_headers
        if config.identity_headers:
            headers = tuple({**self.identity_headers, **config.identity_headers}.items())
        mutations = Mutations(
            headers,
            tuple(config.response_headers.items()),
            tuple(config.query_set.items()),
            config.query_remove or (),
            self._session_cookies if strip else frozenset(),
            _cors(config.cors) if config.cors else None,
        )
        scope = scope_of(config.allow or ())
        return Verdict(Outcome.ALLOW, "allowed", 200, config.name, scope, mutations)


def _cors(config: CorsConfig) -> Cors:
    return Cors(
        frozenset(config.origins),
        ", ".join(config.headers),
        ", ".join(config.expose or ()),
        config.credentials,
        config.max_age_seconds,
    )


def _session_cookies(credentials: CredentialsConfig) -> frozenset[str]:
    if credentials.sessions is None:
        return frozenset()
    return frozenset(place.cookie for place in credentials.sessions.locations if place.cookie)


def _credential_cookies(credentials: CredentialsConfig) -> tuple[str, ...]:
    places = (place for places in credentials.locations().values() for place in places)
    return tuple(dict.fromkeys(place.cookie for place in places if place.cookie))


def _value(files: Sequence[Source], key: str) -> Any:
    values = (getattr(source.file, key) for source in files)
    return next((value for value in values if value is not None), None)


def _repeated_names(written: Sequence[WrittenRule]) -> list[Problem]:
    problems = []
    first: dict[str, WrittenRule] = {}
    for entry in written:
        name = entry.config.name
        if "name" in entry.amended:
            continue
        if name in first:
            problems.append(
                entry.problem(f"rule {name!r} is already defined in {first[name].source}", "name")
            )
        first.setdefault(name, entry)
    return problems


def _unbound_variables(
    written: Sequence[WrittenRule], shared: SharedBlocks, yield_gil: Breathe
) -> Iterator[Problem]:
    """Yield problems for expressions that use `vars` which a path of the rule does not have."""
    for entry in written:
        if not entry.conditional or "paths" in entry.amended:
            continue
        yield_gil()
        for _, condition in shared.conditions_of(entry):
            names = condition.when.path_variables if condition.when else frozenset()
            for path in entry.config.paths if names else ():
                lacking = sorted(names.difference(path.variables))
                if lacking:
                    message = f"vars.{lacking[0]}: the path {path} has no variable of that name"
                    yield entry.problem(message, "when")


def _impossible(
    files: Sequence[Source], written: Sequence[WrittenRule], shared: SharedBlocks, yield_gil: Breathe
) -> Iterator[Problem]:
    """Yield warnings about rules with conditions that no request can meet."""
    impossible = Impossible(_value(files, "credentials"))
    for entry in written:
        yield_gil()
        blocks = [block for _, block in shared.conditions_of(entry)] if entry.conditional else []
        for key, message in impossible.in_rule(entry.config, blocks):
            yield entry.problem(message, *filter(None, (key,)))


def _doubtful(written: Sequence[WrittenRule], shared: SharedBlocks, yield_gil: Breathe) -> Iterator[Problem]:
    """Yield warnings about conditions that match less or more than they seem to."""
    for entry in written:
        yield_gil()
        blocks = [block for _, block in shared.conditions_of(entry)] if entry.conditional else []
        for key, message in doubts_of(entry.config, blocks):
            yield entry.problem(message, *filter(None, (key,)))
        yield from spelled_booleans(entry.document, ("rules", entry.position))
    for document, path in shared.places.values():
        yield from spelled_booleans(document, path)


def _repeated_blocks(files: Sequence[Source]) -> list[Problem]:
    problems = []
    for key in ONCE:
        holders = [source.document for source in files if key in source.keys]
        problems += [
            document.problem(
                (key,), f"is already defined in {holders[0].file}; only one file of a policy may define it"
            )
            for document in holders[1:]
        ]
    return problems


def _revision(contents: Sequence[Any], yield_gil: Breathe) -> str:
    """Return a hash of the content of the files, taken block by block so that the thread can yield."""
    digest = hashlib.sha256()
    for content in contents:
        blocks = content.items() if isinstance(content, dict) else ()
        for key, block in sorted(blocks, key=lambda item: str(item[0])):
            for part in block if isinstance(block, list) else (block,):
                yield_gil()
                digest.update(orjson.dumps([key, part], default=str, option=_CANONICAL))
        digest.update(b"\n")
    return digest.hexdigest()[:REVISION_CHARACTERS]
