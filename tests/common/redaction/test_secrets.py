"""A secret is found anywhere in a text, in every spelling."""

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.redaction import DEFAULT_QUERY_PARAMETERS, LONGEST_TEXT, REDACTED, Secrets
from common.redaction.secrets import LONGEST_REMEMBERED, MOST_VALUES

SECRET = "hunter2"
SECRETS = Secrets()
TOKEN = "9aF3kQ7zX1mB5vT8cW2e"


def query(text: str) -> tuple[str, list[str]]:
    found: list[str] = []
    return SECRETS.text(text, "q", found), found


def text_of(text: str) -> tuple[str, list[str]]:
    found: list[str] = []
    return SECRETS.text(text, "t", found), found


def path(text: str) -> tuple[str, list[str]]:
    found: list[str] = []
    return SECRETS.path(text, "p", found), found


@pytest.mark.parametrize("name", sorted(DEFAULT_QUERY_PARAMETERS))
@pytest.mark.parametrize(
    "spell",
    [
        "{}",
        "user[{}]",
        "user[{}][]",
        "user.{}",
        "user%5B{}%5D",
        "user%255B{}%255D",
        "+{}",
        "%20{}",
        "{}+",
        "{}[]",
        "{}%5B0%5D",
        "{}%00",
        "data[0].{}",
    ],
)
def test_a_name_in_a_query(name: str, spell: str) -> None:
    for spelled in (name, name.upper(), name.replace("_", "-"), quote(name).replace("o", "%6f")):
        shown, found = query(f"a=1&{spell.format(spelled)}={SECRET}&b=2")
        assert SECRET not in shown
        assert shown.startswith("a=1&")
        assert shown.endswith("&b=2")
        assert len(found) == 1


def encoded(text: str, times: int) -> str:
    for _ in range(times):
        text = quote(text, safe="")
    return text


WITHIN = (
    f"https://app/cb?code={SECRET}&x=1",
    f"/cb?a=1&token={SECRET}",
    f"https://u:{SECRET}@host/",
    f"https://app/#id_token={SECRET}",
    f"Bearer {SECRET}",
    f"x=1&password={SECRET}",
    f"/reset/{TOKEN}{TOKEN}?x",
    json.dumps({"user": "u", "password": SECRET}),
    json.dumps({"user": {"auth": {"otp": SECRET}}}),
    json.dumps([{"token": [SECRET]}]),
    json.dumps({"a": json.dumps({"client_secret": SECRET})}),
    f'{{"\\u0074oken": "{SECRET}"}}',
    f"{{'pwd': '{SECRET}'}}",
)


@pytest.mark.parametrize("within", WITHIN)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_within_the_value_of_a_parameter(within: str, times: int) -> None:
    shown, found = query(f"a=1&next={encoded(within, times)}&b=2")
    decoded = shown.replace("%25", "%").replace("%25", "%")
    assert SECRET not in decoded
    assert TOKEN not in decoded
    assert found
    assert shown.startswith("a=1&")
    assert shown.endswith("&b=2")


@pytest.mark.parametrize(
    "raw",
    [
        f"a=1&next=https://app/reset/{TOKEN}/go&b=2",
        f"a=1&next=/reset/{TOKEN}&b=2",
        f"a=1&next=//app/reset/{TOKEN}?x&b=2",
        f"a=1&next=\\reset\\{TOKEN}&b=2",
        f'a=1&q={{"token":"{SECRET}"}}&b=2',
        f'a=1&query=mutation{{login(user:"a",password:"{SECRET}"){{id}}}}&b=2',
        "a=1&query=" + quote(f'{{login(password: "{SECRET}")}}') + "&b=2",
        f"a=1&x={{token: '{SECRET}'}}&b=2",
        f'a=1&x={{:token => "{SECRET}"}}&b=2',
        f"a=1&x=Authorization:+Bearer+{SECRET}&b=2",
        f"a=1&%u0074oken={SECRET}&b=2",
        f"a=1&x=%u0074oken%3D{SECRET}&b=2",
    ],
)
def test_what_is_not_escaped_or_otherwise(raw: str) -> None:
    shown, found = query(raw)
    assert SECRET not in shown
    assert TOKEN not in shown
    assert found
    assert shown.startswith("a=1&")


