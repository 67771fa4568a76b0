"""A subject reaches rules, headers, limits and logs as it is, or its credential is refused."""

import pytest
from pydantic import ValidationError

from authz.credentials.admin import CredentialAdminError
from authz.request.identity import Identity, Refusal, RefusalReason
from authz.tools.examples import CallerExample
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.signing import NOW, bearer, request, token

CHANGED = ["adm\nin", " admin", "admin ", "\tadmin", "admin\u00a0", "adm\x85in", " "]
UNCHANGED = ["Zoë Admin", "DOMAIN\\admin", "a\u200db", "管理者", "x\u00a0y", "a,b"]


@pytest.mark.parametrize("subject", CHANGED)
def test_a_subject_that_would_change_on_the_way_is_refused(harness: CredentialsHarness, subject: str) -> None:
    credentials = harness.credentials({"issuers": [harness.issuer()]})
    for _ in range(2):
        assert (
            reason_of(harness.outcome(credentials, bearer(token(sub=subject))))
            == RefusalReason.SUBJECT_MALFORMED
        )
    assert harness.metric("authz_credentials_accepted_total", credential="jwt") == 0


@pytest.mark.parametrize("subject", UNCHANGED)
def test_any_other_subject_is_accepted(harness: CredentialsHarness, subject: str) -> None:
    found = harness.outcome(harness.credentials({"issuers": [harness.issuer()]}), bearer(token(sub=subject)))
    assert isinstance(found, Identity)
    assert found.subject == subject


async def test_a_session_of_such_a_subject_is_refused(harness: CredentialsHarness) -> None:
    """Even if it came from the store."""
    credentials = harness.credentials({"sessions": {}})
    credential_admin = credentials.credential_admin
    assert credential_admin is not None
    kept = await credential_admin._sessions.create("adm\nin", NOW)
    found = harness.outcome(credentials, request(("cookie", f"session={kept}")))
    assert reason_of(found) == RefusalReason.SUBJECT_MALFORMED


@pytest.mark.parametrize("text", ["adm\nin", " admin"])
async def test_no_session_is_created_with_such_a_name(harness: CredentialsHarness, text: str) -> None:
    credential_admin = harness.credentials({"sessions": {}}).credential_admin
    assert credential_admin is not None
    for subject, scopes, roles in ((text, (), ()), ("alice", (text,), ()), ("alice", (), (text,))):
        with pytest.raises(CredentialAdminError, match="control characters"):
            await credential_admin.create_session(subject, scopes, roles, {})


def test_a_certificate_with_such_a_name_is_refused(harness: CredentialsHarness) -> None:
    block = {"mtls": {"principals": [" CN=admin"]}}
    found = harness.outcome(harness.credentials(block), request(principal=" CN=admin"))
    assert reason_of(found) == RefusalReason.SUBJECT_MALFORMED


@pytest.mark.parametrize("changes", [{"subject": " ci"}, {"roles": ["adm\nin"]}, {"scopes": ["a "]}])
def test_no_api_key_has_such_a_name(harness: CredentialsHarness, changes: dict[str, object]) -> None:
    key = {"id": "ci", "sha256": "0" * 64, "subject": "ci"} | changes
    with pytest.raises(ValidationError, match="no blanks around it"):
        harness.config({"api_keys": {"keys": [key]}})


def test_a_caller_written_down_for_a_test_is_refused_as_well() -> None:
    outcome = CallerExample(subject="adm\nin").outcome()
    assert isinstance(outcome, Refusal)
    assert outcome.reason == RefusalReason.SUBJECT_MALFORMED
