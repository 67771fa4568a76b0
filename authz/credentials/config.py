"""The `credentials:` block of a policy file, as pydantic models."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from authz.credentials.api_key.config import ApiKeysConfig
from authz.credentials.core.location import LocationConfig, check_apart
from authz.credentials.core.types import (
    Locations,
    refuse_repeated,
    refuse_without_effect,
)
from authz.credentials.introspection.config import IntrospectionConfig
from authz.credentials.jwt.config import CacheConfig, IssuerConfig
from authz.credentials.mtls.config import MtlsConfig
from authz.credentials.revocation.config import RevocationsConfig
from authz.credentials.session.config import SessionsConfig
from authz.credentials.throttle.config import ThrottleConfig
from authz.request.identity import CredentialKind
from common.configfile import Block


class TokensConfig(Block):
    """Where requests carry JWTs, and how long these may be."""

    locations: Locations = (LocationConfig(header="authorization", scheme="Bearer"),)
    """Where the token is read from."""
    max_bytes: Annotated[int, Field(ge=256, le=65536)] = 8192
    """The longest token accepted, checked before parsing. A token has 1 to 4 KiB; Envoy allows 60 KiB."""


class CredentialsConfig(Block):
    """The kinds of credential that are accepted. Without this block, every caller is anonymous."""

    tokens: TokensConfig = TokensConfig()
    """Where JWTs are read from, and how long they may be."""
    issuers: tuple[IssuerConfig, ...] = ()
    """The issuers whose JWTs are accepted."""
    sessions: SessionsConfig | None = None
    """Opaque session tokens."""
    api_keys: ApiKeysConfig | None = None
    """API keys."""
    introspection: IntrospectionConfig | None = None
    """Opaque access tokens that an authorization server verifies (RFC 7662)."""
    mtls: MtlsConfig | None = None
    """Client certificates."""
    revocations: RevocationsConfig | None = None
    """The list of tokens and sessions refused before they expire."""
    throttle: ThrottleConfig | None = ThrottleConfig()
    """Limits failed credential checks; `null` turns that off."""
    cache: CacheConfig = CacheConfig()
    """How many verified and refused JWTs are cached, and for how long."""
    lookup_timeout_seconds: Annotated[float, Field(gt=0, le=30)] = 0.15
    """The longest a request waits for keys or a store. Envoy itself waits 0.2 s by default."""

    @field_validator("issuers")
    @classmethod
    def _each_issuer_once(cls, issuers: tuple[IssuerConfig, ...]) -> tuple[IssuerConfig, ...]:
        refuse_repeated("issuer", (name for issuer in issuers for name in issuer.names))
        return issuers

    @model_validator(mode="after")
    def _kinds_can_be_told_apart(self) -> "CredentialsConfig":
        check_apart(self.locations())
        return self

    @model_validator(mode="after")
    def _tokens_have_issuers(self) -> "CredentialsConfig":
        if not self.issuers:
            refuse_without_effect(self, ("tokens",), "without issuers")
        return self

    @model_validator(mode="after")
    def _logout_can_be_kept(self) -> "CredentialsConfig":
        if self.revocations is None and any(issuer.logout is not None for issuer in self.issuers):
            raise ValueError("logout needs a revocations block, which records the sessions that have ended")
        return self

    @model_validator(mode="after")
    def _revocations_outlive_what_they_end(self) -> "CredentialsConfig":
        if self.revocations is None:
            return self
        kept_seconds, ahead_seconds = self.revocations.retention_seconds, self.revocations.leeway_seconds
        if (
            self.sessions is not None
            and self.sessions.absolute_timeout_seconds + ahead_seconds > kept_seconds
        ):
            raise ValueError(
                f"revocations.retention_seconds is {kept_seconds:g}, and a session may live longer: "
                "it must be at least sessions.absolute_timeout_seconds + revocations.leeway_seconds = "
                f"{self.sessions.absolute_timeout_seconds + ahead_seconds:g}"
            )
        for issuer in self.issuers:
            _check_outlived(issuer, self.revocations)
        return self

    def locations(self) -> Mapping[CredentialKind, Sequence[LocationConfig]]:
        """Return where requests carry each configured kind of credential."""
        locations: dict[CredentialKind, Sequence[LocationConfig]] = {}
        if self.issuers:
            locations[CredentialKind.JWT] = self.tokens.locations
        if self.sessions is not None:
            locations[CredentialKind.SESSION] = self.sessions.locations
        if self.api_keys is not None:
            locations[CredentialKind.API_KEY] = self.api_keys.locations
        if self.introspection is not None:
            locations[CredentialKind.INTROSPECTION] = self.introspection.locations
        return locations

    def files(self) -> Iterator[Path]:
        """Return every file that the block reads, for the watcher."""
        for issuer in self.issuers:
            yield from filter(None, (issuer.jwks.file, issuer.jwks.ca_file))
        if self.api_keys is not None and self.api_keys.file is not None:
            yield self.api_keys.file
        if self.introspection is not None:
            yield self.introspection.client_secret_file
            if self.introspection.ca_file is not None:
                yield self.introspection.ca_file


def _check_outlived(issuer: IssuerConfig, revocations: RevocationsConfig) -> None:
    """Raise ValueError if a token could outlive its revocation and be accepted again."""
    if issuer.leeway_seconds > revocations.leeway_seconds:
        raise ValueError(
            f"revocations.leeway_seconds is {revocations.leeway_seconds:g}: it must be at least the "
            f"leeway_seconds of every issuer, which is {issuer.leeway_seconds:g} for {issuer.issuer}"
        )
    margin_seconds = issuer.leeway_seconds + revocations.leeway_seconds
    most_seconds = revocations.retention_seconds - margin_seconds
    if issuer.max_lifetime_seconds is None:
        raise ValueError(
            f"with revocations, the issuer {issuer.issuer} needs max_lifetime_seconds, {most_seconds:g} at "
            "most: a token that outlives its revocation would be accepted again"
        )
    if issuer.max_lifetime_seconds > most_seconds:
        raise ValueError(
            f"revocations.retention_seconds is {revocations.retention_seconds:g}, and a token of "
            f"{issuer.issuer} may live longer: it must be at least max_lifetime_seconds + leeway_seconds + "
            f"revocations.leeway_seconds = {issuer.max_lifetime_seconds + margin_seconds:g}"
        )
