"""The authz sidecar as its process builds it, called without a transport."""

import asyncio
import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from prometheus_client import CollectorRegistry

from authz.request.identity import Authentication
from authz.request.request import Request
from protos.authz_pb2 import CheckResponse
from sidecars.admin.routes import AdminRequest
from sidecars.services.authz.sidecar import AuthzSidecar, build
from sidecars.services.sidecar import Dependencies
from sidecars.settings.authz import AuthzSettings
from tests.support.checks import check_request
from tests.support.signing import (
    AUDIENCE,
    ISSUER,
    NOW,
    jwk,
    key_set,
    private_key,
)

IDENTITY_SECONDS = 60


ISSUER_BLOCK: Mapping[str, Any] = {
    "issuer": ISSUER,
    "audiences": [AUDIENCE],
    "algorithms": ["ES256"],
    "jwks": {"file": "keys.json"},
    "max_lifetime_seconds": 3600,
}


CREDENTIALS: Mapping[str, Any] = {
    "issuers": [ISSUER_BLOCK],
    "revocations": {},
    "sessions": {},
    "throttle": None,
    "cache": {"ttl_seconds": IDENTITY_SECONDS},
}


RULES = [
    {"name": "public", "paths": ["/public"], "allow": "anyone"},
    {"name": "orders", "paths": ["/orders"], "allow": {"scopes": ["read"]}},
    {"name": "bills", "paths": ["/bills"], "allow": {"scopes": ["read"]}},
    {"name": "admin", "paths": ["/admin"], "allow": {"roles": ["admin"]}},
]


class Sidecar:
    """The authz sidecar with one issuer, at NOW."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.file = folder / "policy.yaml"
        (folder / "keys.json").write_bytes(key_set(jwk(private_key("ES256"))))
        self.write(RULES)
        self.registry = CollectorRegistry()
        self.now = NOW
        dependencies = Dependencies(
            registry=self.registry,
            wall_clock=lambda: self.now,
            monotonic_clock=lambda: self.now,
            random=lambda: 0.5,
            redis=None,
        )
        checked = AuthzSettings.model_validate(
            {"listen": ["unix:/tmp/authz.sock"], "policy": [self.file], **settings}
        )
        self.sidecar: AuthzSidecar = build(checked, dependencies)

    def write(self, rules: Any, **changes: Any) -> None:
        """The policy file, to be read at the next reload; `changes` to the credentials."""
        self.file.write_text(json.dumps({"credentials": {**CREDENTIALS, **changes}, "rules": rules}))

    def ask(self, text: str = "", path: str = "/orders") -> CheckResponse:
        """The answer to a request with `text` as its bearer token."""
        headers = {"authorization": f"Bearer {text}"} if text else {}
        answer = self.sidecar.check(check_request(path=path, headers=headers).SerializeToString(), OneCall())
        assert isinstance(answer, bytes)
        return CheckResponse.FromString(answer)

    def result(self, text: str = "", path: str = "/orders") -> str:
        """The rule that allowed the request, or the reason of its refusal."""
        metadata = MessageToDict(self.ask(text, path).dynamic_metadata)
        return str(metadata["rule"] if metadata["outcome"] == "allow" else metadata["reason"])

    def replace_authenticator(self, authenticator: object) -> None:
        self.sidecar._serving.authorizer._authenticator = authenticator  # type: ignore[assignment]

    async def post(self, path: str, wish: Any) -> int:
        """What the admin port answers."""
        route = next(one for one in self.sidecar.admin_routes if (one.method, one.path) == ("POST", path))
        answer = await route.handle(AdminRequest({}, "application/json", json.dumps(wish).encode()))
        return answer.status


@dataclass
class OneCall:
    """A call as a transport would make it."""

    deadline: float | None = None
    method: str = "/envoy.service.auth.v3.Authorization/Check"
    peer: str = "unix:"
    metadata: Mapping[str, str | bytes] = field(default_factory=dict)
    cancelled: bool = False


class Broken:
    """An authenticator with a defect."""

    def authenticate(self, request: Request, now: float) -> Authentication | Awaitable[Authentication]:
        raise RuntimeError("a defect")


class Never:
    """An authenticator that never answers."""

    async def authenticate(self, request: Request, now: float) -> Authentication:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")
