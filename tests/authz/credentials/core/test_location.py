"""Where a request carries its credential, and what happens if there are two."""

from typing import Any

import pytest

from authz.credentials import Credentials
from authz.credentials.api_key.verifier import new_api_key
from authz.request.identity import CredentialKind, Identity, Refusal, RefusalReason
from authz.request.request import MAX_QUERY_PARAMETERS, BadRequestError, Request
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.signing import bearer, encoded, request, token

API_KEY, API_KEY_HASH = new_api_key("ci", lambda length: b"\x01" * length)


def block(harness: CredentialsHarness, **changes: Any) -> dict[str, Any]:
    return {
        "issuers": [harness.issuer()],
        "sessions": {},
        "api_keys": {"keys": [{"id": "ci", "sha256": API_KEY_HASH, "subject": "ci"}]},
    } | changes


@pytest.fixture
def credentials(harness: CredentialsHarness) -> Credentials:
    return harness.credentials(block(harness))


def reason(harness: CredentialsHarness, credentials: Credentials, of: Request) -> RefusalReason:
    outcome = harness.outcome(credentials, of)
    assert isinstance(outcome, Refusal), outcome
    return outcome.reason


def kind(harness: CredentialsHarness, credentials: Credentials, of: Request) -> CredentialKind:
    outcome = harness.outcome(credentials, of)
    assert isinstance(outcome, Identity), outcome
    return outcome.kind


