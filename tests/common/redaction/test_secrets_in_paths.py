"""A secret in a path is found, and a path without a secret stays readable."""

import json
from urllib.parse import quote

import pytest

from common.redaction import REDACTED, Secrets

SECRET = "hunter2"
SECRETS = Secrets()
TOKEN = "9aF3kQ7zX1mB5vT8cW2e"


def path(text: str) -> tuple[str, list[str]]:
    found: list[str] = []
    return SECRETS.path(text, "p", found), found


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
        (f'/x/{{"token":"{SECRET}"}}', f'/x/{{"token":"{REDACTED}"}}'),
        (f"/x/Bearer%20{SECRET}", f"/x/{REDACTED}"),
        (f"/x/user_token={SECRET}/y", f"/x/user_token={REDACTED}/y"),
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
            "/static/js/main.8f3a2b1c.chunk.js",
            "/assets/vendor-react-BqX3f9dK.js",
            "/fonts/inter-latin-400-normal.b3f4e2d1.woff2",
            "/api/v1/namespaces/default/pods/my-app-deployment-7d4b9c6f8d-x2v9k/log",
            "/maven2/core-1.2.3-SNAPSHOT-20240101.123456-1.jar",
            "/pypi/pydantic_core-2.14.5-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
            "/products/iphone-15-pro-max-256gb-natural-titanium",
            "/ListPaginatedCustomerTransactionHistory",
            "*",
            "no-slash",
        ),
    ],
)
def test_a_path_that_can_be_read_stays_as_it_is(plain: str) -> None:
    assert path(plain) == (plain, [])
