"""The `issuers:` of the credentials block."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from authz.credentials.core.block import Block
from authz.credentials.core.types import (
    Audiences,
    ClaimNames,
    ClaimPath,
    Name,
    NeighbourPath,
    Network,
    ProxyUrl,
    Seconds,
    check_url,
    refuse_without_effect,
)
from authz.credentials.jwt.algorithms import ALGORITHMS
from common.configfile import Spelled

_OF_URLS: Final = (
    "refresh_seconds", "max_stale_seconds", "cooldown_seconds", "unknown_key_seconds", "timeout_seconds",
    "allow_http", "allow_addresses", "ca_file", "proxy",
)  # fmt: skip


TENANT: Final = "{tenantid}"
"""As Microsoft Entra writes it in the `issuer` of its OpenID configuration and of its keys."""

Tenant = Annotated[str, Field(max_length=256), Spelled(r"[A-Za-z0-9._-]+", "contoso.example")]


class KeySetConfig(Block):
    """Where the keys of an issuer come from: `url`, `discovery` or `file`."""

    url: str | None = None
    discovery: str | Literal[True] | None = None
    """The issuer's OpenID configuration, whose `jwks_uri` is fetched. `true`: at its usual place below the
    issuer's own URL (OpenID Connect Discovery 1.0 section 4)."""
    allow_hosts: tuple[Name, ...] = ()
    """Hosts beside that of the discovery document which its `jwks_uri` may lead to."""
    file: NeighbourPath | None = None
    refresh_seconds: Seconds = 300.0
    """How often the URL is asked; each time up to a fifth earlier, so that sidecars do not ask together."""
    max_stale_seconds: Seconds = 86400.0
    """How long the last good set serves while the URL cannot be read. Then every token is refused."""
    cooldown_seconds: Seconds = 30.0
    """The shortest time between two fetches that unknown key ids ask for."""
    unknown_key_seconds: Seconds = 60.0
    """For how long a key id that a fetch did not bring asks for no further fetch. So long, at most, a key is
    kept out whose id somebody tried before it came into use."""
    timeout_seconds: Seconds = 5.0
    """The time cap of one fetch, name look-up and TLS included."""
    allow_http: bool = False
    """Whether the URL may be plain http. For a key server on the same host, and for tests."""
    allow_addresses: tuple[Network, ...] = ()
    """The networks that are not public (loopback, private, link-local) which the URL may lead to."""
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
            raise ValueError("allow_hosts belongs to discovery")
        if self.file is not None:
            refuse_without_effect(self, _OF_URLS, "with a file")
        if self.file is None and self.max_stale_seconds < self.refresh_seconds:
            raise ValueError(
                "max_stale_seconds must not be less than refresh_seconds: between, there would be no keys"
            )
        return self


class ClaimConfig(Block):
    """A claim, and the values meant. The name alone stands for a claim of any value."""

    claim: ClaimPath
    """A name, or the path to a claim inside others: `[realm_access, roles]`."""
    values: Annotated[tuple[str | int | float | bool, ...], Field(min_length=1)] | None = None
    """The claim is one of these, or a list with one of these in it."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"claim": value} if isinstance(value, str) else value


class LogoutConfig(Block):
    """OpenID Connect Back-Channel Logout 1.0: the issuer tells us which sessions have ended."""

    audiences: Annotated[tuple[Name, ...], Field(min_length=1)]
    """The client ids that the issuer knows us by: the `aud` of its logout tokens."""
    max_age_seconds: Seconds = 120.0
    """How old a logout token may be (section 2.4 advises at most two minutes)."""


class IssuerConfig(Block):
    """An issuer of JWTs: its keys, its algorithms and the audiences meant, bound together."""

    issuer: Annotated[str, Field(min_length=1, max_length=1024)]
    """Equal to `iss`, character by character (RFC 7519 section 4.1.1); with `tenants` a template."""
    tenants: Annotated[tuple[Tenant, ...], Field(max_length=10_000)] = ()
    """The accepted tenants: each replaces `{tenantid}` in `issuer`, and they share the key set."""
    audiences: Audiences
    """The `aud` values accepted. Required (Kuadrant/authorino#664); `any` has to be said."""
    algorithms: Annotated[tuple[str, ...], Field(min_length=1)] = ("RS256", "ES256", "EdDSA")
    jwks: KeySetConfig
    leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 30.0
    """How far the clocks of issuer and sidecar may be apart (istio/istio#60259)."""
    types: Annotated[tuple[Name, ...], Field(min_length=1)] = ("JWT", "at+jwt")
    """The `typ` headers accepted, so that no other kind of JWT passes for one (RFC 8725 section 3.11)."""
    type_required: bool = False
    """Whether a token without `typ` is refused."""
    required_claims: tuple[ClaimConfig, ...] = ()
    """Claims that every token must have: `[email, {claim: email_verified, values: [true]}]`."""
    forbidden_claims: tuple[ClaimConfig, ...] = ()
    """Claims that no token may have: `[cnf]` refuses tokens bound to a key that nobody checks here."""
    max_lifetime_seconds: Seconds | None = None
    """The longest from `iat` (without one: from now) to `exp`. No limit unless set."""
    logout: LogoutConfig | None = None
    """Whether `POST /authz/backchannel-logout` on the admin port takes logout tokens of this issuer."""
    subject_claim: ClaimNames = ("sub",)
    """The claim that names the caller, or several: the first that has a value counts."""
    scope_claims: tuple[Name, ...] = ("scope", "scp")
    """Claims with scopes: a text split at spaces (RFC 8693 section 4.2) or a list."""
    roles_claim: ClaimPath = ("roles",)
    """The path to the roles, `[realm_access, roles]`: a text, a list, or the keys of an object."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every `iss` that is meant."""
        if not self.tenants:
            return (self.issuer,)
        return tuple(self.issuer.replace(TENANT, tenant) for tenant in self.tenants)

    def of_tenant(self, tenant: str) -> "IssuerConfig":
        """The block for one tenant; the block itself if it is not a template."""
        if not self.tenants:
            return self
        name = self.issuer.replace(TENANT, tenant)
        return self.model_copy(update={"issuer": name, "tenants": ()})

    @model_validator(mode="after")
    def _template_has_tenants(self) -> "IssuerConfig":
        if self.tenants and self.issuer.count(TENANT) != 1:
            raise ValueError(f"with tenants, the issuer holds {TENANT} once, where they belong")
        if not self.tenants and TENANT in self.issuer:
            raise ValueError(f"the issuer holds {TENANT}: list the tenants that are accepted")
        return self

    @model_validator(mode="after")
    def _discoverable(self) -> "IssuerConfig":
        if self.jwks.discovery is True and self.tenants:
            raise ValueError("with tenants, discovery is the URL of the OpenID configuration that they share")
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
    """What is remembered of verified and of refused tokens."""

    max_entries: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """Verified tokens remembered, about 2 KB each; the least recently used gives way."""
    ttl_seconds: Seconds = 300.0
    """The longest that a verified token is remembered; never past its `exp`."""
    negative_max_entries: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Refused tokens remembered; they never push out verified ones."""
    negative_ttl_seconds: Seconds = 10.0
