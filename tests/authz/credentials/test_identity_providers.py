"""The recipes of docs/identity-providers.md, against tokens and key sets as the providers document them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from authz.credentials import Credentials
from authz.credentials.jwt.config import KeySetConfig
from authz.request.identity import Identity, RefusalReason
from tests.support.authority import Authority
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.signing import NOW, bearer, jwk, key_set, private_key, rsa_key, token

Start = Callable[[Credentials], Any]

PAGE = (Path(__file__).parents[3] / "docs" / "identity-providers.md").read_text(encoding="utf-8")
SECTIONS = {
    heading: re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for heading, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}
RECIPES = {heading: blocks for heading, blocks in SECTIONS.items() if blocks}

SIGNER, ENCRYPTER = private_key("RS256"), rsa_key(2048, 9)
FIREBASE_KEYS = "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com"
KEYCLOAK = "https://sso.example.com/realms/shop"
KUBERNETES_CA = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"

TENANT = "8f2c1f6e-0000-4000-8000-000000000001"
OTHER_TENANT = "13d9a7b2-0000-4000-8000-000000000002"
API = "6e74172b-0000-4000-8000-000000000003"

MISSING, AUDIENCE = RefusalReason.CLAIM_MISSING, RefusalReason.AUDIENCE_MISMATCH
UNKNOWN, TYPE = RefusalReason.ISSUER_UNKNOWN, RefusalReason.TOKEN_TYPE


@dataclass(frozen=True)
class Provider:
    """What one provider publishes and issues."""

    claims: Mapping[str, Any]
    """The claims of a good token."""
    subject: str
    documents: Mapping[str, Any]
    """By URL; a list is the key set, a text is the `jwks_uri` of an OpenID configuration."""
    scopes: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    bad: tuple[tuple[Mapping[str, Any], RefusalReason], ...] = ()
    """Changes to the claims that make another kind of token, and how that is refused."""
    header: Mapping[str, Any] = field(default_factory=lambda: {"typ": "JWT"})
    recipe: int = 0
    """Which block of the section."""
    named: str = ""
    """The issuer that the OpenID configuration names, where it is another than the token's."""


SIGNING = jwk(SIGNER, "k1", use="sig", alg="RS256")
SECOND = jwk(rsa_key(2048, 8), "k3", use="sig", alg="RS256")
ENCRYPTING = jwk(ENCRYPTER, "k2", use="enc", alg="RSA-OAEP", x5c=["MIIB"], x5t="AA")
CERTIFIED = SIGNING | {"x5t": "AA", "x5c": ["MIIB"]}
UNNAMED = jwk(SIGNER, "k1", use="sig", x5c=["MIIB"], x5t="k1")
"""Without `alg`, as Entra and GitHub publish some."""


def discovered(at: str, keys: str, *entries: Mapping[str, Any]) -> dict[str, Any]:
    """An OpenID configuration below `at`, and the key set it leads to; `keys` may be a path below."""
    keys = at + keys if keys.startswith("/") else keys
    return {f"{at}/.well-known/openid-configuration": keys, keys: list(entries)}


COGNITO = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_EXAMPLE"
ENTRA = "https://login.microsoftonline.com"
OF_TENANT = UNNAMED | {"issuer": f"{ENTRA}/{TENANT}/v2.0"}
OF_ALL = UNNAMED | {"issuer": ENTRA + "/{tenantid}/v2.0"}
ENTRA_V2 = {
    "aud": API, "ver": "2.0", "oid": "o-1", "sub": "pairwise", "tid": TENANT, "azp": "client",
    "scp": "orders.read orders.write", "roles": ["Reader"],
}  # fmt: skip

