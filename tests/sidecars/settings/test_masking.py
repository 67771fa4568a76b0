"""What `/config` shows holds no secret."""

import pytest

from sidecars.settings.masking import redact


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "sasl.password",
        "client_secret",
        "token",
        "Secrets",
        "api_key",
        "private_key",
        "redis_password",
        "credentials",
    ],
)
def test_text_under_a_secret_key_is_masked_at_any_depth(key: str) -> None:
    assert redact({"a": [{key: "hunter2", "b": 1}]}) == {"a": [{key: "***", "b": 1}]}


@pytest.mark.parametrize(
    "key", ["password_file", "token_header", "key", "secretary", "max_tokens_per_second"]
)
def test_a_key_that_only_sounds_like_it_stays_readable(key: str) -> None:
    assert redact({key: "/run/x"}) == {key: "/run/x"}


def test_a_value_other_than_text_under_a_secret_key_is_searched() -> None:
    assert redact({"token": {"header": "x", "secret": "y"}, "secret": 5, "password": ""}) == {
        "token": {"header": "x", "secret": "***"},
        "secret": 5,
        "password": "",
    }


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:hunter2@r:1/0", "redis://***@r:1/0"),
        ("rediss://:hunter2@r", "rediss://***@r"),
        ("https://hunter2@h/p?x=a@b", "https://***@h/p?x=a@b"),
        ("https://h/path@2", "https://h/path@2"),
        ("no url: a@b", "no url: a@b"),
    ],
)
def test_credentials_in_a_url_are_masked(url: str, shown: str) -> None:
    assert redact(("x", url)) == ["x", shown]
