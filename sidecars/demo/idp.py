"""The demo's identity provider: it signs tokens, good and bad, and publishes its keys."""

import asyncio
import hmac
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import jwt
import orjson
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.utils import base64url_encode

from sidecars.demo.idp_code_flow import CodeFlow
from sidecars.demo.upstream import serve_application

ISSUER: Final = "https://idp.example"
AUDIENCE: Final = "https://api.example"
TOKEN_SECONDS: Final = 3600
MAX_TOKEN_SECONDS: Final = 24 * 3600

SigningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class IdentityProvider:
    """Signs with keys made at each start: `rsa-1` (RS256, the default) and `ec-1` (ES256)."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._ec = ec.generate_private_key(ec.SECP256R1())
        self.code_flow = CodeFlow(ISSUER, self.token, wall_clock)

    def key_set(self) -> dict[str, Any]:
        """Return the public keys (RFC 7517)."""
        rsa_key = RSAAlgorithm.to_jwk(self._rsa.public_key(), as_dict=True)
        ec_key = ECAlgorithm.to_jwk(self._ec.public_key(), as_dict=True)
        return {
            "keys": [
                {**rsa_key, "kid": "rsa-1", "alg": "RS256", "use": "sig"},
                {**ec_key, "kid": "ec-1", "alg": "ES256", "use": "sig"},
            ]
        }

    def token(self, subject: str, scope: str = "", *, kid: str = "rsa-1", **claims: Any) -> str:
        """Return a signed access token for an hour; `claims` replace the defaults (iss, aud, exp, ...)."""
        key, algorithm = (self._ec, "ES256") if kid == "ec-1" else (self._rsa, "RS256")
        return self._sign(self._claims(subject, scope, claims), key, algorithm, kid)

    def expired_token(self, subject: str, scope: str = "") -> str:
        """Return a token that expired an hour ago."""
        now = int(self._wall_clock())
        return self.token(subject, scope, iat=now - 2 * TOKEN_SECONDS, exp=now - TOKEN_SECONDS)

    def unsigned_token(self, subject: str, scope: str = "") -> str:
        """Return a token with `alg: none` and no signature (RFC 8725 section 3.2)."""
        return jwt.encode(self._claims(subject, scope, {}), "", algorithm="none", headers={"kid": "rsa-1"})

    def forged_token(self, subject: str, scope: str = "") -> str:
        """Return a token that names our key but is signed with another."""
        stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        return self._sign(self._claims(subject, scope, {}), stranger, "RS256", "rsa-1")

    def confused_token(self, subject: str, scope: str = "") -> str:
        """Return a token with our public key as HMAC secret (RFC 8725 section 2.1, CVE-2022-29217)."""
        public = self._rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        # Made by hand, because PyJWT refuses to sign it.
        header = {"alg": "HS256", "kid": "rsa-1", "typ": "JWT"}
        parts = (header, self._claims(subject, scope, {}))
        signed = b".".join(base64url_encode(orjson.dumps(part)) for part in parts)
        return b".".join((signed, base64url_encode(hmac.digest(public, signed, "sha256")))).decode()

    def application(self) -> web.Application:
        """Return an application with the key set, the OpenID configuration, `/authorize` and `/token`."""
        application = web.Application()
        application.router.add_get("/.well-known/jwks.json", self._answer_keys)
        application.router.add_get("/.well-known/openid-configuration", self._answer_discovery)
        application.router.add_post("/token", self._answer_token)
        application.router.add_get("/authorize", self.code_flow.authorize)
        application.router.add_post("/authorize", self.code_flow.authorize)
        return application

    def _claims(self, subject: str, scope: str, others: Mapping[str, Any]) -> dict[str, Any]:
        now = int(self._wall_clock())
        usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + TOKEN_SECONDS}
        return {**usual, **({"scope": scope} if scope else {}), **others}

    @staticmethod
    def _sign(claims: Mapping[str, Any], key: SigningKey, algorithm: str, kid: str) -> str:
        return jwt.encode(dict(claims), key, algorithm=algorithm, headers={"kid": kid})

    async def _answer_keys(self, _request: web.Request) -> web.Response:
        return web.json_response(self.key_set(), headers={"cache-control": "public, max-age=300"})

    async def _answer_discovery(self, request: web.Request) -> web.Response:
        origin = f"{request.scheme}://{request.host}"
        document = {
            "issuer": ISSUER,
            "jwks_uri": f"{origin}/.well-known/jwks.json",
            "authorization_endpoint": f"{origin}/authorize",
            "token_endpoint": f"{origin}/token",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            "authorization_response_iss_parameter_supported": True,
        }
        return web.json_response(document)

    async def _answer_token(self, request: web.Request) -> web.Response:
        form = await request.post()
        if "grant_type" in form:
            return self._answer_code(form, request.headers.get("Authorization", ""))
        # Without a grant: a token for any caller, to try things with curl.
        subject, scope, seconds = (str(form.get(name, "")) for name in ("subject", "scope", "seconds"))
        if not subject or not (seconds or "0").isascii() or not (seconds or "0").isdigit():
            return web.json_response({"error": "invalid_request"}, status=400)
        lifetime_seconds = min(int(seconds or TOKEN_SECONDS), MAX_TOKEN_SECONDS)
        token = self.token(subject, scope, exp=int(self._wall_clock()) + lifetime_seconds)
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": lifetime_seconds}
        return web.Response(body=orjson.dumps(answer), content_type="application/json")

    def _answer_code(self, form: Mapping[str, Any], authorization: str) -> web.Response:
        if form["grant_type"] != "authorization_code":
            return web.json_response({"error": "unsupported_grant_type"}, status=400)
        status, answer = self.code_flow.exchange(form, authorization)
        return web.json_response(answer, status=status, headers={"cache-control": "no-store"})


@asynccontextmanager
async def serve_idp(provider: IdentityProvider, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Serve `provider` during the block; yield the bound port."""
    async with serve_application(provider.application(), host, port) as bound:
        yield bound


async def main(host: str, port: int) -> None:
    """Serve until the process ends."""
    async with serve_idp(IdentityProvider(time.time), host, port) as bound:
        origin = f"http://{host}:{bound}"
        sys.stderr.write(f"identity provider on {origin}; a token: curl -d subject=alice {origin}/token\n")
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 9080))