PROVIDERS: dict[str, Provider] = {
    "Amazon Cognito": Provider(
        {
            "iss": COGNITO, "aud": None, "sub": "u-1", "token_use": "access", "client_id": "1example23456789",
            "scope": "openid orders/read", "cognito:groups": ["admins"], "username": "alice",
        },
        "u-1",
        discovered(COGNITO, "/.well-known/jwks.json", SIGNING, SECOND),
        frozenset({"openid", "orders/read"}),
        frozenset({"admins"}),
        (
            ({"token_use": "id", "aud": "1example23456789", "client_id": None}, MISSING),
            ({"client_id": "another"}, MISSING),
            ({"iss": COGNITO + "2"}, UNKNOWN),
        ),
        header={"typ": None},
    ),
    "Microsoft Entra v2": Provider(
        {"iss": f"{ENTRA}/{TENANT}/v2.0"} | ENTRA_V2,
        "o-1",
        discovered(f"{ENTRA}/{TENANT}/v2.0", f"{ENTRA}/{TENANT}/discovery/v2.0/keys", OF_TENANT),
        frozenset({"orders.read", "orders.write"}),
        frozenset({"Reader"}),
        (
            ({"aud": "00000003-0000-0000-c000-000000000000"}, AUDIENCE),
            ({"iss": f"{ENTRA}/{OTHER_TENANT}/v2.0"}, UNKNOWN),
            ({"iss": f"https://sts.windows.net/{TENANT}/", "ver": "1.0"}, UNKNOWN),
            ({"oid": None}, MISSING),
        ),
    ),
    "Microsoft Entra v2, several tenants": Provider(
        {"iss": f"{ENTRA}/{OTHER_TENANT}/v2.0"} | ENTRA_V2 | {"tid": OTHER_TENANT},
        "o-1",
        discovered(f"{ENTRA}/common/v2.0", f"{ENTRA}/common/discovery/v2.0/keys", OF_ALL),
        frozenset({"orders.read", "orders.write"}),
        frozenset({"Reader"}),
        (({"iss": f"{ENTRA}/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0"}, UNKNOWN),),
        recipe=1,
        named=ENTRA + "/{tenantid}/v2.0",
    ),
    "Microsoft Entra v1": Provider(
        {
            "iss": f"https://sts.windows.net/{TENANT}/", "aud": f"api://{API}", "ver": "1.0", "oid": "o-1",
            "sub": "pairwise", "tid": TENANT, "scp": "orders.read", "appid": "client",
        },
        "o-1",
        discovered(f"{ENTRA}/{TENANT}", f"{ENTRA}/{TENANT}/discovery/keys", UNNAMED),
        frozenset({"orders.read"}),
        bad=(
            ({"iss": f"https://sts.windows.net/{TENANT}"}, UNKNOWN),
            ({"aud": API}, AUDIENCE),
        ),
        header={"typ": "JWT", "x5t": "k1"},
    ),
    "Auth0": Provider(
        {
            "iss": "https://example.eu.auth0.com/", "sub": "auth0|1", "azp": "client",
            "aud": ["https://api.example.com", "https://example.eu.auth0.com/userinfo"],
            "scope": "openid profile", "permissions": ["orders:read"],
            "https://api.example.com/roles": ["support"],
        },
        "auth0|1",
        discovered("https://example.eu.auth0.com", "/.well-known/jwks.json", CERTIFIED),
        frozenset({"orders:read"}),
        frozenset({"support"}),
        (
            ({"aud": "client"}, AUDIENCE),
            ({"iss": "https://example.eu.auth0.com"}, UNKNOWN),
        ),
        header={"typ": "at+jwt"},
    ),
    "Keycloak": Provider(
        {
            "iss": KEYCLOAK, "aud": ["orders-api", "account"], "sub": "u-1",
            "typ": "Bearer", "azp": "web", "scope": "openid email", "sid": "s-1", "acr": "1",
            "realm_access": {"roles": ["offline_access", "admin"]},
            "resource_access": {"account": {"roles": ["manage-account"]}},
        },
        "u-1",
        discovered(KEYCLOAK, "/protocol/openid-connect/certs", ENCRYPTING, SIGNING),
        frozenset({"openid", "email"}),
        frozenset({"offline_access", "admin"}),
        (
            ({"typ": "ID", "aud": "orders-api"}, MISSING),
            ({"typ": "Offline"}, MISSING),
            ({"aud": "account"}, AUDIENCE),
        ),
    ),
    "Okta": Provider(
        {
            "iss": "https://example.okta.com/oauth2/default", "aud": "api://default",
            "cid": "0oaEXAMPLEclient", "uid": "00u1", "sub": "alice@example.com", "scp": ["orders.read"],
            "groups": ["Everyone"], "ver": 1,
        },
        "alice@example.com",
        discovered("https://example.okta.com/oauth2/default", "/v1/keys", SIGNING),
        frozenset({"orders.read"}),
        frozenset({"Everyone"}),
        (
            ({"iss": "https://example.okta.com", "aud": "https://example.okta.com"}, UNKNOWN),
            ({"cid": "another"}, MISSING),
            ({"aud": "0oaEXAMPLEclient", "cid": None}, MISSING),
        ),
        header={"typ": None},
    ),
    "Google": Provider(
        {
            "iss": "https://accounts.google.com", "aud": "1234567890-example.apps.googleusercontent.com",
            "azp": "1234567890-example.apps.googleusercontent.com", "sub": "110169484474386276334",
            "email": "alice@example.com", "email_verified": True, "hd": "example.com", "at_hash": "HK6E",
        },
        "alice@example.com",
        discovered("https://accounts.google.com", "https://www.googleapis.com/oauth2/v3/certs", SIGNING),
        bad=(
            ({"hd": None, "email": "mallory@gmail.com"}, MISSING),
            ({"email_verified": False}, MISSING),
            ({"aud": "another.apps.googleusercontent.com"}, AUDIENCE),
            ({"iss": "accounts.google.com"}, UNKNOWN),
        ),
    ),
    "Firebase": Provider(
        {
            "iss": "https://securetoken.google.com/example-project", "aud": "example-project", "sub": "uid-1",
            "user_id": "uid-1", "auth_time": NOW - 60, "roles": ["editor"],
            "firebase": {"identities": {}, "sign_in_provider": "password"},
        },
        "uid-1",
        {FIREBASE_KEYS: [SIGNING]},
        roles=frozenset({"editor"}),
        bad=(
            ({"firebase": {"sign_in_provider": "anonymous"}}, RefusalReason.CLAIM_FORBIDDEN),
            ({"aud": "another-project"}, AUDIENCE),
            ({"iss": "https://securetoken.google.com/another-project"}, UNKNOWN),
        ),
    ),
    "GitHub Actions": Provider(
        {
            "iss": "https://token.actions.githubusercontent.com", "aud": "https://deploy.example.com",
            "sub": "repo:example/shop:ref:refs/heads/main", "repository": "example/shop",
            "repository_owner_id": "123456", "ref": "refs/heads/main", "event_name": "push",
        },
        "repo:example/shop:ref:refs/heads/main",
        discovered("https://token.actions.githubusercontent.com", "/.well-known/jwks", CERTIFIED),
        bad=(
            ({"repository_owner_id": "666", "sub": "repo:mallory/shop:ref:refs/heads/main"}, MISSING),
            ({"aud": "https://github.com/example"}, AUDIENCE),
        ),
        header={"typ": "JWT", "x5t": "AA"},
    ),
    "Kubernetes": Provider(
        {
            "iss": "https://kubernetes.default.svc.cluster.local", "aud": ["https://orders.example.com"],
            "sub": "system:serviceaccount:shop:frontend",
            "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "frontend", "uid": "u"}},
        },
        "system:serviceaccount:shop:frontend",
        {"https://kubernetes.default.svc/openid/v1/jwks": [SIGNING]},
        bad=(
            ({"kubernetes.io": {"namespace": "test"}, "sub": "system:serviceaccount:test:frontend"}, MISSING),
            ({"aud": ["https://kubernetes.default.svc.cluster.local"]}, AUDIENCE),
            ({"exp": None}, MISSING),  # a legacy token of a Secret
        ),
        header={"typ": None},
    ),
    "Zitadel": Provider(
        {
            "iss": "https://example.zitadel.cloud", "aud": ["220000000000000001", "client"],
            "sub": "163840776835432705",
            "urn:zitadel:iam:org:project:roles": {"admin": {"1": "a.example"}, "reader": {"1": "a.example"}},
        },
        "163840776835432705",
        discovered("https://example.zitadel.cloud", "/oauth/v2/keys", SIGNING),
        roles=frozenset({"admin", "reader"}),
        bad=(({"aud": ["client"]}, AUDIENCE),),
    ),
}  # fmt: skip


