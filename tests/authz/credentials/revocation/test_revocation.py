"""Tokens that are refused before they expire, here and on every other sidecar."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from authz.credentials import Credentials
from authz.credentials.admin import CredentialAdminError
from authz.credentials.revocation.revocation_list import Revocation, RevocationsFullError, Revoked
from authz.request.identity import CredentialKind, Identity, RefusalReason
from tests.support.credentials import CredentialsHarness, reason_of, verdict
from tests.support.signing import ISSUER, NOW, bearer, request, token

Start = Callable[[Credentials], Awaitable[Credentials]]
OTHER = "https://other.example.com"


def block(harness: CredentialsHarness, **changes: Any) -> dict[str, Any]:
    other = harness.issuer(issuer=OTHER)
    return {"issuers": [harness.issuer(), other], "revocations": changes, "sessions": {}}


@pytest.fixture
def credentials(harness: CredentialsHarness) -> Credentials:
    return harness.credentials(block(harness))


class TestWhat:
    @pytest.mark.parametrize(
        ("target", "value", "hit", "missed"),
        [
            ("jti", "t1", {"jti": "t1"}, {"jti": "t2"}),
            ("sid", "s1", {"sid": "s1"}, {"sid": "s2"}),
            ("sub", "alice", {"sub": "alice"}, {"sub": "bob"}),
            ("before", NOW - 60, {"iat": NOW - 61}, {"iat": NOW - 60}),
            ("before", "now", {"iat": NOW + 29}, {"iat": NOW + 30}),
        ],
    )
    async def test_what_it_names_is_refused_and_nothing_else(
        self,
        harness: CredentialsHarness,
        credentials: Credentials,
        target: str,
        value: Any,
        hit: Any,
        missed: Any,
    ) -> None:
        bad, good = token(**hit), token(**missed)
        assert [verdict(harness, credentials, text) for text in (bad, good)] == [None, None]
        await credentials.credential_admin.revoke_tokens(target, value)
        assert verdict(harness, credentials, bad) == RefusalReason.REVOKED
        assert verdict(harness, credentials, good) is None

    async def test_a_token_never_seen_before_is_refused_too(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        await credentials.credential_admin.revoke_tokens("jti", "t1")
        assert verdict(harness, credentials, token(jti="t1")) == RefusalReason.REVOKED

    async def test_it_may_concern_one_issuer(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        await credentials.credential_admin.revoke_tokens("jti", "t1", OTHER)
        assert verdict(harness, credentials, token(jti="t1")) is None
        assert verdict(harness, credentials, token(jti="t1", iss=OTHER)) == RefusalReason.REVOKED

    async def test_a_token_without_iat_is_refused(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        """It may live for any time: once its revocation is forgotten it would be good again."""
        assert verdict(harness, credentials, token(iat=None)) == RefusalReason.CLAIM_MISSING

    async def test_a_token_without_iat_counts_as_issued_before_any_time(
        self, credentials: Credentials
    ) -> None:
        await credentials.credential_admin.revoke_tokens("before", NOW - 1e6)
        assert credentials.revocations is not None
        opaque = Identity(CredentialKind.INTROSPECTION, "alice")
        assert reason_of(credentials.revocations.check(opaque, None)) == RefusalReason.REVOKED

    async def test_a_subject_signs_in_again_and_is_accepted(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        """Once the leeway is over, for which the clock of an issuer may be ahead."""
        await credentials.credential_admin.revoke_tokens("sub", "alice")
        harness.clock.advance(30)
        assert verdict(harness, credentials, token(iat=NOW + 29)) == RefusalReason.REVOKED
        assert verdict(harness, credentials, token(iat=NOW + 30)) is None

    async def test_what_an_issuer_whose_clock_is_ahead_has_issued_is_refused_too(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        text = token(iat=NOW + 25)
        assert verdict(harness, credentials, text) is None
        await credentials.credential_admin.revoke_tokens("sub", "alice")
        assert verdict(harness, credentials, text) == RefusalReason.REVOKED

    async def test_a_second_revocation_does_not_weaken_the_first(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        await credentials.credential_admin.revoke_tokens("before", NOW)
        await credentials.credential_admin.revoke_tokens("before", NOW - 600)
        assert verdict(harness, credentials, token(iat=NOW - 60)) == RefusalReason.REVOKED

    async def test_oauth2_proxy_1224_opaque_sessions_of_the_subject_end_with_it(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        """oauth2-proxy#1224: the session of a user who was logged out elsewhere lived on."""
        assert credentials.sessions is not None
        claims = {"iss": ISSUER, "sid": "s1"}
        by_sid = await credentials.sessions.create("alice", NOW, claims=claims)
        other = await credentials.sessions.create("alice", NOW)
        for text in (by_sid, other):
            assert isinstance(harness.outcome(credentials, request(("cookie", f"session={text}"))), Identity)
        await credentials.credential_admin.revoke_tokens("sid", "s1", ISSUER)
        found = harness.outcome(credentials, request(("cookie", f"session={by_sid}")))
        assert reason_of(found) == RefusalReason.REVOKED
        assert isinstance(harness.outcome(credentials, request(("cookie", f"session={other}"))), Identity)

    @pytest.mark.parametrize(
        ("target", "value"),
        [
            *(("jti", ""), ("jti", 7), ("nothing", "x"), ("sub", None), ("before", "x"), ("before", True)),
            *(("before", float("nan")), ("before", float("inf")), ("before", NOW + 3600)),
        ],
    )
    async def test_a_wish_that_makes_no_sense_is_an_error(
        self, credentials: Credentials, target: str, value: Any
    ) -> None:
        with pytest.raises(CredentialAdminError):
            await credentials.credential_admin.revoke_tokens(target, value)

    async def test_without_the_block_there_is_nothing_to_revoke_with(
        self, harness: CredentialsHarness
    ) -> None:
        credentials = harness.credentials({"issuers": [harness.issuer()]})
        with pytest.raises(CredentialAdminError, match="revocations"):
            await credentials.credential_admin.revoke_tokens("jti", "x")


