"""Builds the verifiers, stores and key sources of a configuration."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from authz.credentials.api_key import verifier as apikey
from authz.credentials.api_key.verifier import ApiKeys
from authz.credentials.authenticator import PlacesAuthenticator
from authz.credentials.backchannel_logout import LogoutReceiver
from authz.credentials.config import CredentialsConfig
from authz.credentials.core.location import places
from authz.credentials.core.outbound import check_ca_file
from authz.credentials.core.redis_caller import RedisCaller
from authz.credentials.core.verifier import Verifier
from authz.credentials.dependencies import CredentialDependencies
from authz.credentials.introspection.client import IntrospectionClient
from authz.credentials.introspection.verifier import Introspector
from authz.credentials.issuers import issuers_of
from authz.credentials.jwt.config import IssuerConfig
from authz.credentials.jwt.cpu_budget import CpuBudget
from authz.credentials.jwt.key_set import KeySet
from authz.credentials.jwt.key_source import FileKeys, RemoteKeys
from authz.credentials.jwt.token import Issuer
from authz.credentials.jwt.verifier import Tokens
from authz.credentials.mtls.verifier import Certificates
from authz.credentials.revocation.redis_store import RedisRevocations
from authz.credentials.revocation.revocation_list import NoRevocations, RevocationCheck, Revocations
from authz.credentials.session.memory_store import MemorySessionStore
from authz.credentials.session.model import SessionStore
from authz.credentials.session.redis_store import RedisSessionStore
from authz.credentials.session.verifier import Sessions
from authz.credentials.throttle.throttle import Throttle
from authz.request.identity import CredentialKind
from common.circuit_breaker import CircuitBreaker
from common.configfile import SETTINGS, ConfigError, Problem
from common.lru_cache import LruCache
from common.os_errors import in_words


@dataclass(frozen=True, slots=True)
class Compiled:
    """A configuration, and the objects that serve it."""

    config: CredentialsConfig
    issuers: Mapping[str, Issuer]
    reread: Mapping[FileKeys, KeySet]
    """The key files that stay in use, and their present content."""
    tokens: Tokens
    sessions: Sessions | None
    revocations: Revocations | None
    logout: LogoutReceiver | None
    api_keys: ApiKeys | None
    introspector: Introspector | None
    introspection_client: IntrospectionClient | None
    introspection_authorities: bytes
    """The content of `introspection.ca_file`; empty without one."""
    throttle: Throttle | None
    authenticator: PlacesAuthenticator

    def remote_keys(self) -> Sequence[RemoteKeys]:
        """Return the key sets that are fetched from URLs."""
        sources = dict.fromkeys(issuer.keys for issuer in self.issuers.values())
        return [source for source in sources if isinstance(source, RemoteKeys)]

    def describe(self) -> dict[str, Any]:
        """Return the state for `/config`. Holds no secret, no token and no hash of either."""
        return {
            "issuers": [
                _describe_issuer(block, self.issuers[block.names[0]]) for block in self.config.issuers
            ],
            "sessions": self.sessions.config.store if self.sessions is not None else None,
            "revocations": len(self.revocations) if self.revocations is not None else None,
            "introspection": self.config.introspection.url if self.config.introspection is not None else None,
            "api_keys": len(self.api_keys) if self.api_keys is not None else None,
            "remembered_tokens": len(self.tokens.verified),
        }


def compile_config(
    config: CredentialsConfig, dependencies: CredentialDependencies, before: Compiled | None
) -> Compiled:
    """Build what serves `config`, reusing the objects of `before` whose own configuration is the same.

    Reads key files. Raises ConfigError with every problem.
    """
    problems: list[Problem] = []
    reread: dict[FileKeys, KeySet] = {}
    issuers: dict[str, Issuer] = {}
    for block in config.issuers:
        with _gathered(problems):
            issuers |= issuers_of(
                block,
                before.issuers if before is not None else {},
                config.lookup_timeout_seconds,
                dependencies,
                reread,
            )
    revocations, sessions, api_keys, introspector, introspection_client = None, None, None, None, None
    introspection_authorities = b""
    with _gathered(problems):
        revocations = _revocations(config, before, dependencies)
    check: RevocationCheck = NoRevocations() if revocations is None else revocations
    with _gathered(problems):
        sessions = _sessions(config, before, dependencies, check)
    with _gathered(problems):
        api_keys = apikey.load(config.api_keys) if config.api_keys is not None else None
    with _gathered(problems):
        introspection_authorities = _authorities(config)
        introspector, introspection_client = _introspection(
            config, before, dependencies, check, introspection_authorities
        )
    if problems:
        raise ConfigError(problems)
    tokens = _tokens(config, before, issuers, check, dependencies)
    candidates: dict[CredentialKind, Verifier | None] = {
        CredentialKind.JWT: tokens,
        CredentialKind.SESSION: sessions,
        CredentialKind.API_KEY: api_keys,
        CredentialKind.INTROSPECTION: introspector,
    }
    verifiers = {kind: verifier for kind, verifier in candidates.items() if verifier is not None}
    throttle = _throttle(config, before, dependencies)
    certificates = Certificates(config.mtls) if config.mtls is not None else None
    logout = None
    if revocations is not None and any(issuer.config.logout is not None for issuer in issuers.values()):
        logout = LogoutReceiver(issuers, revocations, config.tokens.max_bytes, dependencies.wall_clock)
    found = places(config.locations(), verifiers)
    authenticator = PlacesAuthenticator(found, dependencies.metrics, throttle, certificates)
    return Compiled(
        config=config,
        issuers=issuers,
        reread=reread,
        tokens=tokens,
        sessions=sessions,
        revocations=revocations,
        logout=logout,
        api_keys=api_keys,
        introspector=introspector,
        introspection_client=introspection_client,
        introspection_authorities=introspection_authorities,
        throttle=throttle,
        authenticator=authenticator,
    )


@contextmanager
def _gathered(problems: list[Problem]) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        problems.extend(error.problems)


def _revocations(
    config: CredentialsConfig, before: Compiled | None, dependencies: CredentialDependencies
) -> Revocations | None:
    block = config.revocations
    if block is None:
        return None
    old = before.revocations if before is not None else None
    if before is not None and old is not None and _same_redis_wait(before, config) and old.config == block:
        return old
    store = None
    if block.store == "redis":
        store = RedisRevocations(_redis_caller(config, dependencies, "revocations"), block.prefix)
    revocations = Revocations(block, store, dependencies.wall_clock, dependencies.monotonic_clock)
    if old is not None and (old.config.store, old.config.prefix) == (block.store, block.prefix):
        revocations.adopt(old)
    return revocations


def _sessions(
    config: CredentialsConfig,
    before: Compiled | None,
    dependencies: CredentialDependencies,
    revocations: RevocationCheck,
) -> Sessions | None:
    block = config.sessions
    if block is None:
        return None
    old = before.sessions if before is not None else None
    predecessor: MemorySessionStore | None = None
    if before is not None and old is not None:
        same = old.config == block and _same_redis_wait(before, config)
        if same and _same_check(old.revocations, revocations):
            return old
        if isinstance(old.store, MemorySessionStore) and block.store == "memory":
            # Sessions in memory outlive a change of their settings; the new bound applies to new sessions.
            predecessor = old.store
    store: SessionStore
    if block.store == "memory":
        store = MemorySessionStore(block.max_sessions, predecessor)
    else:
        store = RedisSessionStore(
            _redis_caller(config, dependencies, "sessions"), block.prefix, block.ended_retention_seconds
        )
    sessions = Sessions(
        block,
        store,
        random_bytes=dependencies.random_bytes,
        wall_clock=dependencies.wall_clock,
        revocations=revocations,
        metrics=dependencies.metrics.sessions,
    )
    if old is not None:
        sessions.adopt(old)
    return sessions


def _redis_caller(config: CredentialsConfig, dependencies: CredentialDependencies, block: str) -> RedisCaller:
    if dependencies.redis is None:
        problem = f"is required by credentials.{block}.store: redis"
        raise ConfigError([Problem(SETTINGS, 0, "redis", problem)])
    return RedisCaller(dependencies.redis, config.lookup_timeout_seconds, dependencies.redis_breaker)


def _same_redis_wait(before: Compiled, config: CredentialsConfig) -> bool:
    return before.config.lookup_timeout_seconds == config.lookup_timeout_seconds


def _same_check(one: RevocationCheck, other: RevocationCheck) -> bool:
    return one is other or (isinstance(one, NoRevocations) and isinstance(other, NoRevocations))


def _authorities(config: CredentialsConfig) -> bytes:
    path = config.introspection.ca_file if config.introspection is not None else None
    check_ca_file(path)
    return b"" if path is None else path.read_bytes()


def _introspection(
    config: CredentialsConfig,
    before: Compiled | None,
    dependencies: CredentialDependencies,
    revocations: RevocationCheck,
    authorities: bytes,
) -> tuple[Introspector | None, IntrospectionClient | None]:
    block = config.introspection
    if block is None:
        return None, None
    try:
        secret = block.client_secret_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError.of(block.client_secret_file, f"cannot be read: {in_words(error)}") from error
    if not secret:
        raise ConfigError.of(block.client_secret_file, "holds no secret")
    old = before.introspector if before is not None else None
    if (
        before is not None
        and old is not None
        and (old.config, old.secret) == (block, secret)
        and before.introspection_authorities == authorities
        and _same_redis_wait(before, config)
        and _same_check(old.revocations, revocations)
    ):
        return old, before.introspection_client
    introspection_client = dependencies.introspection_client(block)
    introspector = Introspector(
        block,
        secret,
        introspection_client.post,
        lookup_timeout_seconds=config.lookup_timeout_seconds,
        breaker=CircuitBreaker(dependencies.monotonic_clock, dependencies.random),
        wall_clock=dependencies.wall_clock,
        revocations=revocations,
        metrics=dependencies.metrics.introspection,
    )
    return introspector, introspection_client


def _throttle(
    config: CredentialsConfig, before: Compiled | None, dependencies: CredentialDependencies
) -> Throttle | None:
    if config.throttle is None:
        return None
    old = before.throttle if before is not None else None
    if old is not None and old.config == config.throttle:
        return old
    return Throttle(config.throttle, dependencies.monotonic_clock)


def _tokens(
    config: CredentialsConfig,
    before: Compiled | None,
    issuers: Mapping[str, Issuer],
    revocations: RevocationCheck,
    dependencies: CredentialDependencies,
) -> Tokens:
    # Epochs of different revocation lists cannot be compared.
    same = (
        before is not None
        and before.config.cache.max_entries == config.cache.max_entries
        # Cached tokens carry their own end, so a shorter ttl must start with an empty cache.
        and before.config.cache.ttl_seconds <= config.cache.ttl_seconds
        and before.revocations is (revocations if isinstance(revocations, Revocations) else None)
    )
    verified = before.tokens.verified if before is not None and same else LruCache(config.cache.max_entries)
    return Tokens(
        issuers,
        max_bytes=config.tokens.max_bytes,
        cache=config.cache,
        verified=verified,
        revocations=revocations,
        cpu_budget=CpuBudget(dependencies.monotonic_clock),
        lookup_timeout_seconds=config.lookup_timeout_seconds,
        metrics=dependencies.metrics,
    )


def _describe_issuer(config: IssuerConfig, issuer: Issuer) -> dict[str, Any]:
    return {
        "issuer": config.issuer,
        **({"tenants": len(config.tenants)} if config.tenants else {}),
        "audiences": config.audiences,
        "algorithms": config.algorithms,
        "key_set": issuer.keys.describe(),
    }
