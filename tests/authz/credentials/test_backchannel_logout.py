"""OpenID Connect Back-Channel Logout 1.0, section 2.6 point by point."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from authz.credentials import Credentials
from authz.credentials.jwt.claims import LOGOUT_EVENT as EVENT
from authz.credentials.jwt.refusals import RefusedError
from authz.request.identity import Identity, RefusalReason
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.logout import CLIENT, EVENTS, block, logout_token, receive
from tests.support.signing import ISSUER, NOW, bearer, jwk, key_set, private_key, raw_token, token

Start = Callable[[Credentials], Awaitable[Credentials]]


@pytest.fixture
def credentials(harness: CredentialsHarness) -> Credentials:
    return harness.credentials(block(harness))


async def refusal(credentials: Credentials, text: str) -> RefusalReason:
    with pytest.raises(RefusedError) as caught:
        await receive(credentials, text)
    return caught.value.refusal.reason


class TestGood:
    async def test_by_sid_it_ends_that_session(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        ended, other = token(sid="s1"), token(sid="s2")
        assert isinstance(harness.outcome(credentials, bearer(ended)), Identity)
        await receive(credentials, logout_token())
        assert reason_of(harness.outcome(credentials, bearer(ended))) == RefusalReason.REVOKED
        assert isinstance(harness.outcome(credentials, bearer(other)), Identity)

    async def test_by_sub_alone_it_ends_all_of_the_subject(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        await receive(credentials, logout_token(sid=None))
        assert reason_of(harness.outcome(credentials, bearer(token(sid="s1")))) == RefusalReason.REVOKED
        assert reason_of(harness.outcome(credentials, bearer(token(sid="s2")))) == RefusalReason.REVOKED
        assert isinstance(harness.outcome(credentials, bearer(token(sub="bob"))), Identity)

    async def test_sub_means_the_claim_also_where_the_subject_is_another(
        self, harness: CredentialsHarness
    ) -> None:
        issuer = harness.issuer(logout={"audiences": [CLIENT]}, subject_claim="email")
        credentials = harness.credentials({"issuers": [issuer], "revocations": {}})
        ours = bearer(token(sub="alice", email="alice@example.com"))
        assert isinstance(harness.outcome(credentials, ours), Identity)
        await receive(credentials, logout_token(sid=None, sub="alice"))
        assert reason_of(harness.outcome(credentials, ours)) == RefusalReason.REVOKED

    async def test_one_that_waited_for_a_key_over_a_reload_counts_after_it(
        self, harness: CredentialsHarness
    ) -> None:
        issuer = harness.issuer(logout={"audiences": [CLIENT]})
        credentials = harness.credentials({"issuers": [issuer], "revocations": {}})
        before = credentials.logout
        assert before is not None
        credentials.prepare(
            harness.config({"issuers": [issuer], "revocations": {"retention_seconds": 50_000}})
        )()
        ours = bearer(token(sid="s1"))
        assert isinstance(harness.outcome(credentials, ours), Identity)
        await before.receive(logout_token())
        assert reason_of(harness.outcome(credentials, ours)) == RefusalReason.REVOKED

    @pytest.mark.parametrize("kind", ["JWT", "logout+jwt", None])
    async def test_a_logout_token_does_not_authenticate(
        self, harness: CredentialsHarness, kind: str | None
    ) -> None:
        """Section 2.4: where the client of the logout is the audience of the API, only `events` tells."""
        issuer = harness.issuer(
            audiences=[CLIENT], logout={"audiences": [CLIENT]}, types=["JWT", "logout+jwt"]
        )
        credentials = harness.credentials({"issuers": [issuer], "revocations": {}})
        text = logout_token(aud=CLIENT, sub="alice", exp=NOW + 60, header={"typ": kind} if kind else {})
        assert reason_of(harness.outcome(credentials, bearer(text))) == RefusalReason.TOKEN_TYPE

    async def test_who_signs_in_after_it_is_accepted(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        await receive(credentials, logout_token(sid=None))
        harness.clock.advance(2)
        assert isinstance(harness.outcome(credentials, bearer(token(iat=NOW + 1))), Identity)

    @pytest.mark.parametrize("header", [{"typ": "logout+jwt"}, {"typ": "Logout+JWT"}, {"typ": "JWT"}])
    async def test_the_types_in_use_are_taken(self, credentials: Credentials, header: Any) -> None:
        assert (await receive(credentials, logout_token(header=header))).session == "s1"

    async def test_one_that_is_sent_again_is_answered_as_before(
        self, harness: CredentialsHarness, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One of several workers may have failed to store it; the issuer then sends it to all again."""
        text = logout_token()
        first = await receive(credentials, text)
        assert credentials.revocations is not None
        before = credentials.revocations.epoch
        assert await receive(credentials, text) == first
        assert credentials.revocations.epoch == before

    async def test_another_one_with_the_same_jti_is_another_one(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        await receive(credentials, logout_token())
        await receive(credentials, logout_token(sid="s2"))
        assert reason_of(harness.outcome(credentials, bearer(token(sid="s2")))) == RefusalReason.REVOKED

    async def test_without_exp_its_age_decides(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        """Drafts had no exp, and so have providers today."""
        text = logout_token(exp=None)
        harness.clock.advance(151)
        assert await refusal(credentials, text) == RefusalReason.TOKEN_EXPIRED


class TestBad:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"iss": "https://evil.example"}, RefusalReason.ISSUER_UNKNOWN),
            ({"aud": "edge"}, RefusalReason.AUDIENCE_MISMATCH),
            ({"aud": None}, RefusalReason.AUDIENCE_MISMATCH),
            ({"iat": None}, RefusalReason.CLAIM_MISSING),
            ({"iat": NOW + 60}, RefusalReason.TOKEN_NOT_YET_VALID),
            ({"iat": NOW - 200}, RefusalReason.TOKEN_EXPIRED),
            ({"exp": NOW - 60}, RefusalReason.TOKEN_EXPIRED),
            ({"sid": None, "sub": None}, RefusalReason.CLAIM_MISSING),
            ({"sid": 7}, RefusalReason.TOKEN_MALFORMED),
            ({"sid": "x" * 1025}, RefusalReason.TOKEN_MALFORMED),
            ({"jti": None}, RefusalReason.CLAIM_MISSING),
            ({"events": None}, RefusalReason.CLAIM_MISSING),
            ({"events": [EVENT]}, RefusalReason.CLAIM_MISSING),
            ({"events": {EVENT: True}}, RefusalReason.CLAIM_MISSING),
            ({"events": {"other": {}}}, RefusalReason.CLAIM_MISSING),
            ({"nonce": "n"}, RefusalReason.CLAIM_FORBIDDEN),
            ({"nonce": ""}, RefusalReason.CLAIM_FORBIDDEN),
            ({"header": {"typ": "at+jwt"}}, RefusalReason.TOKEN_TYPE),
            ({"header": {"crit": ["b64"]}}, RefusalReason.TOKEN_MALFORMED),
            ({"kid": "other"}, RefusalReason.KEY_UNKNOWN),
        ],
    )
    async def test_each_requirement_counts(
        self,
        harness: CredentialsHarness,
        credentials: Credentials,
        changes: dict[str, Any],
        reason: RefusalReason,
    ) -> None:
        assert await refusal(credentials, logout_token(**changes)) == reason
        assert isinstance(harness.outcome(credentials, bearer(token(sid="s1"))), Identity)

    async def test_a_forged_one_ends_nothing(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        text = logout_token(key=private_key("ES256", 1))
        assert await refusal(credentials, text) == RefusalReason.TOKEN_SIGNATURE
        assert isinstance(harness.outcome(credentials, bearer(token(sid="s1"))), Identity)

    async def test_an_unsigned_one_ends_nothing(self, credentials: Credentials) -> None:
        """Section 2.6: alg none must not be accepted."""
        claims = {"iss": ISSUER, "aud": CLIENT, "iat": NOW, "sid": "s1", "events": EVENTS, "jti": "1"}
        text = raw_token({"alg": "none"}, claims, b"")
        assert await refusal(credentials, text) == RefusalReason.TOKEN_ALGORITHM

    async def test_one_that_waits_for_no_key_because_it_cannot_hold(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        """A client of the port could make up key ids, each of which would cause a fetch."""
        harness.key_server.document = key_set(jwk(private_key("ES256")))
        jwks = {"url": "https://idp.example.com/keys"}
        issuer = harness.issuer(logout={"audiences": [CLIENT]}, jwks=jwks)
        credentials = await started(harness.credentials({"issuers": [issuer], "revocations": {}}))
        bad = logout_token(kid="made-up", iat=NOW - 1000)
        assert await refusal(credentials, bad) == RefusalReason.TOKEN_EXPIRED
        assert harness.key_server.calls == 1

    async def test_a_replay_elsewhere_ends_nothing_new(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        """Another sidecar does not know the jti; what the token ends is measured by its own time."""
        text = logout_token(sid=None)
        await receive(credentials, text)
        harness.clock.advance(60)
        assert credentials.logout is not None
        credentials.logout._seen.clear()
        await receive(credentials, text)
        assert isinstance(harness.outcome(credentials, bearer(token(iat=NOW + 2))), Identity)

    async def test_its_size_has_a_bound(self, credentials: Credentials) -> None:
        assert await refusal(credentials, "x" * 8193) == RefusalReason.TOKEN_TOO_LONG

    def test_an_issuer_without_the_block_has_no_logout(self, harness: CredentialsHarness) -> None:
        assert harness.credentials({"issuers": [harness.issuer()], "revocations": {}}).logout is None

    def test_it_needs_a_list_to_keep_what_has_ended(self, harness: CredentialsHarness) -> None:
        with pytest.raises(ValueError, match="revocations"):
            harness.config({"issuers": [harness.issuer(logout={"audiences": ["x"]})]})

    def test_a_logout_token_is_not_an_access_token(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        outcome = harness.outcome(credentials, bearer(logout_token(aud="edge")))
        assert reason_of(outcome) == RefusalReason.TOKEN_TYPE
