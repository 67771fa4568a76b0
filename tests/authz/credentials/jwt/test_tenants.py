"""One block for many tenants of an issuer, as Microsoft Entra has them."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from authz.credentials import Credentials
from authz.credentials.jwt.config import KeySetConfig
from authz.request.identity import Identity, RefusalReason
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.signing import AUDIENCE, bearer, jwk, key_set, private_key, token
from tests.support.waiting import until

Start = Callable[[Credentials], Any]

TEMPLATE = "https://login.example.com/{tenantid}/v2.0"
CONTOSO, FABRIKAM, STRANGER = "8f2c-contoso", "13d9-fabrikam", "77aa-stranger"
KEY = private_key("ES256")


def issuer_of(tenant: str) -> str:
    return TEMPLATE.replace("{tenantid}", tenant)


def of(tenant: str, kid: str = "shared", **changes: Any) -> str:
    return token(key=KEY, kid=kid, iss=issuer_of(tenant), **changes)


def block(*tenants: str, **changes: Any) -> dict[str, Any]:
    issuer = {
        "issuer": TEMPLATE,
        "tenants": list(tenants or (CONTOSO, FABRIKAM)),
        "audiences": [AUDIENCE],
        "algorithms": ["ES256"],
        "jwks": {"url": "https://login.example.com/common/keys"},
    } | changes
    return {"issuers": [issuer], "lookup_timeout_seconds": 5}


@pytest.fixture
def harness(harness: CredentialsHarness) -> CredentialsHarness:
    harness.key_server.document = key_set(
        jwk(KEY, "shared", issuer=TEMPLATE), jwk(KEY, "plain"), jwk(KEY, "own", issuer=issuer_of(CONTOSO))
    )
    return harness


async def test_each_tenant_that_is_listed_is_an_issuer_and_no_other_is(
    harness: CredentialsHarness, started: Start
) -> None:
    credentials = await started(harness.credentials(block()))
    for tenant in (CONTOSO, FABRIKAM):
        found = harness.outcome(credentials, bearer(of(tenant)))
        assert isinstance(found, Identity)
        assert found.issuer == issuer_of(tenant)
    for other in (STRANGER, "{tenantid}", "", f"{CONTOSO}/../{STRANGER}", CONTOSO.upper()):
        assert reason_of(harness.outcome(credentials, bearer(of(other)))) == RefusalReason.ISSUER_UNKNOWN


async def test_they_share_one_key_set(harness: CredentialsHarness, started: Start) -> None:
    credentials = await started(harness.credentials(block()))
    [source] = credentials._serving.remote_keys()
    assert harness.key_server.calls == 1
    [answered] = credentials.describe()["issuers"]
    assert (answered["issuer"], answered["tenants"]) == (TEMPLATE, 2)
    assert answered["key_set"] == source.describe()
    assert harness.metric("authz_key_set_keys", issuer=TEMPLATE) == 3


async def test_a_key_of_one_tenant_proves_nothing_of_another(
    harness: CredentialsHarness, started: Start
) -> None:
    """Entra, "validate the signing key's issuer": its key set names who each key is for."""
    credentials = await started(harness.credentials(block()))
    assert isinstance(harness.outcome(credentials, bearer(of(CONTOSO, "own"))), Identity)
    assert isinstance(harness.outcome(credentials, bearer(of(FABRIKAM, "plain"))), Identity)
    found = await harness.awaited(credentials, bearer(of(FABRIKAM, "own")))
    assert reason_of(found) == RefusalReason.KEY_UNKNOWN


async def test_the_discovery_document_names_the_template(harness: CredentialsHarness, started: Start) -> None:
    document = orjson.dumps({"issuer": TEMPLATE, "jwks_uri": "https://login.example.com/common/keys"})
    keys = harness.key_server.document
    at = "https://login.example.com/common/v2.0/.well-known/openid-configuration"

    async def fetch(config: KeySetConfig) -> bytes:
        assert isinstance(keys, bytes)
        return document if config.url == at else keys

    harness.key_server.fetch = fetch  # type: ignore[assignment,method-assign]
    credentials = await started(harness.credentials(block(jwks={"discovery": at})))
    assert isinstance(harness.outcome(credentials, bearer(of(CONTOSO))), Identity)


class TestReload:
    async def test_a_tenant_comes_and_the_others_go_on(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        credentials = await started(harness.credentials(block(CONTOSO)))
        kept = of(CONTOSO)
        harness.outcome(credentials, bearer(kept))
        credentials.prepare(harness.config(block(CONTOSO, FABRIKAM)))()
        assert isinstance(harness.outcome(credentials, bearer(kept)), Identity)
        assert isinstance(harness.outcome(credentials, bearer(of(FABRIKAM))), Identity)
        assert harness.metric("authz_identity_cache_lookups_total", result="hit") == 1

    async def test_what_a_tenant_that_goes_has_proven_is_void(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        credentials = await started(harness.credentials(block(FABRIKAM, CONTOSO)))
        texts = [of(CONTOSO), of(FABRIKAM)]
        assert all(isinstance(harness.outcome(credentials, bearer(text)), Identity) for text in texts)
        credentials.prepare(harness.config(block(CONTOSO)))()
        assert isinstance(harness.outcome(credentials, bearer(texts[0])), Identity)
        assert reason_of(harness.outcome(credentials, bearer(texts[1]))) == RefusalReason.ISSUER_UNKNOWN
        await until(lambda: harness.key_server.calls == 2)

    def test_a_file_of_keys_is_read_again_for_all(self, harness: CredentialsHarness) -> None:
        harness.write("keys.json", key_set(jwk(KEY, "one")))
        config = block(jwks={"file": "keys.json"})
        credentials = harness.credentials(config)
        assert isinstance(harness.outcome(credentials, bearer(of(CONTOSO, "one"))), Identity)
        harness.write("keys.json", key_set(jwk(KEY, "two")))
        credentials.prepare(harness.config(config))()
        for tenant in (CONTOSO, FABRIKAM):
            assert isinstance(harness.outcome(credentials, bearer(of(tenant, "two"))), Identity)
            assert (
                reason_of(harness.outcome(credentials, bearer(of(tenant, "one"))))
                == RefusalReason.KEY_RETIRED
            )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tenants": []}, "list the tenants"),
        ({"issuer": "https://login.example.com/common"}, "must hold {tenantid} exactly once"),
        ({"issuer": TEMPLATE + "/{tenantid}"}, "must hold {tenantid} exactly once"),
        ({"tenants": ["a", "a"]}, "duplicate issuer"),
        ({"tenants": ["a/b"]}, "tenants"),
        ({"tenants": ["{tenantid}"]}, "tenants"),
        ({"jwks": {"discovery": True}}, "discovery must be the URL"),
    ],
    ids=str,
)
def test_a_template_that_means_nothing_is_a_configuration_error(
    harness: CredentialsHarness, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        harness.config(block(**changes))


def test_an_issuer_may_not_be_a_tenant_of_another_block_too(harness: CredentialsHarness) -> None:
    both = block()["issuers"] + [block()["issuers"][0] | {"issuer": issuer_of(CONTOSO), "tenants": []}]
    with pytest.raises(ValueError, match="duplicate issuer"):
        harness.config({"issuers": both})
