"""What is remembered of tokens, and what voids it."""

from authz.request.identity import Authentication, Identity, Refusal, RefusalReason
from tests.support.credentials import CredentialsHarness
from tests.support.signing import NOW, bearer, jwk, private_key, token


def reason(outcome: Authentication) -> RefusalReason:
    assert isinstance(outcome, Refusal), outcome
    return outcome.reason


def test_a_token_is_verified_once(harness: CredentialsHarness, verifications: list[str]) -> None:
    credentials = harness.credentials({"issuers": [harness.issuer()]})
    text = token()
    outcomes = [harness.outcome(credentials, bearer(text)) for _ in range(3)]
    assert len(verifications) == 1
    assert outcomes[0] is outcomes[1] is outcomes[2]


def test_a_verified_token_is_not_remembered_past_its_exp(
    harness: CredentialsHarness, verifications: list[str]
) -> None:
    credentials = harness.credentials({"issuers": [harness.issuer(leeway_seconds=0)]})
    text = token(exp=NOW + 10)
    harness.outcome(credentials, bearer(text))
    harness.clock.advance(10)
    assert reason(harness.outcome(credentials, bearer(text))) == RefusalReason.TOKEN_EXPIRED
    assert len(verifications) == 2


def test_a_verified_token_is_remembered_no_longer_than_configured(
    harness: CredentialsHarness, verifications: list[str]
) -> None:
    credentials = harness.credentials({"issuers": [harness.issuer()], "cache": {"ttl_seconds": 60}})
    text = token()
    for seconds in (0, 59, 1):
        harness.clock.advance(seconds)
        harness.outcome(credentials, bearer(text))
    assert len(verifications) == 2


def test_a_clock_set_back_voids_what_came_after_it(
    harness: CredentialsHarness, verifications: list[str]
) -> None:
    credentials = harness.credentials({"issuers": [harness.issuer()]})
    text = token(iat=None)
    harness.outcome(credentials, bearer(text))
    harness.clock.wall_seconds -= 3600
    harness.outcome(credentials, bearer(text))
    assert len(verifications) == 2


def test_a_bad_token_is_refused_from_memory_for_a_while(
    harness: CredentialsHarness, verifications: list[str]
) -> None:
    credentials = harness.credentials({"issuers": [harness.issuer()], "cache": {"negative_ttl_seconds": 5}})
    text = token(exp=NOW - 100)
    for seconds in (0, 4, 1):
        harness.clock.advance(seconds)
        assert reason(harness.outcome(credentials, bearer(text))) == RefusalReason.TOKEN_EXPIRED
    assert len(verifications) == 2


def test_a_token_of_the_future_is_accepted_as_soon_as_it_holds(harness: CredentialsHarness) -> None:
    credentials = harness.credentials({"issuers": [harness.issuer(leeway_seconds=0)]})
    text = token(nbf=NOW + 1)
    assert reason(harness.outcome(credentials, bearer(text))) == RefusalReason.TOKEN_NOT_YET_VALID
    harness.clock.advance(1)
    assert isinstance(harness.outcome(credentials, bearer(text)), Identity)


def test_bad_tokens_do_not_push_out_good_ones(harness: CredentialsHarness, verifications: list[str]) -> None:
    cache = {"max_entries": 1, "negative_max_entries": 1}
    credentials = harness.credentials({"issuers": [harness.issuer()], "cache": cache})
    good = token()
    harness.outcome(credentials, bearer(good))
    for seconds in range(100, 110):
        harness.outcome(credentials, bearer(token(exp=NOW - seconds)))
    verifications.clear()
    harness.outcome(credentials, bearer(good))
    assert verifications == []


def test_the_memory_has_a_bound(harness: CredentialsHarness) -> None:
    credentials = harness.credentials({"issuers": [harness.issuer()], "cache": {"max_entries": 3}})
    for number in range(10):
        harness.outcome(credentials, bearer(token(jti=str(number))))
    assert harness.metric("authz_cache_entries", cache="tokens") == 3


