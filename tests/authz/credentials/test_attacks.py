"""Attempts to get in, to stay in, or to keep others out, each by a gap between two steps."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from authz.credentials import Credentials
from authz.credentials.core.http import FetchError, PublicResolver
from authz.credentials.core.store_errors import StoreUnavailableError
from authz.request.identity import Identity, Refusal, RefusalReason
from tests.support.answers import Answers, headers_of
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.logout import block as with_logout
from tests.support.logout import logout_token, receive
from tests.support.signing import AUDIENCE, ISSUER, NOW, bearer, jwk, private_key, request, token

Start = Callable[[Credentials], Awaitable[Credentials]]

MANY = 1200
"""More than Redis is asked for at once."""


class Between:
    """A Redis client that lets a test act right after its first answer to one command."""

    def __init__(self, redis: Redis, commands: frozenset[str], act: Callable[[], Awaitable[object]]) -> None:
        self._redis = redis
        self._commands = commands
        self._act: Callable[[], Awaitable[object]] | None = act

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._redis, name)
        if name not in self._commands:
            return found

        async def asked(*arguments: Any, **options: Any) -> Any:
            answer = await found(*arguments, **options)
            act, self._act = self._act, None
            if act is not None:
                await act()
            return answer

        return asked


PAGES = frozenset({"zrangebyscore", "zscan"})


@pytest.mark.redis
class TestListsThatChangeWhileTheyAreRead:
    """Pages counted from the start skip an entry for each one that leaves the pages before."""

    async def test_no_revocation_is_passed_over(self, harness: CredentialsHarness, redis: Redis) -> None:
        harness.redis = redis
        wish = {"revocations": {"store": "redis"}, "lookup_timeout_seconds": 5}
        credential_admin = harness.credentials(wish).credential_admin
        for number in range(MANY):
            harness.clock.advance(0.001)
            await credential_admin.revoke_tokens("jti", f"t{number:04}")
        harness.clock.advance(10)

        async def again() -> None:
            # What is revoked once more is kept for longer: it moves from the first page to the end.
            for number in range(3):
                await credential_admin.revoke_tokens("jti", f"t{number:04}")

        reader = CredentialsHarness(harness.folder)
        reader.clock = harness.clock
        reader.redis = Between(redis, PAGES, again)
        credentials = reader.credentials(wish)
        assert credentials.revocations is not None
        assert credentials.revocations.store is not None
        found = await credentials.revocations.store.load(10_000)
        assert {entry.value for entry in found} == {f"t{number:04}" for number in range(MANY)}

    async def test_no_session_survives_that_began_before(
        self, harness: CredentialsHarness, redis: Redis
    ) -> None:
        harness.redis = redis
        wish = {"sessions": {"store": "redis"}, "lookup_timeout_seconds": 5}
        credential_admin = harness.credentials(wish).credential_admin
        made = [await credential_admin.create_session(f"u{number}", [], [], {}) for number in range(MANY)]
        first: Any = await redis.zrange("sidecars:session:all", 0, 2)

        async def leave() -> None:
            for key in first:
                await credential_admin.revoke_sessions("id", key.decode())

        reader = CredentialsHarness(harness.folder)
        reader.clock = harness.clock
        reader.redis = Between(redis, PAGES, leave)
        await reader.credentials(wish).credential_admin.revoke_sessions("before", NOW + 1)
        left = [one["id"] for one in made if await redis.exists(f"sidecars:session:{one['id']}")]
        assert left == []


class TestRevocationMeetsReload:
    def test_what_is_revoked_while_a_reload_is_prepared_stays_revoked(
        self, harness: CredentialsHarness
    ) -> None:
        block: dict[str, Any] = {"issuers": [harness.issuer()], "revocations": {"retention_seconds": 50_000}}
        credentials = harness.credentials(block)
        text = token(jti="t1")
        assert isinstance(harness.outcome(credentials, bearer(text)), Identity)
        swap = credentials.prepare(harness.config(block | {"revocations": {"retention_seconds": 60_000}}))
        asyncio.run(credentials.credential_admin.revoke_tokens("jti", "t1"))
        swap()
        assert reason_of(harness.outcome(credentials, bearer(text))) == RefusalReason.REVOKED


class TestLogout:
    async def test_one_that_could_not_be_kept_is_taken_when_it_is_sent_again(
        self, harness: CredentialsHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Section 2.8: the issuer was asked to retry; refused as a replay, the logout would be lost."""
        credentials = harness.credentials(with_logout(harness))
        assert credentials.revocations is not None
        text = logout_token()

        async def away(*_: Any) -> None:
            raise StoreUnavailableError("Redis")

        with monkeypatch.context() as patched:
            patched.setattr(credentials.revocations, "revoke", away)
            with pytest.raises(StoreUnavailableError):
                await receive(credentials, text)
        await receive(credentials, text)
        outcome = harness.outcome(credentials, bearer(token(sid="s1")))
        assert reason_of(outcome) == RefusalReason.REVOKED


