"""API keys."""

import secrets
from datetime import UTC, date, datetime
from typing import Any

import pytest

from authz.credentials.api_key.config import ApiKeyConfig, ApiKeysConfig
from authz.credentials.api_key.verifier import ApiKeys, load, new_api_key
from authz.request.identity import CredentialKind, Identity, Refusal, RefusalReason
from common.configfile import ConfigError
from tests.support.credentials import CredentialsHarness
from tests.support.signing import NOW

KEY, HASH = new_api_key("ci", lambda length: b"\x07" * length)


def api_keys(**changes: Any) -> ApiKeys:
    block = {"id": "ci", "sha256": HASH, "subject": "builder", "scopes": ["deploy"], "roles": ["bot"]}
    return ApiKeys([ApiKeyConfig.model_validate(block | changes)])


def test_the_right_secret_proves_the_subject() -> None:
    expected = Identity(
        CredentialKind.API_KEY,
        "builder",
        scopes=frozenset({"deploy"}),
        roles=frozenset({"bot"}),
        claims={"key_id": "ci"},
    )
    assert api_keys().verify(KEY, NOW) == expected


@pytest.mark.parametrize(
    "credential",
    [
        "",
        "ci",
        "ci.",
        ".secret",
        KEY[:-1],
        KEY + "A",
        KEY + ".x",
        KEY.replace("ci", "cd"),
        KEY.replace("ci", "CI"),
        f" {KEY}",
        f"{KEY}\n",
        f"ci.{HASH}",
        "ci." + "x" * 257,
        "é." + "x" * 43,
    ],
)
def test_anything_else_proves_nothing(credential: str) -> None:
    outcome = api_keys().verify(credential, NOW)
    assert isinstance(outcome, Refusal)
    assert outcome.reason == RefusalReason.API_KEY_UNKNOWN


@pytest.mark.parametrize(
    "expires",
    [datetime(2027, 1, 15, 8, tzinfo=UTC), datetime(2027, 1, 15, 8), date(2027, 1, 15)],  # noqa: DTZ001
)
def test_a_key_ends_at_its_time(expires: Any) -> None:
    """NOW is 2027-01-15 08:00 UTC; dates and times without a zone are UTC."""
    outcome = api_keys(expires=expires).verify(KEY, NOW)
    assert isinstance(outcome, Refusal)
    assert outcome.reason == RefusalReason.API_KEY_EXPIRED


def test_a_key_holds_until_its_time() -> None:
    outcome = api_keys(expires=datetime(2027, 1, 15, 8, 0, 1, tzinfo=UTC)).verify(KEY, NOW)
    assert isinstance(outcome, Identity)
    assert outcome.expires_at == NOW + 1


def test_new_keys_differ() -> None:
    assert new_api_key("ci", secrets.token_bytes) != new_api_key("ci", secrets.token_bytes)


class TestFile:
    def test_a_file_adds_its_keys(self, harness: CredentialsHarness) -> None:
        harness.write("keys.yaml", f"keys:\n- {{id: ci, sha256: {HASH}, subject: builder}}\n".encode())
        config = ApiKeysConfig.model_validate({"file": "keys.yaml"}, context={"folder": harness.folder})
        assert isinstance(load(config).verify(KEY, NOW), Identity)

    def test_an_error_names_its_line(self, harness: CredentialsHarness) -> None:
        harness.write("keys.yaml", b"keys:\n- {id: ci, sha256: short, subject: builder}\n")
        config = ApiKeysConfig.model_validate({"file": "keys.yaml"}, context={"folder": harness.folder})
        with pytest.raises(ConfigError, match=r"keys.yaml:2: keys\[0\].sha256"):
            load(config)

    def test_a_duplicate_key_is_an_error(self, harness: CredentialsHarness) -> None:
        entry = {"id": "ci", "sha256": HASH, "subject": "builder"}
        harness.write("keys.yaml", f"keys:\n- {{id: ci, sha256: {HASH}, subject: builder}}\n".encode())
        config = ApiKeysConfig.model_validate(
            {"file": "keys.yaml", "keys": [entry]}, context={"folder": harness.folder}
        )
        with pytest.raises(ConfigError, match="duplicate"):
            load(config)
        with pytest.raises(ValueError, match="duplicate"):
            ApiKeysConfig.model_validate({"keys": [entry, entry]})

    def test_a_block_without_keys_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="name keys, or the file"):
            ApiKeysConfig.model_validate({})
