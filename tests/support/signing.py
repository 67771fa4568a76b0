"""Keys, tokens and requests for tests of credentials."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from authz.request.request import Request
from protos.authz_pb2 import CheckRequest

NOW = 1_800_000_000.0
ISSUER = "https://idp.example.com"
AUDIENCE = "edge"

CURVES: dict[str, type[Any]] = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


@cache
def private_key(algorithm: str, number: int = 0) -> Any:
    """Return a private key for `algorithm`, the same one each time for each `number`."""
    if algorithm == "Ed448":
        return ed448.Ed448PrivateKey.generate()
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm in CURVES:
        return ec.generate_private_key(CURVES[algorithm]())
    return rsa_key(2048, number)


@cache
def rsa_key(bits: int, number: int = 0) -> rsa.RSAPrivateKey:
    """Return an RSA key of `bits`."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def jwk(key: Any, kid: str | None = "k1", **members: Any) -> dict[str, Any]:
    """Return the public half of `key` as a JWK."""
    kind = {"RSAPrivateKey": "RS256", "EllipticCurvePrivateKey": "ES256"}.get(
        type(key).__name__.removeprefix("_"), "EdDSA"
    )
    if isinstance(key, rsa.RSAPrivateKey):
        kind = "RS256"
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        kind = "ES256"
    public = dict(get_default_algorithms()[kind].to_jwk(key.public_key(), as_dict=True))
    public.pop("key_ops", None)
    return public | ({"kid": kid} if kid is not None else {}) | members


def key_set(*keys: Mapping[str, Any]) -> bytes:
    """Return a JWKS document."""
    return json.dumps({"keys": list(keys)}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    """Return the claims of a valid token at NOW; a change to None removes a claim."""
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "scope": "read write",
        "iat": NOW - 60,
        "exp": NOW + 600,
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def token(
    algorithm: str = "ES256",
    *,
    key: Any = None,
    kid: str | None = "k1",
    header: Mapping[str, Any] | None = None,
    **changes: Any,
) -> str:
    """Return a signed token with `changes` to the claims and `header` in the header."""
    signer = key if key is not None else private_key(algorithm)
    extra = dict(header or {}) | ({"kid": kid} if kid is not None else {})
    return jwt.encode(claims(**changes), signer, algorithm, headers=extra)


def ed_token(algorithm: str, key: Any, kid: str = "k1", **changes: Any) -> str:
    """Return a token signed with an Ed25519 or Ed448 key under any name of the algorithm."""
    signing_input = f"{encoded({'alg': algorithm, 'kid': kid})}.{encoded(claims(**changes))}"
    return f"{signing_input}.{encoded(key.sign(signing_input.encode()))}"


def raw_token(header: Any, payload: Any, signature: bytes = b"signature") -> str:
    """Return a token with any content; bytes are used unchanged."""
    return ".".join((encoded(header), encoded(payload), encoded(signature)))


def encoded(part: Any) -> str:
    """Return base64url of bytes, or of the JSON of another value."""
    content = part if isinstance(part, bytes) else json.dumps(part).encode()
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def request(
    *headers: tuple[str, str], path: str = "/", address: str = "", principal: str = "", trusted_hops: int = 0
) -> Request:
    """Return a request with these headers, as Envoy sends it with `encode_raw_headers`."""
    message = CheckRequest()
    source = message.attributes.source
    source.address.socket_address.address, source.principal = address, principal
    http = message.attributes.request.http
    http.method, http.host, http.path = "GET", "api.example.com", path
    for name, value in headers:
        http.header_map.headers.add(key=name, raw_value=value.encode("utf-8"))
    return Request(message, trusted_hops)


def bearer(text: str, address: str = "") -> Request:
    """Return a request with `text` as its bearer token."""
    return request(("authorization", f"Bearer {text}"), address=address)
