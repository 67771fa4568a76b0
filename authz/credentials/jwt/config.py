"""The `issuers:` of the credentials block."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from authz.credentials.core.types import (
    Audiences,
    ClaimNames,
    ClaimPath,
    Name,
    NeighbourPath,
    Seconds,
    refuse_without_effect,
)
from authz.credentials.jwt.algorithms import ALGORITHMS
from common.configfile import Block, Spelled
from common.urls import Network, ProxyUrl, check_url

_OF_URLS: Final = (
    "refresh_seconds", "max_stale_seconds", "cooldown_seconds", "unknown_key_seconds", "timeout_seconds",
    "allow_http", "allow_addresses", "ca_file", "proxy",
)  # fmt: skip

TENANT: Final = "{tenantid}"
"""The placeholder that Microsoft Entra writes in the `issuer` of its OpenID configuration and keys."""

Tenant = Annotated[str, Field(max_length=256), Spelled(r"[A-Za-z0-9._-]+", "contoso.example")]


class KeySetConfig(Block):
    """Where the keys of an issuer come from: `url`, `discovery` or `file`."""

    url: str | None = None
    """The URL of the key set (RFC 7517)."""
    discovery: str | Literal[True] | None = None
    """The issuer's OpenID configuration, whose `jwks_uri` is fetched. `true`: at the usual path below
    the URL of the issuer (OpenID Connect Discovery 1.0 section 4)."""
    allow_hosts: tuple[Name, ...] = ()
    """Further hosts to which `jwks_uri` may lead, besides that of the discovery document."""
    file: NeighbourPath | None = None
    """A file with the key set; a change of it reloads the policy."""
    refresh_seconds: Seconds = 300.0
    """The interval of fetches, shortened at random by up to a fifth so that sidecars spread."""
    max_stale_seconds: Seconds = 86400.0
    """How long the last good set serves while fetches fail. After that, every token is refused."""
    cooldown_seconds: Seconds = 30.0
    """The shortest time between two fetches that unknown key ids cause."""
    unknown_key_seconds: Seconds = 60.0
    """How long a key id that a fetch did not bring causes no other fetch. If its key comes into use
    then, it is refused until this time is over."""
    timeout_seconds: Seconds = 5.0
    """The timeout of one fetch, including name look-up and TLS."""
    allow_http: bool = False
    """Whether the URL may be plain http. For a key server on the same host, and for tests."""
    allow_addresses: tuple[Network, ...] = ()
    """Networks that are not public (loopback, private, link-local) to which the URL may lead."""
    ca_file: NeighbourPath | None = None
    """The authorities (PEM) for the server, instead of those of the system. Read at each fetch."""
    proxy: ProxyUrl | Literal[False] | None = None
    """The proxy to the URL: `http://proxy.example:3128`; false: none. Default: that of the environment."""

    @model_validator(mode="after")
    def _one_origin(self) -> "KeySetConfig":
        if sum(origin is not None for origin in (self.url, self.discovery, self.file)) != 1:
            raise ValueError("name exactly one of url, discovery and file")
        for url in (self.url, self.discovery):
            if isinstance(url, str):
                check_url(url, allow_http=self.allow_http)
        if self.allow_hosts and self.discovery is None:
            raise ValueError("allow_hosts needs discovery")
        if self.file is not None:
            refuse_without_effect(self, _OF_URLS, "with a file")
        if self.file is None and self.max_stale_seconds < self.refresh_seconds:
            raise ValueError(
                "max_stale_seconds must not be less than refresh_seconds: between, there would be no keys"
            )
        return self


class ClaimConfig(Block):
    """A claim and its accepted values. A name alone accepts any value."""

    claim: ClaimPath
    """A name, or the path to a claim inside others: `[realm_access, roles]`."""
    values: Annotated[tuple[str | int | float | bool, ...], Field(min_length=1)] | None = None
    """The claim is one of these, or a list that contains one of these."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"claim": value} if isinstance(value, str) else value


class LogoutConfig(Block):
    """OpenID Connect Back-Channel Logout 1.0: the issuer reports which sessions have ended."""

    audiences: Annotated[tuple[Name, ...], Field(min_length=1)]
    """The client ids of this deployment at the issuer: the `aud` of its logout tokens."""
    max_age_seconds: Seconds = 120.0
    """The greatest age of a logout token (section 2.4 advises at most two minutes)."""


