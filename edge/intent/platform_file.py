"""Pydantic models of a platform file: what holds for every team."""

from typing import Annotated

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from authz.credentials import CredentialsConfig
from authz.policy.model import IdentityHeader, LoginConfig, NamedConditionConfig, RuleConfig, Value
from authz.policy.types.names import AT_LEAST_ONE, Host, Name, PathTemplate, PolicyBlock, Text, Texts
from authz.policy.types.paths import PathsConfig
from common.configfile import Spelled
from edge.intent.blocks import (
    AccessConfig,
    LimitConfig,
    LogConfig,
    ObjectivesConfig,
    RateConfig,
    RedactConfig,
)
from edge.intent.claims import Claim, parse_claim
from edge.intent.envoy_block import EnvoyConfig
from edge.intent.upstreams import UpstreamPattern, parse_upstream_pattern
from edge.intent.words import Label, LogField, Share, Timeout

Owned = Annotated[
    Claim,
    PlainValidator(parse_claim),
    PlainSerializer(str),
    WithJsonSchema({
        "type": "string", "examples": ["*.checkout.example.com", "api.example.com/checkout/{rest=**}"],
    }),
]  # fmt: skip


Upstream = Annotated[
    UpstreamPattern,
    PlainValidator(parse_upstream_pattern),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["*.checkout.internal", "10.1.0.0/16"]}),
]


def _denies(rule: RuleConfig) -> RuleConfig:
    if rule.deny is None:
        raise ValueError("a rule of the platform denies: write deny; who is allowed is said by routes")
    return rule


DenyRule = Annotated[RuleConfig, AfterValidator(_denies)]


class PolicySettings(PolicyBlock):
    """The settings of the authz policy, in its own words (docs/reference/policy.md)."""

    credentials: CredentialsConfig | None = None
    """The kinds of credential that callers may present, and how each is verified."""
    identity_headers: dict[IdentityHeader, Value] | None = None
    """Request headers that tell the upstream who the caller is, by name. Clients cannot set them."""
    metadata: dict[Annotated[str, Spelled(r"[a-z0-9_]{1,64}", "tenant")], Value] | None = None
    """Values of the caller that the dynamic metadata has under `claims`."""
    login: LoginConfig | None = None
    """Where a browser without a credential is sent. Without it, it gets 401."""
    paths: PathsConfig | None = None
    """How deny rules compare paths."""
    strip_session_cookie: bool | None = None
    """Whether authz removes the session cookie before the upstream. Default: true."""
    conditions: dict[Name, NamedConditionConfig] = Field(default_factory=dict)
    """Named conditions, which routes use under `who.if`."""


class TeamConfig(PolicyBlock):
    """A team, and what it may use."""

    owns: Annotated[tuple[Owned, ...], AT_LEAST_ONE]
    """Hosts, each with every path or with one path template: `*.checkout.example.com`, or
    `api.example.com/checkout/{rest=**}`. What one team owns, no other team owns."""
    issuers: Texts | None = None
    """The only issuers whose tokens its routes accept. Default: every issuer of the platform."""
    upstreams: Annotated[tuple[Upstream, ...], AT_LEAST_ONE] | None = None
    """The only upstreams of its services: host names, `*.NAME` or networks. Default: all but the reserved."""
    contact: Text | None = None
    """Where to reach the team."""


class ReservedConfig(PolicyBlock):
    """What no service may claim."""

    hosts: Annotated[tuple[Host, ...], AT_LEAST_ONE] | None = None
    """Hosts, with all of their paths."""
    paths: Annotated[tuple[PathTemplate, ...], AT_LEAST_ONE] | None = None
    """Path templates, on every host."""
    upstreams: Annotated[tuple[Upstream, ...], AT_LEAST_ONE] | None = None
    """Upstreams: host names, `*.NAME` or networks, such as those with the admin ports of the edge itself."""


class CeilingsConfig(PolicyBlock):
    """The most that a service may ask for without an exception."""

    requests_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The highest rate of a limit. A route without a limit has no rate, so it exceeds the ceiling, too."""
    burst: Annotated[int, Field(ge=1)] | None = None
    """The most requests that a limit passes at once."""
    sample: Share | None = None
    """The highest part of ordinary requests that is logged."""
    timeout_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The longest timeout of a route."""
    routes: Annotated[int, Field(ge=1)] | None = None
    """The most routes of a service."""
    open_routes: Annotated[int, Field(ge=0)] | None = None
    """The most routes of a service that anyone may call."""


class ExceptionsConfig(PolicyBlock):
    """Which exceptions from ceilings count."""

    max_days: Annotated[int, Field(ge=1)] | None = None
    """The longest time, from the day of the check, that an exception may last. Default: any."""
    approved: Annotated[tuple[Text, ...], AT_LEAST_ONE] | None = None
    """The tickets of exceptions that are approved. If it is set, no other exception counts."""


class DefaultsConfig(PolicyBlock):
    """What applies where a service says nothing."""

    who: AccessConfig | None = None
    """Who may call a route."""
    limits: tuple[LimitConfig, ...] | None = None
    """The limits of a route."""
    log: LogConfig | None = None
    """What is logged, key by key."""
    objectives: ObjectivesConfig | None = None
    """How good a service is meant to be, key by key."""
    timeout: Timeout | None = None
    """How long Envoy waits for a whole response."""


class LogOverrides(PolicyBlock):
    """What is logged, regardless of what services say."""

    sample: Share | None = None
    """The part of ordinary requests that is logged."""
    fields: Annotated[tuple[LogField, ...], AT_LEAST_ONE] | None = None
    """Fields that each record has, in addition to those that a service chooses."""
    redact: tuple[RedactConfig, ...] = ()
    """What is dropped, masked or hashed, before what services say."""


class OverridesConfig(PolicyBlock):
    """What applies regardless of what services say."""

    rules: tuple[DenyRule, ...] = ()
    """Deny rules of the authz policy, in its own words."""
    limits: tuple[LimitConfig, ...] = ()
    """Limits of every route, in addition to its own."""
    log: LogOverrides = LogOverrides()
    """What the access log has."""


class PlatformFile(PolicyBlock):
    """What holds for every team. It may consist of several files; only `teams` may be in more than one."""

    domain: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """The domain of the rate limits, as in Envoy's ratelimit filter. Required in one of the files."""
    policy: PolicySettings = PolicySettings()
    """The settings of the authz policy: credentials, identity headers, named conditions."""
    envoy: EnvoyConfig = EnvoyConfig()
    """Where the Envoys of the edge listen, and where they reach the sidecars."""
    teams: dict[Label, TeamConfig] = Field(default_factory=dict)
    """The teams, by name."""
    reserved: ReservedConfig = ReservedConfig()
    """Hosts and paths that no service may claim."""
    ca_files: Annotated[tuple[Text, ...], AT_LEAST_ONE] | None = None
    """Files of certificate authorities that every edge has: services may name these as `ca_file`."""
    tiers: dict[Label, RateConfig] = Field(default_factory=dict)
    """Limits of all requests of a service, which services choose by name."""
    ceilings: CeilingsConfig = CeilingsConfig()
    """The most that a service may ask for."""
    exceptions: ExceptionsConfig = ExceptionsConfig()
    """Which exceptions of services count, and how long they may last."""
    defaults: DefaultsConfig = DefaultsConfig()
    """Callers, limits, log and objectives that apply where a service says nothing."""
    overrides: OverridesConfig = OverridesConfig()
    """Rules, limits and settings of the log that apply regardless of what services say."""
