import jwt
import orjson
import pytest

from sidecars.demo.ask import ask
from sidecars.demo.idp import AUDIENCE, ISSUER, TOKEN_SECONDS, IdentityProvider, serve_idp

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
