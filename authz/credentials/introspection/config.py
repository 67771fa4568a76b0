"""The `introspection:` of the credentials block."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from authz.credentials.core.location import LocationConfig
from authz.credentials.core.types import (
    Audiences,
    ClaimNames,
    ClaimPath,
    Locations,
    Name,
    NeighbourPath,
    Seconds,
)
from authz.credentials.jwt.config import ClaimConfig
from common.configfile import Block
from common.urls import Network, ProxyUrl, check_url


class IntrospectionConfig(Block):
    """Opaque access tokens, which an authorization server verifies (RFC 7662)."""

    locations: Locations = (LocationConfig(header="authorization", scheme="Bearer"),)
    """Where the token is read from."""
    url: str
    """The introspection endpoint."""
    client_id: Name
    """The client id that the introspection endpoint knows this sidecar by."""
    client_secret_file: NeighbourPath
    """The file that holds the client's secret; a reload reads it again."""
    client_auth: Literal["basic", "post"] = "basic"
    """How the client proves itself (RFC 6749 section 2.3.1)."""
    audiences: Audiences
    """The `aud` values accepted. Required, because without it any access token counts (CVE-2022-29226);
    write `any` to accept all."""
    issuer: str = ""
    """If set, a response with another `iss` is refused, and one without `iss` counts as from this issuer."""
    required_claims: tuple[ClaimConfig, ...] = ()
    """Claims that every token must have."""
    forbidden_claims: tuple[ClaimConfig, ...] = ()
    """Claims that no token may have."""
    subject_claim: ClaimNames = ("sub",)
    """The claim that names the caller, or several: the first that has a value counts."""
    scope_claims: tuple[Name, ...] = ("scope",)
    """Claims with scopes: a text split at spaces or a list. The first that is present counts."""
    roles_claim: ClaimPath = ("roles",)
    """The path to the roles, `[realm_access, roles]`: a text, a list, or the keys of an object."""
    leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 30.0
    """How far the clocks of server and sidecar may be apart."""
    max_bytes: Annotated[int, Field(ge=16, le=65536)] = 4096
    """The longest token accepted."""
    cache_ttl_seconds: Seconds = 30.0
    """How long an active token is cached, never past its `exp`. A revocation is noticed only after that."""
    negative_cache_ttl_seconds: Seconds = 10.0
    """How long an inactive token is cached."""
    cache_max_entries: Annotated[int, Field(ge=1, le=1_000_000)] = 50_000
    """The most active tokens cached, about 2 KB each."""
    negative_cache_max_entries: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """The most inactive tokens cached; they never evict active ones."""
    timeout_seconds: Seconds = 2.0
    """The time cap of one introspection request. A check waits no longer than `lookup_timeout_seconds`."""
    max_concurrent_requests: Annotated[int, Field(ge=1, le=1000)] = 64
    """Introspection requests in flight at once. One more token is refused as if the server were away."""
    allow_http: bool = False
    """Whether the URL may be plain http. For a server on the same host, and for tests."""
    allow_addresses: tuple[Network, ...] = ()
    """Networks that are not public (loopback, private, link-local) to which the URL may lead."""
    ca_file: NeighbourPath | None = None
    """The authorities (PEM) for the server, instead of those of the system."""
    proxy: ProxyUrl | Literal[False] | None = None
    """The proxy to the server; false: none. Default: that of the environment."""

    @model_validator(mode="after")
    def _safe_url(self) -> "IntrospectionConfig":
        check_url(self.url, allow_http=self.allow_http)
        return self
