"""The `credentials:` block over its life: built, reloaded, counted, shown."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from authz.credentials import Credentials, CredentialsConfig
from authz.credentials.core.http import FetchError
from authz.request.identity import Identity
from common.configfile import ConfigError, parse, validate
from tests.support.credentials import CredentialsHarness
from tests.support.signing import (
    AUDIENCE,
    ISSUER,
    bearer,
    jwk,
    key_set,
    private_key,
    request,
    rsa_key,
    token,
)

Start = Callable[[Credentials], Any]


def remote(**jwks: Any) -> dict[str, Any]:
    jwks = {"url": "https://idp.example.com/keys"} | jwks
    return {"issuers": [{"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": jwks}]}


class TestConfig:
    def test_an_empty_block_accepts_no_credential(self, harness: CredentialsHarness) -> None:
        assert harness.outcome(harness.credentials({}), bearer(token())) is None

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("sesions: {}", "did you mean 'sessions'"),
            ("issuers:\n- issuer: a\n  audiences: []\n  jwks: {file: a}", ":3: issuers[0].audiences"),
            ("issuers:\n- issuer: a\n  audiences: some\n  jwks: {file: a}", ":3: issuers[0].audiences"),
            ("issuers:\n- issuer: a\n  audiences: any\n  jwks: {}", ":4: issuers[0].jwks: name exactly one"),
            (
                "issuers:\n- issuer: a\n  audiences: any\n  algorithms: [HS256]\n  jwks: {file: a}",
                ":4: issuers[0].algorithms: 'HS256' is not one of ES256, ES384, ES512, Ed25519, Ed448, EdDSA",
            ),
            (
                "issuers:\n- issuer: a\n  audiences: any\n  algorithms: [none]\n  jwks: {file: a}",
                "'none' is not one of",
            ),
            (
                "issuers:\n- &a {issuer: a, audiences: any, jwks: {file: a}}\n- *a",
                "duplicate issuer 'a'",
            ),
            (
                "sessions: {idle_timeout_seconds: 100, absolute_timeout_seconds: 10}",
                "idle_timeout_seconds cannot be longer",
            ),
            (
                """
                sessions: {locations: [{header: x-a}]}
                api_keys: {locations: [{header: x-a, scheme: K}], file: a}
                """,
                "both with a scheme and without",
            ),
        ],
    )
    def test_a_mistake_is_named_with_its_place(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            validate(parse(text, "policy.yaml"), CredentialsConfig)
        assert message in str(caught.value)

    def test_every_file_that_cannot_be_used_is_reported(self, harness: CredentialsHarness) -> None:
        harness.write("weak.json", key_set(jwk(rsa_key(1024), "weak")))
        issuers = [
            {"issuer": name, "audiences": "any", "jwks": {"file": name}}
            for name in ("gone.json", "weak.json")
        ]
        with pytest.raises(ConfigError) as caught:
            harness.credentials({"issuers": issuers, "api_keys": {"file": "keys.yaml"}})
        text = str(caught.value)
        assert "gone.json: cannot be read" in text
        assert "weak.json: no usable key: RSA of 1024 bits" in text
        assert "keys.yaml: cannot be read" in text

    def test_a_configuration_that_cannot_be_used_leaves_no_trace(self, harness: CredentialsHarness) -> None:
        with pytest.raises(ConfigError):
            harness.credentials({"api_keys": {"file": "keys.yaml"}})
        assert harness.credentials({}) is not None

    def test_the_schema_can_be_written(self) -> None:
        assert json.dumps(CredentialsConfig.model_json_schema())


class TestReload:
    async def test_a_key_set_whose_configuration_stays_is_not_fetched_again(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        harness.key_server.document = key_set(jwk(private_key("ES256")))
        credentials = await started(harness.credentials(remote()))
        credentials.prepare(harness.config(remote() | {"sessions": {}}))()
        assert isinstance(harness.outcome(credentials, bearer(token())), Identity)
        assert harness.key_server.calls == 1

    async def test_a_changed_audience_keeps_the_key_set(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        harness.key_server.document = key_set(jwk(private_key("ES256")))
        credentials = await started(harness.credentials(remote()))
        changed = remote()
        changed["issuers"][0]["audiences"] = ["other"]
        credentials.prepare(harness.config(changed))()
        assert isinstance(harness.outcome(credentials, bearer(token(aud="other"))), Identity)
        assert harness.key_server.calls == 1

    async def test_an_issuer_whose_keys_now_come_from_a_file_reports_no_fetch(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        harness.key_server.document = key_set(jwk(private_key("ES256")))
        credentials = await started(harness.credentials(remote()))
        assert harness.metric("authz_key_set_keys", issuer=ISSUER) == 1
        credentials.prepare(harness.config({"issuers": [harness.issuer()]}))()
        for name in ("authz_key_set_keys", "authz_key_set_age_seconds"):
            assert harness.registry.get_sample_value(name, {"issuer": ISSUER}) is None
        credentials.prepare(harness.config(remote()))()
        await credentials.start()
        assert harness.metric("authz_key_set_keys", issuer=ISSUER) == 1
        assert harness.metric("authz_key_set_fetches_total", issuer=ISSUER, outcome="ok") == 2

    async def test_changed_times_keep_the_keys_until_new_ones_arrive(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        harness.key_server.document = key_set(jwk(private_key("ES256")))
        credentials = await started(harness.credentials(remote()))
        harness.key_server.document = FetchError("connection refused")
        credentials.prepare(harness.config(remote(refresh_seconds=60)))()
        assert isinstance(harness.outcome(credentials, bearer(token())), Identity)

    async def test_sessions_in_memory_survive_changed_times(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials({"sessions": {}})
        assert credentials.sessions is not None
        text = await credentials.sessions.create("alice", harness.clock.wall_seconds)
        credentials.prepare(harness.config({"sessions": {"idle_timeout_seconds": 60}}))()
        assert isinstance(harness.outcome(credentials, request(("cookie", f"session={text}"))), Identity)

    def test_a_bad_configuration_changes_nothing(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials({"issuers": [harness.issuer()]})
        with pytest.raises(ConfigError):
            credentials.prepare(harness.config({"api_keys": {"file": "gone.yaml"}}))
        assert isinstance(harness.outcome(credentials, bearer(token())), Identity)

    def test_a_prepared_configuration_serves_only_once_it_is_swapped_in(
        self, harness: CredentialsHarness
    ) -> None:
        credentials = harness.credentials({"issuers": [harness.issuer()]})
        credentials.prepare(harness.config({}))
        assert isinstance(harness.outcome(credentials, bearer(token())), Identity)

    def test_the_files_to_watch_are_named(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials({"issuers": [harness.issuer()]})
        assert credentials.watched_files == (harness.folder / "keys.json",)


class TestSeen:
    def test_outcomes_are_counted(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials({"issuers": [harness.issuer()]})
        for text in (token(), token(), token(kid="bogus")):
            harness.outcome(credentials, bearer(text))
        assert harness.metric("authz_credentials_accepted_total", credential="jwt") == 2
        assert harness.metric("authz_credentials_refused_total", credential="jwt", reason="key_unknown") == 1

    async def test_an_outcome_that_had_to_wait_is_counted(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        harness.key_server.document = key_set(jwk(private_key("ES256"), "other"))
        credentials = await started(harness.credentials(remote()))
        harness.key_server.document = key_set(jwk(private_key("ES256")))
        harness.clock.advance(31)
        await harness.awaited(credentials, bearer(token()))
        assert harness.metric("authz_credentials_accepted_total", credential="jwt") == 1

    def test_the_state_holds_no_secret(self, harness: CredentialsHarness) -> None:
        sha256 = "ab" * 32
        keys = [{"id": "ci", "sha256": sha256, "subject": "builder"}]
        credentials = harness.credentials({"issuers": [harness.issuer()], "api_keys": {"keys": keys}})
        text = token()
        harness.outcome(credentials, bearer(text))
        state = json.dumps(credentials.describe())
        assert ISSUER in state
        assert sha256 not in state
        assert text not in state

    def test_the_metrics_of_an_issuer_end_with_it(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials(remote())
        assert ISSUER in generate_latest(harness.registry).decode()
        credentials.prepare(harness.config({}))()
        assert ISSUER not in generate_latest(harness.registry).decode()

    def test_two_processes_worth_of_credentials_do_not_share_anything(
        self, harness: CredentialsHarness
    ) -> None:
        first = harness.credentials({"issuers": [harness.issuer()]})
        harness.registry = CollectorRegistry()
        second = harness.credentials({"issuers": [harness.issuer()]})
        harness.outcome(first, bearer(token()))
        assert second.describe()["remembered_tokens"] == 0
