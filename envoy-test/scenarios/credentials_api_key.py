"""An API key has the name and scopes of its owner; an expired or mistyped key is refused."""

import secrets
from typing import Any

from authz.credentials.api_key.verifier import new_api_key
from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge


async def scenario(edge: Edge) -> None:
    old, old_hash = new_api_key("old", secrets.token_bytes)

    def configure(policy: dict[str, Any]) -> None:
        policy["credentials"]["api_keys"]["keys"].append(
            {
                "id": "old",
                "sha256": old_hash,
                "subject": "old",
                "scopes": ["orders:read"],
                "expires": "2020-01-01",
            }
        )

    await edge.change_policy(configure)
    good = await ask(edge.url, "/orders", headers={"x-api-key": edge.api_key})
    assert good.status == 200
    assert good.upstream_values("x-auth-subject") == ["reports"]
    assert good.upstream_values("x-auth-scopes") == ["orders:read"]
    # It has only its own scopes.
    assert (await ask(edge.url, "/orders", method="POST", headers={"x-api-key": edge.api_key})).status == 403
    other = edge.api_key[:-1] + ("A" if edge.api_key[-1] != "A" else "B")
    for bad in (old, other, f"unknown.{edge.api_key.partition('.')[2]}", "reports.", ""):
        assert (await ask(edge.url, "/orders", headers={"x-api-key": bad})).status == 401, bad
