"""docs/migrating-oauth2-proxy.md: authz answers each request as the page says, with real tokens and sessions.

tests/shipping/test_migrating_oauth2_proxy.py asks a real oauth2-proxy.
"""

import time
from pathlib import Path

import orjson
import pytest

from protos.authz_pb2 import CheckResponse
from sidecars.admin.routes import AdminRequest
from tests.support.authz_sidecar import Built
from tests.support.checks import check_request
from tests.support.oauth2_proxy_examples import HOST, Asked, block, requests, signed, user
from tests.support.signing import jwk, key_set, private_key


async def session_of(built: Built, asked: Asked) -> str:
    """Return the cookie of a session with what the identity provider says about the user."""
    claims = user(asked.session or {}, built.now)
    wish = {"subject": claims["sub"], "roles": claims.get("groups", []), "claims": claims}
    [create] = [
        route
        for route in built.sidecar.admin_routes
        if (route.method, route.path) == ("POST", "/authz/sessions")
    ]
    answer = await create.handle(AdminRequest({}, "application/json", orjson.dumps(wish)))
    return f"session={orjson.loads(answer.body)['token']}"


def facts_of(response: CheckResponse, asked: Asked) -> dict[str, str]:
    """Return the facts that the page names. `-`: the upstream gets no such header."""
    ok, facts = response.ok_response, {"status": str(response.denied_response.status.code or 200)}
    kept = {name: text for name, text in asked.headers.items() if name not in ok.headers_to_remove}
    sent = kept | {one.header.key: one.header.value for one in ok.headers}
    return facts | {
        name: sent.get(name.removeprefix("upstream."), "-") for name in asked.ours if name != "status"
    }


@pytest.mark.parametrize("asked", requests(), ids=lambda asked: asked.line)
async def test_authz_answers_as_the_page_says(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_bytes(key_set(jwk(private_key("ES256"))))
    built = Built(tmp_path, block("yaml"), session_admin=True)
    built.now = time.time()
    headers = dict(asked.headers)
    if asked.session is not None:
        headers["cookie"] = await session_of(built, asked)
    if asked.bearer is not None:
        headers["authorization"] = f"Bearer {signed(asked.bearer, built.now)}"
    message = check_request(asked.method, asked.path, HOST, headers, asked.client)
    assert facts_of(built.ask(message), asked) == asked.ours
