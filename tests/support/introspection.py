"""A real HTTP server that answers about opaque tokens, and credentials that ask it."""

import json
from typing import Any

from tests.support.credentials import CredentialsHarness
from tests.support.signing import NOW
from tests.support.webserver import WebServer


class Introspected:
    """A server, and credentials that ask it."""

    def __init__(self, harness: CredentialsHarness, server: WebServer) -> None:
        self.harness = harness
        self.server = server
        harness.write("secret", b"s3cr:et&\n")
        self.answers()

    def answers(self, **claims: Any) -> None:
        """Active, with these claims; None takes one away."""
        good = {"active": True, "sub": "alice", "aud": "edge", "scope": "read write", "exp": NOW + 600}
        body = {name: value for name, value in (good | claims).items() if value is not None}
        self.server.bodies["/introspect"] = json.dumps(body).encode()

    def block(self, **changes: Any) -> dict[str, Any]:
        return {
            "url": f"{self.server.url}/introspect",
            "client_id": "edge proxy",
            "client_secret_file": "secret",
            "audiences": ["edge"],
            "allow_http": True,
            "allow_addresses": ["127.0.0.0/8"],
        } | changes

    def config(self, **changes: Any) -> dict[str, Any]:
        return {"introspection": self.block(**changes), "lookup_timeout_seconds": 10, "throttle": None}
