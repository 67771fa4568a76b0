"""Files with rules for the access log of single routes, as `sidecars edge build` writes them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from accesslog.records.fields import FIELDS
from accesslog.records.redact_rules import Action, RedactRule, RedactRules
from accesslog.records.route_rules import RouteRule, RoutesRules
from common.background import background_work
from common.configfile import Block, Breathe, ConfigError, Problem, no_breaks, read, validate
from sidecars.settings.accesslog import RedactRuleSettings, Share


def _known(name: str) -> str:
    if name not in FIELDS:
        raise ValueError(f"{name!r} is not a field of the access log; docs/accesslog.md lists them")
    return name


class OneRouteRules(Block):
    """What the access log has of the requests along one route."""

    sample: Share | None = None
    """How much is kept of ordinary requests. Default: as `sample` of the settings says."""
    fields: tuple[Annotated[str, AfterValidator(_known)], ...] | None = None
    """The fields that a record has, in addition to those that identify it. Default: all."""
    redact: tuple[RedactRuleSettings, ...] = ()
    """What is dropped, masked or hashed, after the redaction of all records."""

    @model_validator(mode="after")
    def _breathe(self, info: ValidationInfo) -> Self:
        if info.context is not None:
            # One call of pydantic checks all the routes of a file.
            info.context["breathe"]()
        return self


class RouteRulesFile(Block):
    """A file with rules for single routes."""

    revision: str = Field("", max_length=128)
    """The release that the file belongs to."""
    redact: tuple[RedactRuleSettings, ...] = ()
    """What is dropped, masked or hashed in all records, after the rules of the settings."""
    routes: dict[str, OneRouteRules] = Field(default_factory=dict)
    """The rules of each route, by `route_name`."""


@dataclass(frozen=True, slots=True)
class LoadedRouteRules:
    """The rules of all files together."""

    revision: str = ""
    redact: tuple[RedactRule, ...] = ()
    samples: dict[str, float] = field(default_factory=dict)
    routes: RoutesRules | None = None


def load_route_rules(
    paths: Sequence[Path], key: bytes, yield_gil: Breathe = no_breaks, *, masking: bool = False
) -> LoadedRouteRules:
    """Return the rules in the files; `key` is that of hashes. Raises ConfigError with every problem.

    With `masking`, each rule masks what it names: to find what is still to be redacted.
    """
    if not paths:
        return LoadedRouteRules()
    with background_work():
        return _load(paths, key, yield_gil, masking=masking)


def _load(paths: Sequence[Path], key: bytes, yield_gil: Breathe, *, masking: bool) -> LoadedRouteRules:
    problems: list[Problem] = []
    files: list[RouteRulesFile] = []
    rules: dict[str, RouteRule] = {}
    compiled = cache(lambda wanted: RedactRules(wanted, key))
    for path in paths:
        try:
            document = read(path, yield_gil, problems)
            content = validate(document, RouteRulesFile, {"breathe": yield_gil})
        except ConfigError as error:
            problems += error.problems
            continue
        files.append(content)
        for name, one in content.routes.items():
            yield_gil()
            wanted = _rules(one.redact, masking=masking)
            fields = None if one.fields is None else frozenset(one.fields)
            try:
                redact = compiled(wanted) if wanted else None
            except ValueError as error:
                problems.append(document.problem(("routes", name, "redact"), str(error)))
                continue
            if redact is not None or fields is not None:
                rules[name] = RouteRule(redact, fields)
        document.let_go(yield_gil)
    if problems:
        raise ConfigError(problems)
    loaded = LoadedRouteRules(
        revision=" ".join(dict.fromkeys(one.revision for one in files if one.revision)),
        redact=tuple(rule for one in files for rule in _rules(one.redact, masking=masking)),
        samples={
            name: one.sample
            for content in files
            for name, one in content.routes.items()
            if one.sample is not None
        },
        routes=RoutesRules(rules) if rules else None,
    )
    for content in files:
        while content.routes:
            content.routes.popitem()  # one by one: freed together they would hold up a loop
            yield_gil()
    return loaded


def _rules(settings: Sequence[RedactRuleSettings], *, masking: bool) -> tuple[RedactRule, ...]:
    rules = tuple(one.rule for one in settings)
    return tuple(replace(rule, action=Action.MASK) for rule in rules) if masking else rules
