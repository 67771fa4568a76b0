"""The effective intent: what holds for each route of each service, and which line of which file decided it.

The files say less than this (`edge.intent.service_file`, `edge.intent.platform_file`): here defaults are
filled in, overrides applied and shares computed, so that a reader needs no rule of precedence.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

import orjson

from accesslog.records.redact_rules import RedactRule
from authz.policy.conditions.caller_conditions import Whos
from authz.policy.model import RuleConfig
from authz.policy.types.pattern import HostPattern, Template
from common.configfile import Document, KeyPart, Problem
from edge.intent.blocks import AccessConfig, Per
from edge.intent.claims import Claim
from edge.intent.envoy_block import EnvoyConfig
from edge.intent.platform_file import CeilingsConfig, ExceptionsConfig, ReservedConfig
from edge.intent.service_file import ExceptionConfig, UpstreamConfig
from edge.intent.upstreams import UpstreamPattern
from edge.intent.words import period_seconds

Value = TypeVar("Value")


def as_json(content: Any) -> bytes:
    """Return content of YAML as JSON, to compare it: in Python, 1 equals True."""
    return orjson.dumps(content, default=str, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


class Layer(StrEnum):
    """Who decided a value."""

    SERVICE = "service"
    """The file of the service."""
    TIER = "tier"
    """The tier that the service names."""
    DEFAULT = "default"
    """The platform, because the service says nothing."""
    OVERRIDE = "override"
    """The platform, regardless of what the service says."""
    SUITE = "suite"
    """Neither of them says anything: the default of the sidecars."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value is written. Files are named relative to the folder of the estate."""

    layer: Layer
    document: Document | None = field(default=None, repr=False)
    path: tuple[KeyPart, ...] = ()

    @property
    def place(self) -> str:
        """`FILE:LINE`; empty for a default of the sidecars."""
        return f"{self.document.file}:{self.document.line(self.path)}" if self.document else ""

    def below(self, *path: KeyPart) -> "Origin":
        """Return the origin of what is at `path` within this value."""
        return Origin(self.layer, self.document, (*self.path, *path))

    def problem(self, message: str, *below: KeyPart) -> Problem:
        """Return `message` as a problem at `below`, a key path within this value."""
        if self.document is None:
            return Problem("", 0, "", message)
        return self.document.problem((*self.path, *below), message)


UNSAID: Final = Origin(Layer.SUITE)


@dataclass(frozen=True, slots=True)
class Decided(Generic[Value]):
    """A value, and where it comes from, which does not count when two are compared."""

    value: Value
    origin: Origin = field(compare=False)


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call a route: an allow rule with its conditions, and callers who are denied all the same."""

    allow: Whos = field(compare=False)
    deny: Whos | None = field(compare=False)
    conditions: AccessConfig = field(compare=False)
    """The conditions that narrow `allow` (not `deny`); its own `allow` lacks the issuers of the team."""
    written: Mapping[str, Any] = field(compare=False)
    """All of it in the words of the rule language (`allow`, `deny`, `if`, `when` ...), for a policy file."""
    origin: Origin = field(compare=False)
    _compared: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_compared", as_json(self.written))

    @property
    def open(self) -> bool:
        """Whether callers need no credential, though other conditions may have to hold."""
        return "anyone" in self.allow


@dataclass(frozen=True, slots=True)
class Limit:
    """A number of requests in a period."""

    per: Per
    requests: int
    period: str
    """As in the limits of ratelimit: `30s`, or a calendar window such as `month`."""
    burst: int | None
    """None: `requests`."""
    shadow: bool
    """Whether it only counts, and refuses nothing."""
    origin: Origin = field(compare=False)
    share: float | None = None
    """The percentage of the tier's limit that it was written as; None: written as a number of requests."""

    @property
    def per_second(self) -> float:
        """Requests a second in the long run."""
        return self.requests / period_seconds(self.period)


@dataclass(frozen=True, slots=True)
class Logging:
    """What the access log has of a route."""

    sample: Decided[float]
    """The part of ordinary requests that is logged."""
    fields: Decided[tuple[str, ...] | None]
    """None: all fields."""
    redact: tuple[Decided[RedactRule], ...]
    """The rules in order: the first that names a value decides. Those of the platform come first."""


@dataclass(frozen=True, slots=True)
class Objectives:
    """How good a route is meant to be; None where no file says it."""

    availability: Decided[float | None]
    """The percentage of requests without a server error."""
    latency: Decided[str | None]
    """The time within which 99 % of requests are answered, as in `300ms`."""


@dataclass(frozen=True, slots=True)
class Route:
    """Some paths of a service, with all that holds for them."""

    id: str
    name: str
    """SERVICE.ID: unique in the estate."""
    methods: tuple[str, ...] | None
    """None: every method."""
    paths: tuple[Template, ...]
    access: Access
    limits: tuple[Limit, ...]
    """Those of the platform that override come last. All hold."""
    log: Logging
    objectives: Objectives
    timeout: Decided[str]
    """As written: `500ms` or `30s`."""
    origin: Origin = field(compare=False)


@dataclass(frozen=True, slots=True)
class Service:
    """One service of a team."""

    name: str
    owner: str
    hosts: tuple[HostPattern, ...]
    upstream: UpstreamConfig
    tier: str
    """Empty: none."""
    limit: Limit | None
    """The limit of the tier, on all requests of the service together."""
    routes: tuple[Route, ...]
    """As written. `most_specific` (edge.intent.find) says which of them decides on a request."""
    exceptions: tuple[ExceptionConfig, ...]
    description: str
    origin: Origin = field(compare=False)
    dropped: int = 0
    """Routes with mistakes, which are left out; always 0 in an estate without problems."""

    @property
    def whole(self) -> Origin:
        """Its file as a whole: key paths of problems begin there."""
        return replace(self.origin, path=())

    @property
    def file(self) -> str:
        """Its file, relative to the folder of the estate."""
        return self.origin.document.file if self.origin.document else ""


@dataclass(frozen=True, slots=True)
class Team:
    """A team, and what it may use."""

    name: str
    owns: tuple[Claim, ...]
    issuers: tuple[str, ...] | None
    """None: every issuer of the platform."""
    upstreams: tuple[UpstreamPattern, ...] | None
    """None: all that are not reserved."""
    origin: Origin = field(compare=False)


@dataclass(frozen=True, slots=True)
class DenyRule:
    """A deny rule of the platform, which holds for every service."""

    config: RuleConfig = field(compare=False)
    written: Mapping[str, Any] = field(compare=False)
    """The rule as its file has it."""
    origin: Origin = field(compare=False)
    _compared: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_compared", as_json(self.written))


@dataclass(frozen=True, slots=True)
class Estate:
    """All that the platform and the teams want, complete."""

    domain: str
    """The domain of the rate limits."""
    policy: Mapping[str, Any]
    """`policy:` of the platform as written: keys of an authz policy file, such as credentials."""
    envoy: EnvoyConfig
    """Where the Envoys listen, and where they reach the sidecars."""
    rules: tuple[DenyRule, ...]
    teams: Mapping[str, Team]
    services: tuple[Service, ...]
    """By name."""
    ceilings: CeilingsConfig
    reserved: ReservedConfig
    exception_rules: ExceptionsConfig
    revision: str
    """Changes with the content of the files."""
