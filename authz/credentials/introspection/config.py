"""The `introspection:` of the credentials block."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from authz.credentials.core.block import Block
from authz.credentials.core.location import LocationConfig
from authz.credentials.core.types import (
    Audiences,
    ClaimNames,
    ClaimPath,
    Locations,
    Name,
    NeighbourPath,
    Network,
    ProxyUrl,
    Seconds,
    check_url,
)
from authz.credentials.jwt.config import ClaimConfig


class IntrospectionConfig(Block):
    """Opaque access tokens, about which the authorization server is asked (RFC 7662)."""

    locations: Locations = (LocationConfig(header="authorization", scheme="Bearer"),)
    url: str
    """The introspection endpoint."""
    client_id: Name
    client_secret_file: NeighbourPath
    """The file that holds the client's secret; a reload reads it again."""
    client_auth: Literal["basic", "post"] = "basic"
    """How the client proves itself (RFC 6749 section 2.3.1)."""
    audiences: Audiences
    """The `aud` values accepted (CVE-2022-29226: any access token was). Required; `any` has to be said."""
    issuer: str = ""
    """Where set, an answer with another `iss` is refused; without `iss` it is taken for this one."""
    required_claims: tuple[ClaimConfig, ...] = ()
    forbidden_claims: tuple[ClaimConfig, ...] = ()
    subject_claim: ClaimNames = ("sub",)
    """The claim that names the caller, or several: the first that has a value counts."""
    scope_claims: tuple[Name, ...] = ("scope",)
    roles_claim: ClaimPath = ("roles",)
    leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 30.0
    max_bytes: Annotated[int, Field(ge=16, le=65536)] = 4096
    """The longest token that is asked about."""
    cache_ttl_seconds: Seconds = 30.0
    """The longest that an active token is not asked about again, and so may be revoked unseen; never past
    its `exp`."""
    negative_cache_ttl_seconds: Seconds = 10.0
    """The same for one that is not active."""
    cache_max_entries: Annotated[int, Field(ge=1, le=1_000_000)] = 50_000
    """Active tokens remembered, about 2 KB each."""
    negative_cache_max_entries: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Tokens remembered that are not active; they never push out active ones."""
    timeout_seconds: Seconds = 2.0
    """The time cap of one introspection request. A check waits no longer than `lookup_timeout_seconds`."""
    max_concurrent_requests: Annotated[int, Field(ge=1, le=1000)] = 64
    """Introspection requests in flight at once. One more token is refused as if the server were away."""
    allow_http: bool = False
    allow_addresses: tuple[Network, ...] = ()
    ca_file: NeighbourPath | None = None
    """The authorities (PEM) for the server, instead of those of the system."""
    proxy: ProxyUrl | Literal[False] | None = None
    """The proxy to the server; false: none. Default: that of the environment."""

    @model_validator(mode="after")
    def _safe_url(self) -> "IntrospectionConfig":
        check_url(self.url, allow_http=self.allow_http)
        return self
