"""Credentials in service, on clocks that move only when a test moves them."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from authz.credentials import Credentials, CredentialsConfig
from authz.credentials.jwt.config import KeySetConfig
from authz.credentials.jwt.fetch import fetch
from authz.credentials.session.verifier import Sessions
from authz.request.identity import Authentication, Identity, Refusal, RefusalReason
from authz.request.request import Request
from tests.support.signing import AUDIENCE, ISSUER, NOW, bearer, jwk, key_set, private_key
from tests.support.waiting import WAIT_SECONDS, until


@dataclass
class Clock:
    """A wall clock and a monotonic one that move together."""

    wall_seconds: float = NOW
    monotonic_seconds: float = 1000.0

    def monotonic(self) -> float:
        return self.monotonic_seconds

    def advance(self, seconds: float) -> None:
        self.wall_seconds += seconds
        self.monotonic_seconds += seconds


@dataclass
class KeyServer:
    """Replaces the URL of a key set: what it answers, and how often it was called."""

    document: bytes | Exception = b""
    calls: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Closed, it keeps a fetch waiting."""

    def __post_init__(self) -> None:
        self.gate.set()

    async def fetch(self, _config: KeySetConfig) -> bytes:
        self.calls += 1
        await self.gate.wait()
        if isinstance(self.document, Exception):
            raise self.document
        return self.document


class CredentialsHarness:
    """Credentials with everything around them in a test's hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.registry = CollectorRegistry()
        self.key_server = KeyServer()
        self.redis: Any = None
        self.real_fetch = False
        """Whether key sets come over HTTP, and not from `key_server`."""

    def write(self, name: str, content: bytes) -> Path:
        """Write a file next to the policy file."""
        path = self.folder / name
        path.write_bytes(content)
        return path

    def config(self, block: Mapping[str, Any]) -> CredentialsConfig:
        """The block as the policy file would have it."""
        return CredentialsConfig.model_validate(block, context={"folder": self.folder})

    def issuer(self, *keys: Mapping[str, Any], file: str = "keys.json", **changes: Any) -> dict[str, Any]:
        """Return the block of an issuer whose keys are in a file."""
        self.write(file, key_set(*keys or (jwk(private_key("ES256")),)))
        block = {
            "issuer": ISSUER,
            "audiences": [AUDIENCE],
            "algorithms": ["RS256", "ES256", "EdDSA"],
            "jwks": {"file": file},
            "max_lifetime_seconds": 36_000,
        }
        return block | changes

    def credentials(self, block: Mapping[str, Any]) -> Credentials:
        """The block in service."""
        return Credentials(
            self.config(block),
            registry=self.registry,
            monotonic_clock=self.clock.monotonic,
            wall_clock=lambda: self.clock.wall_seconds,
            random=lambda: 0.0,
            redis=self.redis,
            fetch_document=fetch if self.real_fetch else self.key_server.fetch,
        )

    def outcome(self, credentials: Credentials, request: Request) -> Authentication:
        """What is answered at once; fails where something has to be waited for."""
        outcome = credentials.authenticate(request, self.clock.wall_seconds)
        assert not hasattr(outcome, "__await__"), "this should be answered without waiting"
        return outcome

    async def awaited(self, credentials: Credentials, request: Request) -> Authentication:
        """What is answered, at once or not."""
        outcome = credentials.authenticate(request, self.clock.wall_seconds)
        if hasattr(outcome, "__await__"):
            return await asyncio.wait_for(outcome, WAIT_SECONDS)  # type: ignore[arg-type]
        return outcome

    async def next_fetch(self) -> None:
        """Returns once the key server has been asked again."""
        before = self.key_server.calls
        await until(lambda: self.key_server.calls > before)

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric now; 0 where it has none yet."""
        return self.registry.get_sample_value(name, labels) or 0.0


def reason_of(outcome: Any) -> RefusalReason:
    """Why `outcome` is a refusal; fails where it is none."""
    assert isinstance(outcome, Refusal), outcome
    return outcome.reason


def sessions_of(credentials: Credentials) -> Sessions:
    assert credentials.sessions is not None
    return credentials.sessions


def verdict(harness: CredentialsHarness, credentials: Credentials, text: str) -> RefusalReason | None:
    outcome = harness.outcome(credentials, bearer(text))
    return None if isinstance(outcome, Identity) else reason_of(outcome)
