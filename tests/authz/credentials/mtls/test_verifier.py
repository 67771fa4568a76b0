"""Client certificates: the peer's own, and those that a trusted proxy tells of."""

from typing import Any

import pytest

from authz.credentials.mtls.verifier import MAX_HEADER_CHARACTERS, ForwardedError, read_forwarded
from authz.request.identity import CredentialKind, Identity, RefusalReason
from authz.request.request import Request
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.signing import request, token

ALICE = "spiffe://prod.example/ns/shop/sa/alice"
PROXY = "spiffe://prod.example/ns/edge/sa/proxy"
XFCC = "x-forwarded-client-cert"


def block(**changes: Any) -> dict[str, Any]:
    return {"mtls": {"principals": ["spiffe://prod.example/*"], **changes}}


def forwarded(**changes: Any) -> dict[str, Any]:
    return block(forwarded={"trusted_peers": [PROXY], **changes})


def of(value: str, principal: str = PROXY, address: str = "") -> Request:
    return request((XFCC, value), principal=principal, address=address)


class TestPeer:
    def test_the_peer_is_the_one_that_its_certificate_names(self, harness: CredentialsHarness) -> None:
        found = harness.outcome(harness.credentials(block()), request(principal=ALICE))
        assert isinstance(found, Identity)
        assert (found.kind, found.subject) == (CredentialKind.MTLS, ALICE)

    def test_the_same_peer_is_the_same_object(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block())
        first = harness.outcome(credentials, request(principal=ALICE))
        assert harness.outcome(credentials, request(principal=ALICE)) is first

    def test_without_a_certificate_no_one_is_known(self, harness: CredentialsHarness) -> None:
        assert harness.outcome(harness.credentials(block()), request()) is None

    @pytest.mark.parametrize(
        "principal", ["spiffe://test.example/alice", "spiffe://prod.example", "CN=alice", "x" + ALICE]
    )
    def test_a_principal_that_is_not_listed_is_refused(
        self, harness: CredentialsHarness, principal: str
    ) -> None:
        found = harness.outcome(harness.credentials(block()), request(principal=principal))
        assert reason_of(found) == RefusalReason.PRINCIPAL_UNTRUSTED

    @pytest.mark.parametrize(
        "rest",
        [
            *("", "/", "ns/../../admin", "./a", "a/.", "..", "a//b", "a/"),
            *("a\x00b", "a\nb", "a b", " a", "a\u00e4", "a\u202eb"),
            *("a%2e%2e", "%2e%2e/a", "a%00", "a\\b", "a?b", "a#b", "a;b", "a*"),
        ],
        ids=repr,
    )
    def test_cve_2026_47778_a_prefix_takes_plain_ends_only(
        self, harness: CredentialsHarness, rest: str
    ) -> None:
        """Services would read these as another name than the one that the prefix was written for."""
        found = harness.outcome(
            harness.credentials(block()), request(principal="spiffe://prod.example/" + rest)
        )
        assert reason_of(found) == RefusalReason.PRINCIPAL_MALFORMED

    def test_so_does_the_prefix_of_a_trusted_proxy(self, harness: CredentialsHarness) -> None:
        peers = {"trusted_peers": ["spiffe://prod.example/ns/edge/*"]}
        credentials = harness.credentials(block(forwarded=peers))
        forged = of(f"URI={ALICE}", principal="spiffe://prod.example/ns/edge/../shop/sa/mallory")
        assert reason_of(harness.outcome(credentials, forged)) == RefusalReason.PRINCIPAL_MALFORMED

    @pytest.mark.parametrize("rest", ["", "..", "a%2fb"])
    def test_so_does_a_name_that_a_proxy_forwards(self, harness: CredentialsHarness, rest: str) -> None:
        found = harness.outcome(harness.credentials(forwarded()), of(f"URI=spiffe://prod.example/{rest}"))
        assert reason_of(found) == RefusalReason.PRINCIPAL_MALFORMED

    @pytest.mark.parametrize(
        ("prefix", "name", "plain"),
        [
            ("https://pki.example/u/*", "https://pki.example/u/alice:7", True),
            ("https://pki.example/u/*", "https://pki.example/u/..;/root", False),
            ("https://pki.example/u/*", "https://pki.example/u/%61", False),
            ("CN=svc-*", "CN=svc-a,O=50% off", True),
            ("CN=svc-*", "CN=svc-a\tb", False),
            ("CN=svc-*", "CN=svc-a ", False),
            ("CN=svc-*", "CN=svc-", False),
        ],
    )
    def test_names_of_other_kinds_have_their_own_plain_form(
        self, harness: CredentialsHarness, prefix: str, name: str, plain: bool
    ) -> None:
        found = harness.outcome(harness.credentials(block(principals=[prefix])), request(principal=name))
        assert isinstance(found, Identity) is plain

    def test_a_listed_name_is_taken_as_it_is(self, harness: CredentialsHarness) -> None:
        odd = "spiffe://prod.example/a%20b"
        found = harness.outcome(harness.credentials(block(principals=[odd])), request(principal=odd))
        assert isinstance(found, Identity)

    def test_a_prefix_without_a_host_means_no_uri(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(principals=["s*", "alice*"]))
        refused = harness.outcome(credentials, request(principal=ALICE))
        assert reason_of(refused) == RefusalReason.PRINCIPAL_UNTRUSTED
        assert isinstance(harness.outcome(credentials, request(principal="alice.example")), Identity)

    @pytest.mark.parametrize(
        "prefix",
        ["spiffe://*", "spiffe://prod*", "https://pki.example*", "spiffe:*", "spiffe:/*"],
    )
    def test_a_prefix_of_hosts_is_a_configuration_error(
        self, harness: CredentialsHarness, prefix: str
    ) -> None:
        """`spiffe://prod*` would also mean the trust domain `prod.example.attacker`."""
        with pytest.raises(ValueError, match="after the host"):
            harness.config(block(principals=[prefix]))

    def test_a_name_without_a_star_is_that_name_only(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(principals=[ALICE]))
        assert isinstance(harness.outcome(credentials, request(principal=ALICE)), Identity)
        found = harness.outcome(credentials, request(principal=ALICE + "x"))
        assert reason_of(found) == RefusalReason.PRINCIPAL_UNTRUSTED

    def test_another_credential_comes_first(self, harness: CredentialsHarness) -> None:
        """In a mesh every connection has a certificate; the token says on whose behalf it asks."""
        credentials = harness.credentials(block() | {"issuers": [harness.issuer()]})
        both = request(("authorization", f"Bearer {token()}"), principal=PROXY)
        found = harness.outcome(credentials, both)
        assert isinstance(found, Identity)
        assert found.kind == CredentialKind.JWT


