"""Pydantic models of a service file: what a team says about one service."""

from typing import Annotated, Literal

from pydantic import Field

from authz.policy.types.names import AT_LEAST_ONE, Host, Method, PathTemplate, PolicyBlock, Text
from common.configfile import Spelled
from edge.intent.blocks import MAX_LIMITS, AccessConfig, LimitConfig, LogConfig, ObjectivesConfig
from edge.intent.words import Address, Day, Label, Timeout

CeilingName = Literal["requests_per_second", "burst", "sample", "timeout_seconds", "routes", "open_routes"]


ServerName = Annotated[
    str, Spelled(r"[A-Za-z0-9:]([A-Za-z0-9._:-]{0,251}[A-Za-z0-9])?", "accounts.example.com")
]
"""A host name or an IP address, without a port."""


class TlsConfig(PolicyBlock):
    """How the certificate of the upstream is verified."""

    server_name: ServerName | None = None
    """The name that is sent (SNI) and that the certificate must have. Default: the host of the address."""
    ca_file: Text | None = None
    """The file on the edge with the certificates of the authorities: one of the platform's `ca_files`.
    Default: those of the system."""


class UpstreamConfig(PolicyBlock):
    """Where the requests of a service go."""

    address: Address
    """HOST:PORT."""
    tls: bool | TlsConfig = False
    """Whether TLS is used, and how the certificate is verified."""
    http2: bool = False
    """Whether the upstream gets HTTP/2, as gRPC needs it."""


class RouteConfig(PolicyBlock):
    """Some paths of a service, with all that holds for them."""

    id: Label
    """Names the route in decisions, limits and logs, as SERVICE.ID. Unique within the service."""
    methods: Annotated[tuple[Method, ...], AT_LEAST_ONE] | None = None
    """The methods covered; every method if omitted. GET does not include HEAD."""
    paths: Annotated[tuple[PathTemplate, ...], AT_LEAST_ONE]
    """Path templates, such as `/orders/{id}` or `/files/{rest=**}`."""
    who: AccessConfig | None = None
    """Who may call. Default: `defaults.who` of the platform; without that, the service says it."""
    limits: Annotated[tuple[LimitConfig, ...], Field(max_length=MAX_LIMITS)] | None = None
    """How many requests pass. Default: `defaults.limits` of the platform."""
    log: LogConfig | None = None
    """What is logged. Default, key by key: that of the service, then `defaults.log` of the platform."""
    objectives: ObjectivesConfig | None = None
    """How good the route is meant to be. Default, key by key: those of the service, then of the platform."""
    timeout: Timeout | None = None
    """How long Envoy waits for the whole response, as in `500ms` or `30s`; then the client gets 504.
    Default: that of the service, then `defaults.timeout` of the platform, then 15s."""


class ExceptionConfig(PolicyBlock):
    """Leave to exceed a ceiling of the platform until a day."""

    ceiling: CeilingName
    """The ceiling that is exceeded."""
    route: Label | None = None
    """The route that exceeds it; the whole service if omitted."""
    value: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """The ceiling that holds instead."""
    reason: Text
    """Why it is needed."""
    until: Day
    """The last day on which the exception holds."""
    ticket: Text | None = None
    """A reference to the approval."""


class ServiceFile(PolicyBlock):
    """One service of a team."""

    service: Label
    """Names the service. Unique among all teams."""
    owner: Label
    """The team, which is one of `teams` of the platform."""
    description: Text | None = None
    """What the service is for."""
    hosts: Annotated[tuple[Host, ...], AT_LEAST_ONE]
    """The hosts of the service: exact or `*.example.com`. The team owns them (`teams.NAME.owns`)."""
    upstream: UpstreamConfig
    """Where its requests go."""
    tier: Label | None = None
    """One of `tiers` of the platform: a limit of all requests of the service."""
    log: LogConfig | None = None
    """What is logged, where a route does not say it."""
    objectives: ObjectivesConfig | None = None
    """How good the service is meant to be, where a route does not say it."""
    timeout: Timeout | None = None
    """How long Envoy waits for the whole response, where a route does not say it."""
    routes: Annotated[tuple[RouteConfig, ...], AT_LEAST_ONE]
    """What the service offers. Of the routes that cover a request the most specific decides."""
    exceptions: tuple[ExceptionConfig, ...] = ()
    """Ceilings of the platform that the service may exceed for a time."""
