"""The authz sidecar as its process builds it, called without a transport."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from google.protobuf.json_format import MessageToDict
from prometheus_client import CollectorRegistry

from authz.request.identity import Authentication
from authz.request.request import Request
from protos.authz_pb2 import CheckRequest, CheckResponse
from sidecars.admin.routes import AdminAnswer, AdminRequest
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

SECRET = "a-secret-of-many-random-bits"
KEY = {"x-api-key": f"reports.{SECRET}"}
POLICY = f"""
credentials:
  api_keys:
    keys:
      - id: reports
        sha256: {hashlib.sha256(SECRET.encode()).hexdigest()}
        subject: reports
        scopes: [orders.read]
rules:
  - {{name: public, paths: [/public], allow: anyone}}
  - {{name: orders, paths: [/orders], allow: {{scopes: [orders.read]}}}}
"""


@dataclass
class OneCall:
    """A call as a transport would make it."""

    deadline: float | None = None
    method: str = "/envoy.service.auth.v3.Authorization/Check"
    peer: str = "unix:"
    metadata: Mapping[str, str | bytes] = field(default_factory=dict)
    cancelled: bool = False


class Built:
    """The sidecar with a policy that has one API key, or with another policy."""

    def __init__(
        self, folder: Path, policy: str = POLICY, *, workers: int = 1, redis: Any = None, **settings: Any
    ) -> None:
        self.file = folder / "policy.yaml"
        self.file.write_text(policy)
        self.registry = CollectorRegistry()
        self.now = NOW
        dependencies = Dependencies(
            registry=self.registry,
            wall_clock=lambda: self.now,
            monotonic_clock=lambda: self.now,
            random=lambda: 0.5,
            redis=redis,
            workers=workers,
        )
        checked = AuthzSettings.model_validate(
            {"listen": ["unix:/tmp/authz.sock"], "policy": [self.file], **settings}
        )
        self.sidecar: AuthzSidecar = build(checked, dependencies)

    def ask(self, message: CheckRequest) -> CheckResponse:
        """The response, which must come at once."""
        answer = self.sidecar.check(message.SerializeToString(), OneCall())
        assert isinstance(answer, bytes)
        return CheckResponse.FromString(answer)

    def metadata(self, message: CheckRequest) -> dict[str, Any]:
        """The metadata of the response."""
        return MessageToDict(self.ask(message).dynamic_metadata)

    def replace_authenticator(self, authenticator: object) -> None:
        self.sidecar._serving.authorizer._authenticator = authenticator  # type: ignore[assignment]

    async def page(self, **query: str) -> AdminAnswer:
        """The answer of `/decisions`."""
        route = next(one for one in self.sidecar.admin_routes if one.path == "/decisions")
        return await route.handle(AdminRequest(query, "", b""))

    async def shown(self, **query: str) -> list[dict[str, Any]]:
        """The decisions that `/decisions` shows."""
        page = await self.page(**query)
        assert page.status == 200
        found: list[dict[str, Any]] = orjson.loads(page.body)["decisions"]
        return found

    async def post(self, path: str, wish: Any) -> int:
        """The status that the admin port answers with."""
        route = next(one for one in self.sidecar.admin_routes if (one.method, one.path) == ("POST", path))
        answer = await route.handle(AdminRequest({}, "application/json", json.dumps(wish).encode()))
        return answer.status


class BuiltWithIssuer(Built):
    """The sidecar with one issuer, at NOW."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        (folder / "keys.json").write_bytes(key_set(jwk(private_key("ES256"))))
        super().__init__(folder, policy_text(RULES), **settings)

    def write(self, rules: Any, **changes: Any) -> None:
        """The policy file, to be read at the next reload; `changes` to the credentials."""
        self.file.write_text(policy_text(rules, **changes))

    def bearer(self, text: str = "", path: str = "/orders") -> CheckResponse:
        """The response to a request with `text` as its bearer token."""
        headers = {"authorization": f"Bearer {text}"} if text else {}
        return self.ask(check_request(path=path, headers=headers))

    def result(self, text: str = "", path: str = "/orders") -> str:
        """The rule that allowed the request, or the reason of its refusal."""
        metadata = MessageToDict(self.bearer(text, path).dynamic_metadata)
        return str(metadata["rule"] if metadata["outcome"] == "allow" else metadata["reason"])


def policy_text(rules: Any, **changes: Any) -> str:
    """A policy with one issuer; `changes` to its credentials."""
    return json.dumps({"credentials": {**CREDENTIALS, **changes}, "rules": rules})


class Broken:
    """An authenticator with a defect."""

    def authenticate(self, request: Request, now: float) -> Authentication | Awaitable[Authentication]:
        raise RuntimeError("a defect")


class Never:
    """An authenticator that never answers."""

    async def authenticate(self, request: Request, now: float) -> Authentication:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


class Waiting:
    def authenticate(self, _request: Request, _now: float) -> Awaitable[Authentication]:
        return asyncio.get_running_loop().create_future()
