"""Keys come from a URL, by OpenID Connect Discovery or from a file, and verify only JWTs of their issuer."""

from typing import Any

import orjson

from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge
from sidecars.demo.idp import AUDIENCE, ISSUER
from sidecars.demo.rows import bearer

BY_URL, BY_FILE = "https://url.example", "https://file.example"


async def scenario(edge: Edge) -> None:
    origin = f"http://127.0.0.1:{edge.places.idp_port}"
    file = edge.places.folder / "keys.json"
    keys = edge.provider.key_set()["keys"]
    # The file has only the EC key, so a token of this issuer signed with the RSA key is refused.
    file.write_bytes(orjson.dumps({"keys": [key for key in keys if key["kid"] == "ec-1"]}))
    near: dict[str, Any] = {"allow_http": True, "allow_addresses": ["127.0.0.0/8"]}
    sources: dict[str, dict[str, Any]] = {
        ISSUER: {"discovery": f"{origin}/.well-known/openid-configuration", **near},
        BY_URL: {"url": f"{origin}/.well-known/jwks.json", **near},
        BY_FILE: {"file": str(file)},
    }

    def configure(policy: dict[str, Any]) -> None:
        policy["credentials"]["issuers"] = [
            {"issuer": issuer, "audiences": [AUDIENCE], "jwks": jwks} for issuer, jwks in sources.items()
        ]

    await edge.change_policy(configure)
    for issuer in sources:
        good = edge.provider.token("alice", "orders:read", kid="ec-1", iss=issuer)
        answer = await ask(edge.url, "/orders", headers=bearer(good))
        assert answer.status == 200, issuer
        assert answer.upstream_values("x-auth-subject") == ["alice"]
        # Accepted again, now from the cache.
        assert (await ask(edge.url, "/orders", headers=bearer(good))).status == 200

    stranger = edge.provider.token("alice", "orders:read", kid="rsa-1", iss=BY_FILE)
    assert (await ask(edge.url, "/orders", headers=bearer(stranger))).status == 401
    elsewhere = edge.provider.token("alice", "orders:read", iss=BY_URL, aud="https://other.example")
    assert (await ask(edge.url, "/orders", headers=bearer(elsewhere))).status == 401
