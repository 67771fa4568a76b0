"""Requests at Envoy as they are in production, and the best case of one that repeats.

In production each request has another path, query and traceparent, and comes from one of many callers with a
token each, some of whom send most of the requests (Zipf).
"""

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from bench.authz import AUDIENCE, ISSUER

HOST = "api.example.com"
SERVICES = 100
SEED = 16
TOKEN_SECONDS = 6 * 3600


@dataclass(frozen=True, slots=True)
class Population:
    """How many callers there are, and how many different requests are sent before they repeat."""

    callers: int
    requests: int
    zipf_exponent: float = 1.0


class Issuer:
    """Signs tokens with one RS256 key.

    The folder has the public key in `keys.json`, and the private one in `key.pem`, so that a server that was
    started with these keys can be measured again.
    """

    def __init__(self, folder: Path) -> None:
        file = folder / "key.pem"
        if file.exists():
            key = serialization.load_pem_private_key(file.read_bytes(), None)
            assert isinstance(key, rsa.RSAPrivateKey)  # noqa: S101  # we wrote it
            self._key = key
        else:
            self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            file.touch(mode=0o600)
            file.write_bytes(
                self._key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        keys = {"keys": [{**public, "kid": "bench", "alg": "RS256"}]}
        (folder / "keys.json").write_bytes(orjson.dumps(keys))

    def token(self, subject: str) -> str:
        """Return a token of the subject."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "iat": now,
            "exp": now + TOKEN_SECONDS,
            "scope": "orders:read orders:write",
            "tenant": "acme",
        }
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": "bench"})


def policy(rules: int = SERVICES) -> str:
    """Return a policy with a rule for each service, which reads the keys of the Issuer."""
    lines = [
        "credentials:\n  issuers:\n",
        f"    - {{issuer: {ISSUER!r}, audiences: [{AUDIENCE!r}], jwks: {{file: keys.json}}}}\nrules:\n",
    ]
    lines += [
        f"  - name: service-{number}\n    owner: team-{number % 20}\n    hosts: [{HOST}]\n"
        f"    methods: [GET, POST]\n"
        f"    paths: [/service-{number}/orders, '/service-{number}/orders/{{id}}']\n"
        "    allow: {scopes: ['orders:read']}\n"
        for number in range(rules)
    ]
    return "".join(lines)


def senders(population: Population) -> list[int]:
    """Return the number of the caller of each request: caller n sends 1/n as many as the first one (Zipf)."""
    weights = itertools.accumulate(
        1 / rank**population.zipf_exponent for rank in range(1, population.callers + 1)
    )
    return random.Random(SEED).choices(
        range(population.callers), cum_weights=list(weights), k=population.requests
    )


def realistic_requests(tokens: list[str], population: Population) -> Iterator[bytes]:
    """Yield requests that all differ."""
    chance = random.Random(SEED)
    for number, sender in enumerate(senders(population)):
        token = tokens[sender]
        target = f"/service-{chance.randrange(SERVICES)}/orders/{number}?page={chance.randrange(1000)}"
        trace, span = chance.getrandbits(128), chance.getrandbits(64)
        yield http_request(target, token, f"00-{trace:032x}-{span:016x}-01")


def best_case_request(token: str) -> bytes:
    """Return the request that is repeated."""
    return http_request("/service-50/orders/42?fields=total", token)


def http_request(target: str, token: str, traceparent: str = "") -> bytes:
    """Return a browser's request as bytes."""
    lines = [
        f"GET {target} HTTP/1.1",
        f"host: {HOST}",
        "accept: application/json, text/plain, */*",
        "accept-encoding: gzip, deflate, br, zstd",
        "accept-language: en-GB,en;q=0.9,de;q=0.8",
        f"authorization: Bearer {token}",
        "referer: https://app.example.com/orders",
        "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)",
        *([f"traceparent: {traceparent}"] if traceparent else []),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
