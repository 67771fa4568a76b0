import base64
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
import orjson
import pytest

from sidecars.demo.ask import ask
from sidecars.demo.idp import AUDIENCE, ISSUER, TOKEN_SECONDS, IdentityProvider, serve_idp
from sidecars.demo.idp_code_flow import CODE_SECONDS, Client, challenge_of

NOW = 1_700_000_000.0


@pytest.fixture(scope="module")
def provider() -> IdentityProvider:
    return IdentityProvider(lambda: NOW)


def verified(provider: IdentityProvider, token: str) -> dict[str, object]:
    """Return the claims of `token` after verification with the published keys."""
    keys = {key["kid"]: jwt.PyJWK(key) for key in provider.key_set()["keys"]}
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims: dict[str, object] = jwt.decode(
        token, key, algorithms=["RS256", "ES256"], audience=AUDIENCE, options={"verify_exp": False}
    )
    return claims


@pytest.mark.parametrize("kid", ["rsa-1", "ec-1"])
def test_its_tokens_are_signed_by_the_keys_it_publishes(provider: IdentityProvider, kid: str) -> None:
    assert verified(provider, provider.token("alice", "orders:read", kid=kid)) == {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "scope": "orders:read",
        "iat": NOW,
        "exp": NOW + TOKEN_SECONDS,
    }


def test_it_publishes_no_private_part_of_a_key(provider: IdentityProvider) -> None:
    """RFC 7518 sections 6.2.2 and 6.3.2 list the private members."""
    for key in provider.key_set()["keys"]:
        assert not key.keys() & {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}


def test_its_bad_tokens_are_bad(provider: IdentityProvider) -> None:
    assert jwt.get_unverified_header(provider.unsigned_token("alice"))["alg"] == "none"
    assert jwt.get_unverified_header(provider.confused_token("alice"))["alg"] == "HS256"
    with pytest.raises(jwt.InvalidSignatureError):
        verified(provider, provider.forged_token("alice"))
    assert verified(provider, provider.expired_token("alice"))["exp"] == NOW - TOKEN_SECONDS


async def test_it_issues_a_token_over_http(provider: IdentityProvider) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    async with serve_idp(provider) as port:
        origin = f"http://127.0.0.1:{port}"
        answer = await ask(
            origin, "/token", method="POST", headers=form, body=b"subject=bob&scope=a+b&seconds=60"
        )
        refused = await ask(origin, "/token", method="POST", headers=form, body=b"scope=a")
        keys = await ask(origin, "/.well-known/jwks.json")
    claims = verified(provider, orjson.loads(answer.body)["access_token"])
    assert (claims["sub"], claims["scope"], claims["exp"]) == ("bob", "a b", NOW + 60)
    assert refused.status == 400
    assert b'"kid": "rsa-1"' in keys.body


CLIENT = Client("shop", "s3cret", "https://shop.example/callback")
VERIFIER = "v" * 43


class Flow:
    """The code flow of a provider on a clock that moves only when a test moves it."""

    def __init__(self) -> None:
        self.now = NOW
        self.provider = IdentityProvider(lambda: self.now)
        self.provider.code_flow.register(CLIENT)

    async def code(self) -> str:
        query = urlencode(
            {
                "client_id": CLIENT.id,
                "redirect_uri": CLIENT.redirect_uri,
                "response_type": "code",
                "scope": "openid",
                "state": "s",
                "nonce": "n",
                "code_challenge": challenge_of(VERIFIER),
                "code_challenge_method": "S256",
            }
        )
        form = {"content-type": "application/x-www-form-urlencoded"}
        async with serve_idp(self.provider) as port:
            origin = f"http://127.0.0.1:{port}"
            sent = await ask(
                origin, f"/authorize?{query}", method="POST", headers=form, body=b"subject=alice"
            )
        assert sent.status == 303
        found = parse_qs(urlsplit(sent.headers["location"]).query)
        assert (found["state"], found["iss"]) == (["s"], [ISSUER])
        return found["code"][0]

    def exchange(self, code: str, secret: str = CLIENT.secret, **changes: str) -> tuple[int, dict[str, Any]]:
        form = {"code": code, "redirect_uri": CLIENT.redirect_uri, "code_verifier": VERIFIER, **changes}
        basic = base64.b64encode(f"{CLIENT.id}:{secret}".encode()).decode()
        return self.provider.code_flow.exchange(form, f"Basic {basic}")


class TestCodeFlow:
    """RFC 6749 section 4.1 with RFC 7636, and OpenID Connect Core 1.0 section 3.1."""

    async def test_a_code_becomes_an_id_token_for_the_client(self) -> None:
        flow = Flow()
        status, answer = flow.exchange(await flow.code())
        assert status == 200
        keys = {key["kid"]: jwt.PyJWK(key) for key in flow.provider.key_set()["keys"]}
        claims = jwt.decode(
            answer["id_token"],
            keys["rsa-1"],
            algorithms=["RS256"],
            audience=CLIENT.id,
            options={"verify_exp": False, "verify_iat": False},
        )
        assert (claims["iss"], claims["sub"], claims["nonce"], claims["auth_time"]) == (
            ISSUER,
            "alice",
            "n",
            NOW,
        )
        assert claims["sid"]

    async def test_a_code_is_good_once(self) -> None:
        flow = Flow()
        code = await flow.code()
        assert [flow.exchange(code)[0] for _ in range(2)] == [200, 400]

    async def test_a_code_is_good_for_a_minute(self) -> None:
        flow = Flow()
        code = await flow.code()
        flow.now += CODE_SECONDS + 1
        assert flow.exchange(code) == (400, {"error": "invalid_grant"})

    @pytest.mark.parametrize(
        "changes",
        [{"code_verifier": "w" * 43}, {"code_verifier": ""}, {"redirect_uri": "https://evil.example"}],
    )
    async def test_a_stolen_code_is_worth_nothing(self, changes: dict[str, str]) -> None:
        flow = Flow()
        assert flow.exchange(await flow.code(), **changes) == (400, {"error": "invalid_grant"})

    async def test_the_client_needs_its_secret(self) -> None:
        flow = Flow()
        assert flow.exchange(await flow.code(), secret="wrong") == (401, {"error": "invalid_client"})
        for header in ("", "Bearer x", "Basic !", "Basic c2hvcA=="):
            assert flow.provider.code_flow.exchange({}, header)[0] == 401


def test_the_challenge_is_that_of_the_rfc() -> None:
    """RFC 7636 appendix B."""
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert challenge_of(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"  # codespell:ignore