@pytest.mark.parametrize(
    "raw",
    [
        f"https://shop/x?next=%2Freset%2F{TOKEN}%3Fx",
        f"https://shop/x?next=https%3A%2F%2Fapp%2Freset%2F{TOKEN}",
        f"https://shop/reset/{TOKEN[:10]}%{ord(TOKEN[10]):02x}{TOKEN[11:]}?a",
        f"shop/reset/{TOKEN}",
        f"see (https://shop/reset/{TOKEN})",
        f"Authorization: Bearer {SECRET}",
        f'curl -H "Authorization: Basic {SECRET}"',
        f'{{"x": "Bearer {SECRET}"}}',
    ],
)
def test_in_a_url_within_a_url_and_in_a_header_within_a_text(raw: str) -> None:
    shown, found = text_of(raw)
    assert SECRET not in shown
    assert TOKEN not in shown
    assert TOKEN[11:] not in shown
    assert found


@pytest.mark.parametrize("scheme", ["Token", "ApiKey", "AWS4-HMAC-SHA256", "OAuth", "NTLM", "Hawk"])
def test_a_scheme_of_a_product(scheme: str) -> None:
    assert SECRETS.credentials(f"{scheme} {SECRET}", "t", []) == f"{scheme} {REDACTED}"


@pytest.mark.parametrize(
    "name",
    [
        *("user_token", "userToken", "X-Gateway-Token", "access_token2", "login_password", "password1"),
        *(
            "new-password-2",
            "userPassword",
            "webhook_secret",
            "google_api_key",
            "SharedAccessKey",
            "x_signature",
        ),
        *("ASP.NET_SessionId", "oauth_signature", "user[github_token]", "slackToken[]"),
    ],
)
def test_a_name_that_ends_as_secrets_do(name: str) -> None:
    assert query(f"a=1&{name}={SECRET}&b=2")[0] == f"a=1&{name}={REDACTED}&b=2"
    assert SECRETS.is_key(name)


@pytest.mark.parametrize(
    "name", ["pageToken", "next_page_token", "continuation-token", "max_tokens", "token_type", "passwordless"]
)
def test_a_name_that_only_holds_such_a_word(name: str) -> None:
    assert query(f"{name}=1") == (f"{name}=1", [])
    assert not SECRETS.is_key(name)


def test_a_name_that_ends_so_may_be_allowed() -> None:
    secrets = Secrets(allow_headers=["x-user-token"], allow_query_parameters=["hotel_code_token"])
    assert secrets.text("hotel_code_token=1&xUserToken=2&other_token=3", "q", []) == (
        f"hotel_code_token=1&xUserToken=2&other_token={REDACTED}"
    )
    with pytest.raises(ValueError, match="not a header redacted by default"):
        Secrets(allow_headers=["x-user-tokens"])


def test_beyond_so_many_values_none_is_looked_into() -> None:
    """Thousands of escapes in a text must neither block the event loop nor hide a secret."""
    shown, found = query("&".join(["a=%78y=z"] * MOST_VALUES + [f"%61=%74oken%3D{SECRET}", "b=2"]))
    assert shown == "&".join(["a=%78y=z"] * MOST_VALUES + [REDACTED, "b=2"])
    assert found == ["q.not_searched"]
    shown, found = path("/a=%3d" * (MOST_VALUES + 1))
    assert shown == "/a=%3d" * MOST_VALUES + f"/{REDACTED}"
    assert found == ["p.not_searched"]


@pytest.mark.parametrize("within", WITHIN[:-1])
def test_in_a_text(within: str) -> None:
    found: list[str] = []
    shown = SECRETS.text(SECRETS.credentials(within, "t", found), "t", found)
    assert SECRET not in shown
    assert TOKEN not in shown
    assert found


def test_a_parameter_that_is_the_value_of_another() -> None:
    assert query(f"q=password={SECRET}&b=2")[0] == f"q=password={REDACTED}&b=2"


def test_the_value_of_a_name_ends_where_the_next_parameter_begins() -> None:
    assert query("token=a;b&c=d")[0] == f"token={REDACTED}&c=d"
    assert query("next=%2Fa%3Ftoken%3Db%26c%3Dd&e=f") == (f"next=/a?token={REDACTED}%26c=d&e=f", ["q.token"])