class TestForwarded:
    def test_a_trusted_proxy_is_believed(self, harness: CredentialsHarness) -> None:
        found = harness.outcome(harness.credentials(forwarded()), of(f"By={PROXY};Hash=00ff;URI={ALICE}"))
        assert isinstance(found, Identity)
        assert found.subject == ALICE

    def test_cve_2026_40575_anybody_else_is_not(self, harness: CredentialsHarness) -> None:
        """A header of this name is a claim like any other unless the hop that sent it is trusted."""
        found = harness.outcome(harness.credentials(forwarded()), of(f"URI={PROXY}", principal=ALICE))
        assert isinstance(found, Identity)
        assert found.subject == ALICE

    def test_without_a_configuration_the_header_is_not_read(self, harness: CredentialsHarness) -> None:
        found = harness.outcome(harness.credentials(block()), of(f"URI={ALICE}"))
        assert isinstance(found, Identity)
        assert found.subject == PROXY

    def test_without_certificate_and_trust_it_is_nothing(self, harness: CredentialsHarness) -> None:
        found = harness.outcome(harness.credentials(forwarded()), of(f"URI={ALICE}", principal=""))
        assert found is None

    def test_the_proxy_itself_is_not_the_caller(self, harness: CredentialsHarness) -> None:
        """A client without a certificate must not borrow the one of the proxy."""
        assert harness.outcome(harness.credentials(forwarded()), request(principal=PROXY)) is None

    @pytest.mark.parametrize(("address", "known"), [("10.1.2.3", True), ("192.0.2.1", False), ("", False)])
    def test_a_network_may_be_trusted_instead(
        self, harness: CredentialsHarness, address: str, known: bool
    ) -> None:
        credentials = harness.credentials(block(forwarded={"trusted_networks": ["10.0.0.0/8"]}))
        found = harness.outcome(credentials, of(f"URI={ALICE}", principal="", address=address))
        assert isinstance(found, Identity) is known

    @pytest.mark.parametrize(
        ("depth", "subject"),
        [(1, "spiffe://prod.example/last"), (2, ALICE), (3, "spiffe://prod.example/forged")],
    )
    def test_the_client_is_counted_from_the_right(
        self, harness: CredentialsHarness, depth: int, subject: str
    ) -> None:
        """What stands to the left may come from the client itself."""
        value = f"URI=spiffe://prod.example/forged,URI={ALICE},URI=spiffe://prod.example/last"
        found = harness.outcome(harness.credentials(forwarded(depth=depth)), of(value))
        assert isinstance(found, Identity)
        assert found.subject == subject

    def test_fewer_elements_than_hops_are_refused(self, harness: CredentialsHarness) -> None:
        found = harness.outcome(harness.credentials(forwarded(depth=2)), of(f"URI={ALICE}"))
        assert reason_of(found) == RefusalReason.PRINCIPAL_MALFORMED

    def test_cve_2021_32777_two_headers_are_refused(self, harness: CredentialsHarness) -> None:
        twice = request((XFCC, f"URI={ALICE}"), (XFCC, f"URI={ALICE}"), principal=PROXY)
        found = harness.outcome(harness.credentials(forwarded()), twice)
        assert reason_of(found) == RefusalReason.CREDENTIALS_AMBIGUOUS

    @pytest.mark.parametrize(
        "value", ["", "URI", 'URI=a"b', f"URI={ALICE};URI={PROXY}", f"URI={ALICE};", 'Subject="open', "=x"]
    )
    def test_what_envoy_does_not_write_is_refused(self, harness: CredentialsHarness, value: str) -> None:
        found = harness.outcome(harness.credentials(forwarded()), of(value))
        assert reason_of(found) == RefusalReason.PRINCIPAL_MALFORMED

    def test_a_certificate_without_the_wanted_name_identifies_no_one(
        self, harness: CredentialsHarness
    ) -> None:
        assert harness.outcome(harness.credentials(forwarded()), of("Hash=00ff;DNS=alice.example")) is None

    def test_the_first_name_that_there_is_counts(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(
            block(principals=["alice.example"], forwarded={"trusted_peers": [PROXY], "names": ["uri", "dns"]})
        )
        found = harness.outcome(credentials, of("DNS=alice.example"))
        assert isinstance(found, Identity)

    def test_a_policy_must_trust_an_issuer(self, harness: CredentialsHarness) -> None:
        with pytest.raises(ValueError, match="trusted_peers"):
            harness.config(block(forwarded={}))


class TestHeader:
    def test_quoted_values_may_hold_separators(self) -> None:
        (element,) = read_forwarded('Subject="CN=a,O=\\"b;c\\"";URI=spiffe://x')
        assert element == {"subject": ['CN=a,O="b;c"'], "uri": ["spiffe://x"]}

    def test_keys_are_compared_without_case(self) -> None:
        assert read_forwarded("uri=a;BY=b") == [{"uri": ["a"], "by": ["b"]}]

    def test_its_length_has_a_bound(self) -> None:
        with pytest.raises(ForwardedError, match="longer"):
            read_forwarded("URI=" + "x" * MAX_HEADER_CHARACTERS)

    def test_a_hostile_value_takes_no_time(self) -> None:
        with pytest.raises(ForwardedError):
            read_forwarded('Subject="' + "\\" * (MAX_HEADER_CHARACTERS - 20))