def test_oathkeeper_the_token_itself_is_not_kept(harness: CredentialsHarness) -> None:
    """Oathkeeper uses the raw token as its cache key: a core dump would be full of them."""
    credentials = harness.credentials({"issuers": [harness.issuer()]})
    text = token()
    harness.outcome(credentials, bearer(text))
    verified = credentials._serving.tokens.verified
    assert all(len(key) == 32 for key in verified._entries)
    assert text not in repr(verified._entries)


def test_a_wrong_audience_is_refused_from_memory_too(
    harness: CredentialsHarness, verifications: list[str]
) -> None:
    credentials = harness.credentials({"issuers": [harness.issuer()]})
    text = token(aud="another")
    for _ in range(2):
        assert reason(harness.outcome(credentials, bearer(text))) == RefusalReason.AUDIENCE_MISMATCH
    assert len(verifications) == 1


class TestReload:
    """What is remembered holds only under the configuration that it was verified with.

    Oathkeeper GHSA-4mq7-pvjg-xp2r and GHSA-qvp4-rpmr-xwrr (CVE-2021-32701), lua-resty-openidc#399.
    """

    def test_lua_resty_openidc_399_an_audience_taken_away_counts_at_once(
        self, harness: CredentialsHarness, verifications: list[str]
    ) -> None:
        credentials = harness.credentials({"issuers": [harness.issuer()]})
        text = token()
        assert isinstance(harness.outcome(credentials, bearer(text)), Identity)
        credentials.prepare(harness.config({"issuers": [harness.issuer(audiences=["other"])]}))()
        assert reason(harness.outcome(credentials, bearer(text))) == RefusalReason.AUDIENCE_MISMATCH
        assert len(verifications) == 2

    def test_a_shorter_memory_counts_at_once(
        self, harness: CredentialsHarness, verifications: list[str]
    ) -> None:
        block = {"issuers": [harness.issuer()], "cache": {"ttl_seconds": 300}}
        credentials = harness.credentials(block)
        text = token()
        harness.outcome(credentials, bearer(text))
        credentials.prepare(harness.config(block | {"cache": {"ttl_seconds": 10}}))()
        harness.clock.advance(11)
        harness.outcome(credentials, bearer(text))
        assert len(verifications) == 2

    def test_ghsa_4mq7_pvjg_xp2r_an_issuer_taken_away_counts_at_once(
        self, harness: CredentialsHarness
    ) -> None:
        credentials = harness.credentials({"issuers": [harness.issuer()]})
        text = token()
        assert isinstance(harness.outcome(credentials, bearer(text)), Identity)
        other = harness.issuer(issuer="https://other.example")
        credentials.prepare(harness.config({"issuers": [other]}))()
        assert reason(harness.outcome(credentials, bearer(text))) == RefusalReason.ISSUER_UNKNOWN

    def test_ghsa_qvp4_rpmr_xwrr_another_scope_claim_counts_at_once(
        self, harness: CredentialsHarness
    ) -> None:
        credentials = harness.credentials({"issuers": [harness.issuer()]})
        text = token(permissions=["admin"])
        harness.outcome(credentials, bearer(text))
        credentials.prepare(harness.config({"issuers": [harness.issuer(scope_claims=["permissions"])]}))()
        found = harness.outcome(credentials, bearer(text))
        assert isinstance(found, Identity)
        assert found.scopes == {"admin"}

    def test_a_key_taken_out_of_its_file_counts_at_once(self, harness: CredentialsHarness) -> None:
        block = {"issuers": [harness.issuer()]}
        credentials = harness.credentials(block)
        text = token()
        assert isinstance(harness.outcome(credentials, bearer(text)), Identity)
        harness.issuer(jwk(private_key("RS256"), "r1"))
        credentials.prepare(harness.config(block))()
        assert reason(harness.outcome(credentials, bearer(text))) == RefusalReason.KEY_RETIRED

    def test_what_did_not_change_stays_remembered(
        self, harness: CredentialsHarness, verifications: list[str]
    ) -> None:
        block = {"issuers": [harness.issuer()]}
        credentials = harness.credentials(block)
        text = token()
        harness.outcome(credentials, bearer(text))
        credentials.prepare(harness.config(block | {"sessions": {}}))()
        harness.outcome(credentials, bearer(text))
        assert len(verifications) == 1
