"""How a difference between two policies is described, and what makes none."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.policy_changes import changes, compared

HASH = "0f1d3c5a9b8e7f6a5d4c3b2a190807060504030201f0e1d2c3b4a5968778695a"


class TestWords:
    def test_changes_outside_of_rules_are_shown_key_by_key(self, tmp_path: Path) -> None:
        old = """
credentials: {issuers: [{issuer: "https://a.example", audiences: [x], jwks: {file: a.json}}]}
rules: []
"""
        new = """
credentials: {issuers: [{issuer: "https://a.example", audiences: any, jwks: {file: a.json}}]}
strip_session_cookie: false
metadata: {tenant: "{claims.tenant}"}
identity_headers: {x-auth-subject: subject}
rules: []
"""
        assert changes(tmp_path, old, new)["whole"] == {
            "credentials.issuers[https://a.example].audiences": ("[x]", "any"),
            "identity_headers.x-auth-issuer": ("issuer", ""),
            "identity_headers.x-auth-scopes": ("scopes", ""),
            "identity_headers.x-auth-roles": ("roles", ""),
            "metadata.tenant": ("", "{claims.tenant}"),
            "strip_session_cookie": ("true", "false"),
        }

    def test_a_changed_rule_is_shown_in_the_words_of_the_language(self, tmp_path: Path) -> None:
        rule = {"name": "r", "allow": "anyone", "cors": {"origins": ["https://a.example"]}}
        new = {**rule, "accept_in_path": ["parameters"], "cors": {**rule["cors"], "credentials": True}}  # type: ignore[dict-item]
        assert changes(tmp_path, {"rules": [rule]}, {"rules": [new]})["r"] == {
            "cors.credentials": ("false", "true"),
            "accept_in_path": ("[]", "[parameters]"),
        }

    def test_values_that_read_the_same_are_shown_as_written(self, tmp_path: Path) -> None:
        old, new = ({"rules": [{"name": "r", "deny": {"subjects": one}}]} for one in (["a or b"], ["a", "b"]))
        shown = changes(tmp_path, old, new)["r"]
        assert shown == {"deny": ('[{"subjects":["a or b"]}]', '[{"subjects":["a","b"]}]')}

    def test_no_hash_of_a_key_is_shown_in_full(self, tmp_path: Path) -> None:
        def policy(*keys: tuple[str, str]) -> Any:
            blocks = [{"id": name, "sha256": one, "subject": "s"} for name, one in keys]
            return {"credentials": {"api_keys": {"keys": blocks, "file": "k.yaml"}}}

        other = HASH[:10] + HASH[10:][::-1]
        for old, new in (
            (policy(("k", HASH)), policy(("k", other))),
            (policy(("k", HASH)), policy()),
            (policy(("k", HASH), ("l", other)), policy(("l", other), ("k", HASH))),
            (policy(("k", HASH)), {}),
        ):
            text = str(changes(tmp_path, old, new))
            assert HASH[:8] in text
            assert HASH[:12] not in text
            assert other[-12:] not in text
        shown = changes(tmp_path, policy(("k", HASH)), policy(("k", other)))["whole"]
        assert shown == {"credentials.api_keys.keys[k].sha256": ("0f1d3c5a...", "0f1d3c5a... (different)")}

    def test_the_number_1_differs_from_true(self, tmp_path: Path) -> None:
        old, new = (
            {"rules": [{"name": "r", "allow": {"claims": {"a": {"one_of": [one]}}}}]} for one in (1, True)
        )
        assert changes(tmp_path, old, new)


class TestMeaning:
    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("rules: [{name: r, allow: anyone}]", "rules: [{allow: [anyone], name: r, hosts: ['*']}]"),
            (
                "rules: [{name: r, allow: anyone, client: 10.0.0.0/8}]",
                "conditions: {c: {client: [10.0.0.0/8]}}\nrules: [{name: r, allow: anyone, if: c}]",
            ),
            (
                "rules: [{name: r, allow: anyone, owner: o, query: {q: a}}]",
                "defaults: {d: {owner: o, query: {q: a}}}\nrules: [{name: r, allow: anyone, inherit: d}]",
            ),
            (
                "rules: [{name: r, allow: anyone}]",
                "credentials: {}\nmetadata: {}\nrules: [{name: r, allow: anyone}]\nstrip_session_cookie: yes",
            ),
            (
                "rules: [{name: a, allow: anyone, paths: [/a]}, {name: d, deny: anyone, paths: [/b]}]",
                "rules: [{name: d, deny: anyone, paths: [/b]}, {name: a, allow: anyone, paths: [/a]}]",
            ),
            *[("credentials: {api_keys: {file: next-to-the-policy.yaml}}",) * 2],
        ],
    )
    def test_policies_with_the_same_meaning_do_not_differ(self, tmp_path: Path, old: str, new: str) -> None:
        assert not compared(tmp_path, old, new)

    def test_a_moved_rule_is_shown_because_the_first_allow_rule_decides(self, tmp_path: Path) -> None:
        rules = [{"name": name, "allow": "anyone", "paths": ["/x"]} for name in "abcde"]
        moved = [rules[0], rules[2], rules[3], rules[1], rules[4]]
        assert changes(tmp_path, {"rules": rules}, {"rules": moved}) == {
            "b": {"position": ("after a", "after d")},
        }
        assert changes(tmp_path, {"rules": rules}, {"rules": [rules[4], *rules[:4]]}) == {
            "e": {"position": ("after d", "first")},
        }