class TestBearer:
    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
    def test_the_scheme_is_compared_without_case(
        self, harness: CredentialsHarness, credentials: Credentials, scheme: str
    ) -> None:
        """RFC 9110 section 11.1; Authorino compares `Bearer ` exactly."""
        found = kind(harness, credentials, request(("authorization", f"{scheme} {token()}")))
        assert found == CredentialKind.JWT

    @pytest.mark.parametrize("separator", ["\t", " \t", "\t ", "  ", "\u00a0", "\x0b", ",", "="])
    def test_ghsa_gv94_wp4h_vv8p_exactly_one_space_follows_the_scheme(
        self, harness: CredentialsHarness, credentials: Credentials, separator: str
    ) -> None:
        """Keycloak took tabs for spaces, so a filter in front saw another token. RFC 6750 section 2.1."""
        outcome = harness.outcome(credentials, request(("authorization", f"Bearer{separator}{token()}")))
        assert isinstance(outcome, Refusal)
        assert outcome.reason == RefusalReason.TOKEN_MALFORMED

    @pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Bearer a b"])
    def test_a_scheme_without_a_token_is_refused(
        self, harness: CredentialsHarness, credentials: Credentials, value: str
    ) -> None:
        assert (
            reason(harness, credentials, request(("authorization", value))) == RefusalReason.TOKEN_MALFORMED
        )

    @pytest.mark.parametrize("value", ["Bearer TOKEN ", " Bearer TOKEN\t"])
    def test_blanks_around_it_are_not_part_of_the_header(
        self, harness: CredentialsHarness, credentials: Credentials, value: str
    ) -> None:
        """As in HTTP/1 (RFC 9110 section 5.5); over HTTP/2 Envoy passes them on."""
        asked = request(("authorization", value.replace("TOKEN", token())))
        assert isinstance(harness.outcome(credentials, asked), Identity)
        assert harness.outcome(credentials, request(("authorization", " \t"))) is None

    @pytest.mark.parametrize("suffix", [",", ";"])
    def test_nothing_follows_the_token(
        self, harness: CredentialsHarness, credentials: Credentials, suffix: str
    ) -> None:
        found = reason(harness, credentials, bearer(token() + suffix))
        assert found == RefusalReason.TOKEN_MALFORMED

    @pytest.mark.parametrize("value", ["Basic dXNlcjpwYXNz", "Negotiate", "DPoP x"])
    def test_another_scheme_is_not_a_credential_of_ours(
        self, harness: CredentialsHarness, credentials: Credentials, value: str
    ) -> None:
        assert harness.outcome(credentials, request(("authorization", value))) is None

    def test_no_credential_at_all_has_no_outcome(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        assert harness.outcome(credentials, request(("accept", "*/*"), ("cookie", "theme=dark"))) is None

    def test_cve_2023_27488_a_token_that_is_not_ascii_is_refused(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        """A header that is not UTF-8 must not break the check."""
        assert reason(harness, credentials, bearer("tök.e.n")) == (RefusalReason.TOKEN_MALFORMED)


class TestSeveral:
    def test_cve_2021_32777_two_authorization_headers_are_refused(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        """Envoy once showed the last value only. The request itself is refused already."""
        with pytest.raises(BadRequestError):
            request(("authorization", f"Bearer {token()}"), ("authorization", "Bearer x"))

    def test_cve_2021_32777_two_values_of_any_credential_header_are_refused(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        found = harness.outcome(credentials, request(("x-api-key", API_KEY), ("x-api-key", "x")))
        assert reason_of(found) == RefusalReason.CREDENTIALS_AMBIGUOUS
        assert isinstance(found, Refusal)
        assert found.detail == "more than one credential: 2 different values of header x-api-key"

    @pytest.mark.parametrize(
        "cookies",
        [[("cookie", "session=a; session=b")], [("cookie", "session=a"), ("cookie", "session=b")]],
    )
    def test_cve_2021_32777_two_session_cookies_are_refused(
        self, harness: CredentialsHarness, credentials: Credentials, cookies: list[tuple[str, str]]
    ) -> None:
        assert reason(harness, credentials, request(*cookies)) == RefusalReason.CREDENTIALS_AMBIGUOUS

    def test_two_kinds_of_credential_are_refused(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        both = request(("authorization", f"Bearer {token()}"), ("x-api-key", API_KEY))
        found = harness.outcome(credentials, both)
        assert isinstance(found, Refusal)
        assert found.reason == RefusalReason.CREDENTIALS_AMBIGUOUS
        assert found.detail.endswith("one in header authorization, one in header x-api-key")

    @pytest.mark.parametrize(
        "headers",
        [
            [("cookie", "jwt=TOKEN; jwt=TOKEN")],
            [("cookie", "jwt=TOKEN"), ("cookie", "a=b; jwt=TOKEN")],
            [("cookie", "jwt=; jwt=TOKEN")],
            [("cookie", 'jwt=TOKEN; jwt=""; session=""')],
            [("cookie", "jwt=TOKEN; jwt; session=")],
            [("x-token", "TOKEN"), ("x-token", "TOKEN"), ("x-api-key", ""), ("authorization", "")],
        ],
    )
    def test_oauth2_proxy_2606_equal_values_are_one_and_an_empty_one_is_none(
        self, harness: CredentialsHarness, headers: list[tuple[str, str]]
    ) -> None:
        locations = [{"cookie": "jwt"}, {"header": "x-token"}]
        credentials = harness.credentials(block(harness, tokens={"locations": locations}))
        text = token()
        sent = [(name, value.replace("TOKEN", text)) for name, value in headers]
        assert kind(harness, credentials, request(*sent)) == CredentialKind.JWT

    @pytest.mark.parametrize(
        "of",
        [
            request(("cookie", "session=")),
            request(("cookie", "session=; session=")),
            request(("cookie", 'session=""; jwt=""')),
            request(("x-api-key", ""), ("x-api-key", "")),
            request(("authorization", "")),
        ],
    )
    def test_an_empty_credential_is_none(
        self, harness: CredentialsHarness, credentials: Credentials, of: Request
    ) -> None:
        assert harness.outcome(credentials, of) is None

    def test_an_empty_query_parameter_is_none(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness, tokens={"locations": [{"query": "access_token"}]}))
        assert harness.outcome(credentials, request(path="/?access_token=")) is None
        found = kind(harness, credentials, request(path=f"/?access_token=&access_token={token()}"))
        assert found == CredentialKind.JWT

    def test_one_token_in_two_places_is_refused(self, harness: CredentialsHarness) -> None:
        """RFC 6750 section 2: at most one method a request."""
        locations = [{"header": "authorization", "scheme": "Bearer"}, {"query": "access_token"}]
        credentials = harness.credentials(block(harness, tokens={"locations": locations}))
        text = token()
        twice = request(("authorization", f"Bearer {text}"), path=f"/?access_token={text}")
        assert reason(harness, credentials, twice) == RefusalReason.CREDENTIALS_AMBIGUOUS

    def test_a_repeated_query_parameter_is_refused(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(block(harness, tokens={"locations": [{"query": "access_token"}]}))
        twice = request(path=f"/?access_token={token()}&access_token=x")
        assert reason(harness, credentials, twice) == RefusalReason.CREDENTIALS_AMBIGUOUS


class TestPlaces:
    @pytest.mark.parametrize(
        ("location", "of"),
        [
            ({"header": "x-token"}, lambda text: request(("x-token", text))),
            ({"header": "x-token", "scheme": "Token"}, lambda text: request(("x-token", f"token {text}"))),
            ({"cookie": "jwt"}, lambda text: request(("cookie", f"a=b; jwt={text}"))),
            ({"query": "access_token"}, lambda text: request(path=f"/a?b=c&access_token={text}")),
            (
                {"websocket_protocol": "bearer"},
                lambda text: request(("sec-websocket-protocol", f"chat, bearer.{text}")),
            ),
            (
                {"websocket_protocol": "access_token"},
                lambda text: request(("sec-websocket-protocol", f"access_token, {text}, chat")),
            ),
            (
                {"websocket_protocol": "access_token"},
                lambda text: request(
                    ("sec-websocket-protocol", "access_token"), ("sec-websocket-protocol", text)
                ),
            ),
            (
                {"websocket_protocol": "base64url.bearer.authorization.k8s.io"},
                lambda text: request(
                    (
                        "sec-websocket-protocol",
                        f"base64url.bearer.authorization.k8s.io.{encoded(text.encode())}, binary.k8s.io",
                    )
                ),
            ),
        ],
    )
    def test_a_token_may_be_in_header_cookie_or_query(
        self, harness: CredentialsHarness, location: Any, of: Any
    ) -> None:
        credentials = harness.credentials(block(harness, tokens={"locations": [location]}))
        assert kind(harness, credentials, of(token())) == CredentialKind.JWT
        assert harness.outcome(credentials, bearer(token())) is None

    @pytest.mark.parametrize(
        ("offered", "expected"),
        [
            ("chat", None),
            ("bearer", None),
            ("bearer,", None),
            ("Bearer.TOKEN", None),
            ("bearerTOKEN", None),
            ("bearer.x", RefusalReason.TOKEN_MALFORMED),
            ("bearer, chat", RefusalReason.TOKEN_MALFORMED),
            ("bearer.TOKEN, bearer.x", RefusalReason.CREDENTIALS_AMBIGUOUS),
            ("bearer.x, bearer, TOKEN", RefusalReason.CREDENTIALS_AMBIGUOUS),
        ],
    )
    def test_a_protocol_is_a_credential_only_where_it_is_marked_as_one(
        self, harness: CredentialsHarness, offered: str, expected: RefusalReason | None
    ) -> None:
        credentials = harness.credentials(
            block(harness, tokens={"locations": [{"websocket_protocol": "bearer"}]})
        )
        of = request(("sec-websocket-protocol", offered.replace("TOKEN", token())))
        found = harness.outcome(credentials, of)
        assert (found if found is None else reason_of(found)) == expected

    @pytest.mark.parametrize("value", ["!", "é", "_____w", "eA==="])
    def test_what_is_not_base64url_is_refused(self, harness: CredentialsHarness, value: str) -> None:
        location = {"websocket_protocol": "base64url.bearer"}
        credentials = harness.credentials(block(harness, tokens={"locations": [location]}))
        of = request(("sec-websocket-protocol", f"base64url.bearer.{value}"))
        assert reason(harness, credentials, of) == RefusalReason.TOKEN_MALFORMED

    async def test_dots_tell_kinds_apart_that_share_a_place(self, harness: CredentialsHarness) -> None:
        shared = {"locations": [{"header": "authorization", "scheme": "Bearer"}]}
        keys = [{"id": "ci", "sha256": API_KEY_HASH, "subject": "ci"}]
        credentials = harness.credentials(
            block(harness, sessions=shared, tokens=shared, api_keys=shared | {"keys": keys})
        )
        assert credentials.sessions is not None
        session = await credentials.sessions.create("alice", harness.clock.wall_seconds)
        assert kind(harness, credentials, bearer(session)) == CredentialKind.SESSION
        assert kind(harness, credentials, bearer(API_KEY)) == CredentialKind.API_KEY
        assert kind(harness, credentials, bearer(token())) == CredentialKind.JWT
        assert reason(harness, credentials, bearer("a.b.c.d")) == RefusalReason.TOKEN_MALFORMED

    @pytest.mark.parametrize("more", [MAX_QUERY_PARAMETERS - 1, MAX_QUERY_PARAMETERS])
    def test_a_query_too_long_to_be_read_may_hold_another(
        self, harness: CredentialsHarness, more: int
    ) -> None:
        locations = [{"query": "access_token"}]
        credentials = harness.credentials(block(harness, tokens={"locations": locations}))
        query = f"access_token={token()}{'&a' * (more - 1)}&access_token=other"
        found = reason(harness, credentials, request(path=f"/?{query}"))
        assert found == RefusalReason.CREDENTIALS_AMBIGUOUS

    def test_two_schemes_of_one_header_are_two_kinds(self, harness: CredentialsHarness) -> None:
        keys = [{"id": "ci", "sha256": API_KEY_HASH, "subject": "ci"}]
        location = {"header": "authorization", "scheme": "ApiKey"}
        credentials = harness.credentials(block(harness, api_keys={"locations": [location], "keys": keys}))
        assert kind(harness, credentials, request(("authorization", f"ApiKey {API_KEY}"))) == "api_key"
        assert kind(harness, credentials, bearer(token())) == CredentialKind.JWT

    def test_a_header_with_and_without_scheme_is_an_error(self, harness: CredentialsHarness) -> None:
        locations = [{"header": "x-token", "scheme": "Token"}, {"header": "x-token"}]
        with pytest.raises(ValueError, match="both with a scheme and without"):
            harness.config(block(harness, tokens={"locations": locations}))

    @pytest.mark.parametrize(
        ("location", "message"),
        [
            ({}, "exactly one"),
            ({"header": "a", "cookie": "b"}, "exactly one"),
            ({"cookie": "a", "scheme": "Bearer"}, "a header"),
            ({"header": "authorization"}, "needs a scheme"),
            ({"header": "X-Upper"}, "expected text as in"),
        ],
    )
    def test_a_location_that_makes_no_sense_is_an_error(
        self, harness: CredentialsHarness, location: Any, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            harness.config(block(harness, tokens={"locations": [location]}))
