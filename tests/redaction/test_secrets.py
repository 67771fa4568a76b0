"""A secret is found wherever a text holds it, and however it is spelled."""

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redaction import DEFAULT_QUERY_PARAMETERS, LONGEST_TEXT, REDACTED, Secrets

SECRET = "hunter2"
SECRETS = Secrets()
TOKEN = "9aF3kQ7zX1mB5vT8cW2e"


def query(text: str) -> tuple[str, list[str]]:
    found: list[str] = []
    return SECRETS.query(text, "q", found), found


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
            "my_token=1",
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


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (f"/reset/{TOKEN}", f"/reset/{REDACTED}"),
        (f"/reset/{TOKEN}/now", f"/reset/{REDACTED}/now"),
        (f"/bot123456:{TOKEN}/send", f"/bot123456:{REDACTED}/send"),
        (f"/a;jsessionid={SECRET}/b", f"/a;jsessionid={REDACTED}/b"),
        (f"/a;v=1;token={SECRET};w=2/b", f"/a;v=1;token={REDACTED};w=2/b"),
        (f"/a/token={SECRET}", f"/a/token={REDACTED}"),
        (f"/go/https://u:{SECRET}@h/x", f"/go/https://{REDACTED}@h/x"),
        (f"/go/https:/u:{SECRET}@h/x", f"/go/https:/{REDACTED}@h/x"),
        (f"/go/https:/u:p@{SECRET}@h/x", f"/go/https:/{REDACTED}@h/x"),
        (f"/go/https%3A%2F%2Fu%3A{SECRET}%40h", f"/go/{REDACTED}"),
        (f"/go/x%3Ftoken%3D{SECRET}", f"/go/{REDACTED}"),
        (f"/go/x%253Ftoken%253D{SECRET}/y", f"/go/{REDACTED}/y"),
        (f"/go/{quote(json.dumps({'token': SECRET}))}", f"/go/{REDACTED}"),
        (f"/x/{TOKEN[:10]}%{ord(TOKEN[10]):02x}{TOKEN[11:]}", f"/x/{REDACTED}"),
        ("/x/eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.", f"/x/{REDACTED}"),
        (f"/x/{TOKEN}!", f"/x/{REDACTED}!"),
    ],
)
def test_a_path(raw: str, shown: str) -> None:
    assert path(raw)[0] == shown
    assert path(raw)[1]


@pytest.mark.parametrize(
    "plain",
    [
        *(
            "/v1/orders/550e8400-e29b-41d4-a716-446655440000",
            "/orders/550E8400-E29B-41D4-A716-446655440000/lines",
        ),
        *(
            "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
            "/v1/users:batchGet",
            "/a;v=1/b=c",
        ),
        *(
            "/blog/how-to-build-a-small-rate-limiter-in-python-3-11",
            "/caf%C3%A9/x",
            "/@scope/package",
            "/",
            "",
        ),
        *(
            "/order-550e8400-e29b-41d4-a716-446655440000",
            "/users/jo@example.com",
            "/12345678901234567890",
            "/a%ffb",
        ),
        *(
            "/static/app-2.14.0-linux-x86_64.tar.gz",
            "/ListPaginatedCustomerTransactionHistory",
            "*",
            "no-slash",
        ),
    ],
)
def test_a_path_that_can_be_read_stays_as_it_is(plain: str) -> None:
    assert path(plain) == (plain, [])


def test_names_of_the_settings_add_to_the_defaults() -> None:
    secrets = Secrets(headers=["X-Mine"], query_parameters=["my_param"])
    assert secrets.is_key("x_mine")
    assert secrets.is_key("cookie")
    found: list[str] = []
    assert secrets.query("myParam=1&token=2", "q", found) == f"myParam={REDACTED}&token={REDACTED}"


@given(st.text(alphabet="%25&;?#=\"'[]{}:/@+\\ aeyJ.token", max_size=60))
def test_any_text_is_searched_and_comes_to_rest(text: str) -> None:
    for clean in (SECRETS.query, SECRETS.text, SECRETS.path):
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
            "%20b",
        ),
        *("%253D", "\\u0074", "a-", "Aa1", "1-", "%2525", "?", "#;"),
    ],
)
def test_no_text_takes_longer_than_its_length(hostile: str) -> None:
    """60 kB of percent signs once held the event loop, and authz with it, for 30 s."""
    text = (hostile * LONGEST_TEXT)[:LONGEST_TEXT]
    for _ in range(10):
        for clean in (SECRETS.query, SECRETS.text, SECRETS.path, SECRETS.credentials):
            clean(text, "x", [])