@pytest.mark.parametrize(
    "address",
    [
        "64:ff9b::a00:1",  # RFC 6052: 10.0.0.1 behind a NAT64
        "64:ff9b:1::a00:1",  # RFC 8215: the same for local use
        "2002:a00:1::1",  # RFC 3056: 10.0.0.1 by 6to4
        "::7f00:1",  # RFC 4291: 127.0.0.1, "IPv4-compatible"
        "224.0.0.1",
        "ff0e::1",
    ],
)
def test_a_private_address_inside_a_public_one_is_not_asked(address: str) -> None:
    """Server-side request forgery by way of an address that only looks public."""
    with pytest.raises(FetchError, match="not a public address"):
        PublicResolver(()).check(address)


def test_a_public_address_behind_nat64_is_asked() -> None:
    PublicResolver(()).check("64:ff9b::808:808")


class TestThrottle:
    def test_tokens_without_an_issuer_are_counted(self, harness: CredentialsHarness) -> None:
        """They are unsigned: counting only tokens that name an issuer would be a bypass."""
        credentials = harness.credentials(
            {
                "issuers": [harness.issuer()],
                "throttle": {"address_failures": 3, "per_seconds": 60},
            }
        )
        forger = private_key("ES256", 1)
        for number in range(3):
            text = token(key=forger, iss=None, jti=str(number))
            harness.outcome(credentials, bearer(text, "192.0.2.1"))
        outcome = harness.outcome(credentials, bearer(token(), "192.0.2.1"))
        assert reason_of(outcome) == RefusalReason.THROTTLED

    @pytest.mark.parametrize(
        ("failures", "per_seconds", "wait"), [(3, 60, 20), (100, 60, 1), (1, 7200, 7200)]
    )
    def test_a_client_that_waits_as_told_is_served(
        self, harness: CredentialsHarness, failures: int, per_seconds: int, wait: int
    ) -> None:
        """RFC 6585 section 4: Retry-After says how long to wait."""
        limits = {"address_failures": failures, "per_seconds": per_seconds}
        credentials = harness.credentials({"issuers": [harness.issuer()], "throttle": limits})
        for number in range(failures):
            harness.outcome(
                credentials, bearer(token(key=private_key("ES256", 1), jti=str(number)), "192.0.2.1")
            )
        refused = harness.outcome(credentials, bearer(token(exp=NOW + 9999), "192.0.2.1"))
        assert isinstance(refused, Refusal)
        assert refused.retry_after_seconds == wait
        harness.clock.advance(refused.retry_after_seconds)
        assert isinstance(harness.outcome(credentials, bearer(token(exp=NOW + 9999), "192.0.2.1")), Identity)

    @pytest.mark.parametrize(("seconds", "result"), [(1, "1"), (59, "59"), (61, "120"), (3601, "3600")])
    def test_retry_after_is_never_shorter_than_the_wait_up_to_an_hour(
        self, seconds: int, result: str
    ) -> None:
        refusal = Refusal(RefusalReason.THROTTLED, retry_after_seconds=seconds)
        answer = Answers("rules: [{name: users, allow: authenticated}]", refusal)(path="/users")
        assert headers_of(answer)["retry-after"] == result


@pytest.mark.redis
class TestSessions:
    async def test_an_answer_from_before_a_gap_in_the_messages_is_not_remembered(
        self, harness: CredentialsHarness, redis: Redis
    ) -> None:
        """A session is read and revoked during an outage; the answer arrives after the reconnect."""
        harness.redis = redis
        wish = {"sessions": {"store": "redis", "cache_ttl_seconds": 300}, "lookup_timeout_seconds": 5}
        made = await harness.credentials(wish).credential_admin.create_session("alice", [], [], {})
        here = CredentialsHarness(harness.folder)
        here.clock = harness.clock

        async def gap() -> None:
            await redis.delete(f"sidecars:session:{made['id']}")
            assert credentials.sessions is not None
            credentials.sessions.forget_all()

        here.redis = Between(redis, frozenset({"get"}), gap)
        credentials = here.credentials(wish)
        asks = request(("cookie", f"session={made['token']}"))
        await here.awaited(credentials, asks)
        assert reason_of(await here.awaited(credentials, asks)) == RefusalReason.SESSION_EXPIRED


def test_a_kid_is_a_name_and_no_path(harness: CredentialsHarness) -> None:
    """A kid that other libraries have opened as a file or put into a query."""
    credentials = harness.credentials({"issuers": [harness.issuer()]})
    for kid in ("../../../../dev/null", "k1' OR '1'='1", "/etc/passwd", "k1\x00", "https://evil.example/k"):
        outcome = harness.outcome(credentials, bearer(token(kid=kid)))
        assert reason_of(outcome) == RefusalReason.KEY_UNKNOWN


def test_the_same_token_text_at_another_issuers_configuration_is_verified_again(
    harness: CredentialsHarness,
) -> None:
    """Two issuers that publish one key id: what one has signed is nothing to the other."""
    other = "https://other.example.com"
    stranger = private_key("ES256", 1)
    issuers = [
        harness.issuer(),
        harness.issuer(jwk(stranger), file="other.json", issuer=other, audiences=[AUDIENCE]),
    ]
    credentials = harness.credentials({"issuers": issuers})
    assert isinstance(harness.outcome(credentials, bearer(token(key=stranger, iss=other))), Identity)
    for key, issuer in ((stranger, ISSUER), (private_key("ES256"), other)):
        outcome = harness.outcome(credentials, bearer(token(key=key, iss=issuer, jti="x")))
        assert reason_of(outcome) == RefusalReason.TOKEN_SIGNATURE
