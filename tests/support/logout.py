"""Back-channel logout: credentials that accept it, and its tokens."""

from collections.abc import Mapping
from typing import Any

from authz.credentials import Credentials
from authz.credentials.jwt.claims import LOGOUT_EVENT as EVENT
from tests.support.credentials import CredentialsHarness
from tests.support.signing import NOW, token

EVENTS: Mapping[str, Any] = {EVENT: {}}


CLIENT = "edge-client"


def block(harness: CredentialsHarness, **changes: Any) -> dict[str, Any]:
    issuer = harness.issuer(logout={"audiences": [CLIENT]} | changes)
    return {"issuers": [issuer], "revocations": {}}


def logout_token(**changes: Any) -> str:
    """A good logout token for the session s1 of alice."""
    good = {
        "aud": CLIENT,
        "iat": NOW,
        "exp": NOW + 120,
        "jti": "logout-1",
        "sid": "s1",
        "events": EVENTS,
        "scope": None,
    }
    header = changes.pop("header", {"typ": "logout+jwt"})
    merged: dict[str, Any] = good | changes
    return token(header=header, **merged)


async def receive(credentials: Credentials, text: str) -> Any:
    assert credentials.logout is not None
    return await credentials.logout.receive(text)