class IssuerConfig(Block):
    """An issuer of JWTs, with its keys, algorithms and audiences."""

    issuer: Annotated[str, Field(min_length=1, max_length=1024)]
    """The value of `iss`, equal in every character (RFC 7519 section 4.1.1); with `tenants`, a template."""
    tenants: Annotated[tuple[Tenant, ...], Field(max_length=10_000)] = ()
    """The accepted tenants: each replaces `{tenantid}` in `issuer`, and they share the key set."""
    audiences: Audiences
    """The `aud` values accepted. Required (Kuadrant/authorino#664); write `any` to accept all."""
    algorithms: Annotated[tuple[str, ...], Field(min_length=1)] = ("RS256", "ES256", "EdDSA")
    """The signature algorithms accepted (RFC 7518 section 3.1). No HMAC, no `none`."""
    jwks: KeySetConfig
    """Where the keys of the issuer come from."""
    leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 30.0
    """How far the clocks of issuer and sidecar may differ (istio/istio#60259)."""
    types: Annotated[tuple[Name, ...], Field(min_length=1)] = ("JWT", "at+jwt")
    """The `typ` headers accepted, so that no other kind of JWT passes for an access token (RFC 8725 section
    3.11)."""
    type_required: bool = False
    """Whether a token without `typ` is refused."""
    required_claims: tuple[ClaimConfig, ...] = ()
    """Claims that every token must have: `[email, {claim: email_verified, values: [true]}]`."""
    forbidden_claims: tuple[ClaimConfig, ...] = ()
    """Claims that no token may have: `[cnf]` refuses tokens bound to a key, which is not checked here."""
    max_lifetime_seconds: Seconds | None = None
    """The longest time from `iat` (or from now, without one) to `exp`. No limit unless set."""
    logout: LogoutConfig | None = None
    """Accepts logout tokens of this issuer at `POST /authz/backchannel-logout` on the admin port."""
    subject_claim: ClaimNames = ("sub",)
    """The claim that names the caller, or several: the first with a value counts."""
    scope_claims: tuple[Name, ...] = ("scope", "scp")
    """Claims with scopes: a text split at spaces (RFC 8693 section 4.2) or a list."""
    roles_claim: ClaimPath = ("roles",)
    """The path to the roles, `[realm_access, roles]`: a text, a list, or the keys of an object."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every `iss` that the block accepts."""
        if not self.tenants:
            return (self.issuer,)
        return tuple(self.issuer.replace(TENANT, tenant) for tenant in self.tenants)

    def of_tenant(self, tenant: str) -> "IssuerConfig":
        """Return the block for one tenant; the block itself if it is not a template."""
        if not self.tenants:
            return self
        name = self.issuer.replace(TENANT, tenant)
        return self.model_copy(update={"issuer": name, "tenants": ()})

    @model_validator(mode="after")
    def _template_has_tenants(self) -> "IssuerConfig":
        if self.tenants and self.issuer.count(TENANT) != 1:
            raise ValueError(f"with tenants, the issuer must hold {TENANT} exactly once")
        if not self.tenants and TENANT in self.issuer:
            raise ValueError(f"the issuer holds {TENANT}: list the tenants that are accepted")
        return self

    @model_validator(mode="after")
    def _discoverable(self) -> "IssuerConfig":
        if self.jwks.discovery is True and self.tenants:
            raise ValueError(
                "with tenants, discovery must be the URL of the OpenID configuration that they share"
            )
        if self.jwks.discovery is True:
            try:
                check_url(self.issuer, allow_http=self.jwks.allow_http)
            except ValueError as error:
                raise ValueError(f"discovery: true needs an issuer that is a URL: {error}") from None
        return self

    @field_validator("algorithms")
    @classmethod
    def _known_algorithms(cls, algorithms: tuple[str, ...]) -> tuple[str, ...]:
        for algorithm in algorithms:
            if algorithm not in ALGORITHMS:
                raise ValueError(f"{algorithm!r} is not one of {', '.join(sorted(ALGORITHMS))}")
        return algorithms


class CacheConfig(Block):
    """The cache of verified and refused tokens."""

    max_entries: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """The most verified tokens cached, about 2 KB each; the least recently used is evicted."""
    ttl_seconds: Seconds = 300.0
    """How long a verified token is cached, never past its `exp`."""
    negative_max_entries: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """The most refused tokens cached; they never evict verified ones."""
    negative_ttl_seconds: Seconds = 10.0
    """How long a refused token is cached."""