def served(provider: Provider) -> dict[str, bytes]:
    """What the provider answers, by URL."""
    configuration = {"issuer": provider.named or provider.claims["iss"]}
    return {
        url: key_set(*found) if isinstance(found, list) else orjson.dumps(configuration | {"jwks_uri": found})
        for url, found in provider.documents.items()
    }


def issued(provider: Provider, **changes: Any) -> str:
    scope = {"scope": None} if "scope" not in provider.claims else {}
    return token("RS256", header=provider.header, **(dict(provider.claims) | scope | changes))


@pytest.fixture(params=PROVIDERS)
async def asked(
    request: pytest.FixtureRequest,
    harness: CredentialsHarness,
    started: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Provider, Credentials]:
    name = request.param
    provider = PROVIDERS[name]
    documents = served(provider)

    async def fetch(config: KeySetConfig) -> bytes:
        return documents[config.url or ""]

    monkeypatch.setattr(harness.key_server, "fetch", fetch)
    harness.write("ca.crt", Authority("cluster").certificate)
    recipe = RECIPES[name.partition(",")[0]][provider.recipe].replace(KUBERNETES_CA, "ca.crt")
    credentials = await started(harness.credentials(yaml.safe_load(recipe)["credentials"]))
    return provider, credentials


async def test_a_token_of_the_provider_is_accepted(
    harness: CredentialsHarness, asked: tuple[Provider, Credentials]
) -> None:
    provider, credentials = asked
    found = harness.outcome(credentials, bearer(issued(provider)))
    assert isinstance(found, Identity), found
    assert found.subject == provider.subject
    assert (found.scopes, found.roles) == (provider.scopes, provider.roles)


async def test_its_tokens_of_another_kind_or_for_others_are_not(
    harness: CredentialsHarness, asked: tuple[Provider, Credentials]
) -> None:
    provider, credentials = asked
    assert provider.bad
    for changes, reason in provider.bad:
        found = harness.outcome(credentials, bearer(issued(provider, **changes)))
        assert reason_of(found) == reason, changes


def test_each_recipe_has_a_provider() -> None:
    tested = [(name.partition(",")[0], provider.recipe) for name, provider in PROVIDERS.items()]
    assert sorted(tested) == sorted((name, n) for name, blocks in RECIPES.items() for n in range(len(blocks)))