@pytest.mark.parametrize(
    "plain",
    [
        *(
            "expand=lines&page=2",
            "tokens=1",
            "token_type=1",
            "x=token",
            "token",
            "password_hint=cat",
            "a=1%26b",
        ),
        *(
            "q=a+b%20c",
            "mail=a@b.example",
            "filter=%7B%22a%22%3A1%7D",
            "next=%2Forders%2F7",
            "t=10:30&mail=a@b",
        ),
        *(
            "id=550e8400-e29b-41d4-a716-446655440000",
            "%",
            "%zz=%",
            "=",
            "&&",
            "statement=x",
            "barcode=1",
            "a=%ff",
        ),
        *("callback=https%3A%2F%2Fapp.example%2Fdone", "sort=-created_at", "author=jo", "passenger=3"),
    ],
)
def test_what_only_looks_alike_stays_as_it_is(plain: str) -> None:
    assert query(plain) == (plain, [])
    assert text_of(f"https://shop.example/a?{plain}") == (f"https://shop.example/a?{plain}", [])


def test_names_of_the_settings_add_to_the_defaults() -> None:
    secrets = Secrets(headers=["X-Mine"], query_parameters=["my_param"])
    assert secrets.is_key("x_mine")
    assert secrets.is_key("cookie")
    found: list[str] = []
    assert secrets.text("myParam=1&token=2", "q", found) == f"myParam={REDACTED}&token={REDACTED}"


@given(st.text(alphabet="%25&;?#=\"'[]{}:/@+\\ aeyJ.token", max_size=60))
def test_any_text_is_searched_and_comes_to_rest(text: str) -> None:
    for clean in (SECRETS.text, SECRETS.path):
        once = clean(text, "x", [])
        again = clean(once, "x", [])
        assert clean(again, "x", []) == again


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "hostile",
    [
        *(
            "%74",
            "%2",
            ";token[",
            "%26token[",
            "//a",
            "&token",
            " ",
            "%25",
            "\\",
            '\\"',
            '"a',
            "'a':",
            '"a": ',
            "@",
            ":@",
        ),
        *(
            "eyJa",
            "eyJaaaaaa.",
            "a@",
            "a:b@",
            "=",
            "a=",
            "&=",
            "/a1b2c3d4e5f6g7h8i9j0",
            "aA",
            "[",
            '{"a":',
            "bearer  ",
            "+",
            "%2B",
            "/%25252561",
            "/x%2525/",
            "&a=%2574oken",
            "a:",
            "a: ",
            "_",
            "%20b",
        ),
        *("%253D", "\\u0074", "a-", "Aa1", "1-", "%2525", "?", "#;"),
    ],
)
def test_no_text_takes_longer_than_its_length(hostile: str) -> None:
    """60 kB of percent signs once blocked the event loop, and so authz, for 30 s."""
    text = (hostile * LONGEST_TEXT)[:LONGEST_TEXT]
    for _ in range(10):
        for clean in (SECRETS.text, SECRETS.path, SECRETS.credentials):
            clean(text, "x", [])


@pytest.mark.parametrize(
    "plain",
    [
        "q=basic+math+for+children&page=2",
        "q=reset+token+of+a+user",
        "q=learn+oauth",
        "q=api+key+management",
        "q=the+mutual+fund+digest",
    ],
)
def test_words_that_are_schemes_too_are_words(plain: str) -> None:
    assert query(plain) == (plain, [])


_FRAGMENTS = (
    *(
        "token",
        "=",
        ":",
        "Bearer ",
        "basic abc",
        "NTLM ",
        " ",
        "\t",
        "/",
        "\\",
        "@",
        '"',
        "'",
        "%3D",
        "+",
        "&",
    ),
    *("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.abcdefghijk", "a8F3kd93Jd83kdLs93kd", "user:pw@host", "https://"),
    *("Mozilla/5.0", "(X11; Linux)", "orders", "{", "}", "\u00a0", "k3Jd9" * 6),
)


@given(st.lists(st.sampled_from(_FRAGMENTS), max_size=8).map("".join))
def test_a_text_is_harmless_if_and_only_if_nothing_in_it_is_redacted(text: str) -> None:
    """Most texts are told from their characters, without a search for each kind of secret."""
    found: list[str] = []
    secrets = Secrets()
    if len(text) <= LONGEST_REMEMBERED:
        assert secrets.is_harmless(text) == (secrets.value(text, "", found) == text and not found)


@pytest.mark.parametrize("scheme", ["Bearer", "token"])
@pytest.mark.parametrize("before", ["=", ":", '"', "'"])
def test_a_scheme_is_found_after_each_character_that_may_precede_it(before: str, scheme: str) -> None:
    found: list[str] = []
    assert "abc123" not in Secrets().text(f"x{before}{scheme} abc123", "", found)
    assert found
