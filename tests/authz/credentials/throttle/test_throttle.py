"""Bad credentials: after so many of them nothing is looked at any more."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from authz.credentials import Credentials
from authz.credentials.api_key.verifier import new_api_key
from authz.credentials.throttle.throttle import network_of
from authz.request.identity import Identity, RefusalReason
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.signing import NOW, bearer, jwk, key_set, private_key, request, token

Start = Callable[[Credentials], Awaitable[Credentials]]
HOME, AWAY = "192.0.2.1", "198.51.100.7"
FORGER = private_key("ES256", 1)
API_KEY, API_KEY_HASH = new_api_key("ci", lambda length: b"\x01" * length)


def block(harness: CredentialsHarness, **throttle: Any) -> dict[str, Any]:
    keys = [{"id": "ci", "sha256": API_KEY_HASH, "subject": "ci"}]
    limits = {"address_failures": 3, "subject_failures": None, "per_seconds": 60} | throttle
    return {"issuers": [harness.issuer()], "api_keys": {"keys": keys}, "throttle": limits, "sessions": {}}


def forged(number: int, **changes: Any) -> str:
    return token(key=FORGER, jti=str(number), **changes)


def fail(harness: CredentialsHarness, credentials: Credentials, times: int, address: str = HOME) -> None:
    for number in range(times):
        found = harness.outcome(credentials, bearer(forged(number), address))
        assert reason_of(found) == RefusalReason.TOKEN_SIGNATURE


class TestKeys:
    """Callers do not know about a rotation."""

    @pytest.fixture
    def remote(self, harness: CredentialsHarness) -> dict[str, Any]:
        harness.key_server.document = key_set(jwk(private_key("ES256"), "k1"))
        issuer = harness.issuer(jwks={"url": "https://idp.example.com/keys"})
        return {"issuers": [issuer], "throttle": {"address_failures": 3}, "lookup_timeout_seconds": 5}

    async def test_a_token_of_a_retired_key_does_not_count_as_bad(
        self, harness: CredentialsHarness, remote: dict[str, Any], started: Start
    ) -> None:
        credentials = await started(harness.credentials(remote))
        harness.key_server.document = key_set(jwk(FORGER, "k2"))
        for number in range(10):
            found = await harness.awaited(credentials, bearer(token(kid="k1", jti=str(number)), HOME))
            if isinstance(found, Identity):
                await harness.awaited(credentials, bearer(token(key=FORGER, kid="k2"), AWAY))
            else:
                assert reason_of(found) in {RefusalReason.KEYS_UNAVAILABLE, RefusalReason.KEY_RETIRED}
                harness.clock.advance(6)
        assert isinstance(harness.outcome(credentials, bearer(forged(0, kid="k2"), HOME)), Identity)

    async def test_an_unknown_key_id_is_counted_once_a_fetch_has_confirmed_it(
        self, harness: CredentialsHarness, remote: dict[str, Any], started: Start
    ) -> None:
        credentials = await started(harness.credentials(remote))
        reasons = []
        for number in range(5):
            found = await harness.awaited(credentials, bearer(token(kid="made-up", jti=str(number)), HOME))
            reasons.append(reason_of(found))
        assert reasons == [RefusalReason.KEY_UNKNOWN] * 3 + [RefusalReason.THROTTLED] * 2
        for number in range(5):
            found = await harness.awaited(credentials, bearer(token(kid=f"other-{number}"), AWAY))
            assert reason_of(found) == RefusalReason.KEYS_UNAVAILABLE
        assert isinstance(harness.outcome(credentials, bearer(token(kid="k1"), AWAY)), Identity)


class TestAddress:
    def test_after_so_many_failures_nothing_is_looked_at(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness))
        fail(harness, credentials, 3)
        assert reason_of(harness.outcome(credentials, bearer(token(), HOME))) == RefusalReason.THROTTLED
        assert harness.metric("authz_credentials_refused_total", credential="none", reason="throttled") == 1

    def test_another_address_is_not_concerned(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness))
        fail(harness, credentials, 3)
        assert isinstance(harness.outcome(credentials, bearer(token(), AWAY)), Identity)

    def test_what_is_known_goes_on(self, harness: CredentialsHarness) -> None:
        """A token that is remembered costs no work: neighbours behind one address keep theirs."""
        credentials = harness.credentials(block(harness))
        good = token()
        harness.outcome(credentials, bearer(good, HOME))
        key = request(("x-api-key", API_KEY), address=HOME)
        harness.outcome(credentials, key)
        fail(harness, credentials, 3)
        assert isinstance(harness.outcome(credentials, bearer(good, HOME)), Identity)
        assert isinstance(harness.outcome(credentials, key), Identity)

    def test_it_passes_with_time(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness))
        fail(harness, credentials, 3)
        harness.clock.advance(20)
        assert isinstance(harness.outcome(credentials, bearer(token(), HOME)), Identity)

    def test_a_bad_token_that_is_remembered_is_counted_once(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness))
        bad = forged(0)
        for _ in range(10):
            harness.outcome(credentials, bearer(bad, HOME))
        assert isinstance(harness.outcome(credentials, bearer(token(), HOME)), Identity)

    def test_an_expired_token_does_not_count_as_bad(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness))
        for number in range(10):
            found = harness.outcome(credentials, bearer(token(exp=NOW - 100 - number), HOME))
            assert reason_of(found) == RefusalReason.TOKEN_EXPIRED
        assert isinstance(harness.outcome(credentials, bearer(token(), HOME)), Identity)

    @pytest.mark.parametrize(
        "credential",
        [
            ("x-api-key", "ci.{}wrongwrongwrongwrong"),
            ("cookie", "session={}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
        ],
    )
    def test_every_kind_counts(self, harness: CredentialsHarness, credential: tuple[str, str]) -> None:
        credentials = harness.credentials(block(harness))
        name, value = credential
        for number in range(3):
            harness.outcome(credentials, request((name, value.format(number)), address=HOME))
        assert reason_of(harness.outcome(credentials, bearer(token(), HOME))) == RefusalReason.THROTTLED

    def test_the_client_behind_trusted_hops_is_the_one_that_counts(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness))

        def of(client: str, text: str) -> Any:
            headers = (("authorization", f"Bearer {text}"), ("x-forwarded-for", client))
            return request(*headers, address="10.0.0.1", trusted_hops=1)

        for number in range(3):
            harness.outcome(credentials, of(HOME, forged(number)))
        assert reason_of(harness.outcome(credentials, of(HOME, token()))) == RefusalReason.THROTTLED
        assert isinstance(harness.outcome(credentials, of(AWAY, token())), Identity)

    def test_no_request_without_an_address_is_stopped(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness))
        fail(harness, credentials, 5, address="")
        assert isinstance(harness.outcome(credentials, bearer(token())), Identity)

    def test_ipv6_counts_by_the_network_that_a_customer_gets(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness))
        for number in range(3):
            harness.outcome(credentials, bearer(forged(number), f"2001:db8::{number + 1:x}"))
        found = harness.outcome(credentials, bearer(token(), "2001:db8::ffff"))
        assert reason_of(found) == RefusalReason.THROTTLED
        assert isinstance(harness.outcome(credentials, bearer(token(), "2001:db8:0:1::1")), Identity)

    def test_the_table_has_a_bound(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness, cache_max_entries=2))
        for number in range(10):
            harness.outcome(credentials, bearer(forged(number), f"192.0.2.{number}"))
        assert harness.metric("authz_cache_entries", cache="failures") == 2

    def test_a_reload_forgets_nothing(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness))
        fail(harness, credentials, 3)
        credentials.prepare(harness.config(block(harness) | {"sessions": None}))()
        assert reason_of(harness.outcome(credentials, bearer(token(), HOME))) == RefusalReason.THROTTLED

    def test_a_wall_clock_that_jumps_does_not_lift_it(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness))
        fail(harness, credentials, 3)
        harness.clock.wall_seconds += 300
        assert reason_of(harness.outcome(credentials, bearer(token(), HOME))) == RefusalReason.THROTTLED


class TestSubject:
    def test_one_name_is_protected_over_all_addresses(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness, subject_failures=3))
        for number in range(3):
            harness.outcome(credentials, bearer(forged(number, sub="alice"), f"192.0.2.{number}"))
        found = harness.outcome(credentials, bearer(token(sub="alice"), AWAY))
        assert reason_of(found) == RefusalReason.THROTTLED
        assert isinstance(harness.outcome(credentials, bearer(token(sub="bob"), AWAY)), Identity)

    def test_an_api_key_is_protected_by_its_id(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness, subject_failures=3))
        for number in range(3):
            wrong = request(("x-api-key", f"ci.{number}{'x' * 30}"), address=f"192.0.2.{number}")
            assert reason_of(harness.outcome(credentials, wrong)) == RefusalReason.API_KEY_UNKNOWN
        right = request(("x-api-key", API_KEY), address=AWAY)
        assert reason_of(harness.outcome(credentials, right)) == RefusalReason.THROTTLED

    def test_garbage_identifies_no_one(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness, subject_failures=3, address_failures=None))
        for number in range(10):
            harness.outcome(credentials, bearer(f"a.b.{number}", HOME))
        assert isinstance(harness.outcome(credentials, bearer(token(), HOME)), Identity)


def test_it_can_be_turned_off(harness: CredentialsHarness) -> None:
    credentials = harness.credentials(block(harness) | {"throttle": None})
    fail(harness, credentials, 200)
    assert isinstance(harness.outcome(credentials, bearer(token(), HOME)), Identity)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("not:an:address", "not:an:address"),
        ("", ""),
    ],
)
def test_what_counts_as_one_client(address: str, network: str) -> None:
    assert network_of(address) == network