class TestCache:
    async def test_cve_2021_41230_a_remembered_token_is_checked_again(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        """A revocation after sign-in counts: the new epoch voids what is cached."""
        good, bad = token(jti="good"), token(jti="bad")
        for text in (good, bad):
            assert verdict(harness, credentials, text) is None
        await credentials.credential_admin.revoke_tokens("jti", "bad")
        assert verdict(harness, credentials, bad) == RefusalReason.REVOKED
        assert verdict(harness, credentials, good) is None

    async def test_a_revoked_token_is_refused_from_memory(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness))
        await credentials.credential_admin.revoke_tokens("jti", "bad")
        text = token(jti="bad")
        assert verdict(harness, credentials, text) == RefusalReason.REVOKED
        assert reason_of(credentials._serving.tokens.cached(text, NOW)) == RefusalReason.REVOKED

    async def test_checking_again_costs_no_signature(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        good = token(jti="good")
        harness.outcome(credentials, bearer(good))
        await credentials.credential_admin.revoke_tokens("jti", "other")
        harness.outcome(credentials, bearer(good))
        assert harness.metric("authz_identity_cache_lookups_total", result="hit") == 1
        assert harness.metric("authz_identity_cache_lookups_total", result="miss") == 1

    async def test_a_reload_forgets_no_revocation(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        await credentials.credential_admin.revoke_tokens("jti", "bad")
        credentials.prepare(harness.config(block(harness, retention_seconds=50_000)))()
        assert verdict(harness, credentials, token(jti="bad")) == RefusalReason.REVOKED

    async def test_a_list_that_a_reload_brings_counts_for_remembered_tokens(
        self, harness: CredentialsHarness
    ) -> None:
        credentials = harness.credentials({"issuers": [harness.issuer()]})
        text = token(jti="t1")
        assert verdict(harness, credentials, text) is None
        credentials.prepare(harness.config({"issuers": [harness.issuer()], "revocations": {}}))()
        await credentials.credential_admin.revoke_tokens("jti", "t1")
        assert verdict(harness, credentials, text) == RefusalReason.REVOKED


class TestWhatIsRevokedStaysSo:
    """A revocation that is forgotten before what it names has ended would let that in again."""

    @pytest.mark.parametrize(
        ("issuer", "revocations", "sessions", "message"),
        [
            (
                {},
                {"retention_seconds": 36_059},
                {"absolute_timeout_seconds": 3600},
                "at least max_lifetime_seconds .* = 36060",
            ),
            (
                {},
                {"leeway_seconds": 29},
                {},
                "must be at least the leeway_seconds of every issuer, which is 30",
            ),
            ({"max_lifetime_seconds": None}, {}, {}, "needs max_lifetime_seconds, 172740 at most"),
            (
                {"max_lifetime_seconds": 60},
                {"retention_seconds": 43_229},
                {},
                "at least sessions.absolute_.* = 43230",
            ),
        ],
    )
    def test_it_is_kept_for_as_long_as_anything_may_live(
        self, harness: CredentialsHarness, issuer: Any, revocations: Any, sessions: Any, message: str
    ) -> None:
        block = {"issuers": [harness.issuer(**issuer)], "revocations": revocations, "sessions": sessions}
        with pytest.raises(ValueError, match=message):
            harness.config(block)

    def test_and_no_longer_than_that(self, harness: CredentialsHarness) -> None:
        issuers = [harness.issuer(), harness.issuer(issuer=OTHER, max_lifetime_seconds=43_170)]
        harness.config({"issuers": issuers, "revocations": {"retention_seconds": 43_230}, "sessions": {}})


class TestBound:
    async def test_a_full_list_takes_only_what_is_broader(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness, max_entries=2))
        for number in range(2):
            await credentials.credential_admin.revoke_tokens("jti", str(number))
        with pytest.raises(RevocationsFullError):
            await credentials.credential_admin.revoke_tokens("jti", "2")
        await credentials.credential_admin.revoke_tokens("before", NOW)
        assert verdict(harness, credentials, token(iat=NOW - 1)) == RefusalReason.REVOKED

    async def test_what_has_had_its_time_makes_room(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness, max_entries=2, retention_seconds=50_000))
        for number in range(2):
            await credentials.credential_admin.revoke_tokens("jti", str(number))
        harness.clock.advance(50_001)
        await credentials.credential_admin.revoke_tokens("jti", "2")
        assert [entry["value"] for entry in await credentials.credential_admin.list_revocations()] == ["2"]

    async def test_an_expired_revocation_refuses_no_one(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness, retention_seconds=50_000))
        await credentials.credential_admin.revoke_tokens("sub", "alice")
        harness.clock.advance(50_031)
        assert credentials.revocations is not None
        opaque = Identity(CredentialKind.INTROSPECTION, "alice")
        assert credentials.revocations.check(opaque, NOW) is opaque

    @pytest.mark.parametrize("times", [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan"))])
    def test_its_times_are_times(self, times: tuple[float, float]) -> None:
        with pytest.raises(ValueError, match="times"):
            Revocation(Revoked.TOKEN, "x", *times)

    def test_a_value_has_a_bound(self) -> None:
        with pytest.raises(ValueError, match="longer"):
            Revocation(Revoked.TOKEN, "x" * 1025, 0)
