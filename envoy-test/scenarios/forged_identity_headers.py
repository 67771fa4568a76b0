"""Identity headers from a client never reach the upstream, in any spelling, on public paths either."""

import orjson

from authz.request.header_names import fold
from sidecars.demo.ask import EdgeResponse, ask
from sidecars.demo.edge import Edge
from sidecars.demo.rows import bearer
from tests.support.bare_envoy import BARE, add_bare_listener, refused, send

TWINS = ("x_auth_subject", "x-auth_subject", "x_auth-subject", "X_AUTH_SUBJECT", "X-Auth_Subject")
"""Many upstreams read each of these as x-auth-subject (CVE-2025-64484)."""

SIGNS = "!#$%&'*+.^`|~"
"""Characters in a name other than letters, digits, hyphens and underscores: PHP, lighttpd and other CGI-like
servers read `x.auth-subject` as x-auth-subject (GHSA-rf44-j88r-hh8c)."""

change_envoy = add_bare_listener


async def scenario(edge: Edge) -> None:
    token = bearer(edge.provider.token("alice", "orders:read"))
    forged = [("x-auth-subject", "admin"), ("X-Auth-Subject", "root"), ("x-auth-scopes", "everything")]

    public = await ask(edge.url, "/public/hello", headers=forged)
    assert public.status == 200
    assert public.upstream_values("x-auth-subject") == []
    assert public.upstream_values("x-auth-scopes") == []

    known = await ask(edge.url, "/orders", headers=[*token.items(), *forged])
    assert known.status == 200
    assert known.upstream_values("x-auth-subject") == ["alice"]
    assert known.upstream_values("x-auth-scopes") == ["orders:read"]

    for twin in TWINS:
        # Envoy with envoy.yaml rejects such a header.
        refusal = await send(edge, "/public/hello", [(twin, "admin")], listener="edge")
        assert (refusal.status, refused(refusal)) == (400, "envoy http1.unexpected_underscore"), twin
    # An Envoy that accepts them leaves the removal to authz.
    other = await send(edge, "/public/hello", [("x_other", "1")], listener=BARE)
    assert other.upstream_values("x_other") == ["1"]
    for twins in (*((twin,) for twin in TWINS), TWINS):
        lines = [(twin, "admin") for twin in twins]
        assert _subjects(await send(edge, "/public/hello", lines, listener=BARE)) == [], twins
        both = [*token.items(), *lines, ("x-auth-subject", "root")]
        assert _subjects(await send(edge, "/orders", both, listener=BARE)) == ["alice"], twins
    for sign in SIGNS:
        respelled = (f"x{sign}auth{sign}subject", f"X-Auth{sign}Subject")
        unlike = f"x{sign}other"
        for listener in ("edge", BARE):
            lines = [(unlike, "1"), *((name, "admin") for name in respelled)]
            public = await send(edge, "/public/hello", lines, listener=listener)
            assert _folded(public, unlike) == ["1"], (sign, listener)
            assert _folded(public, "x-auth-subject") == [], (sign, listener)
            known = await send(edge, "/orders", [*token.items(), *lines], listener=listener)
            assert _folded(known, "x-auth-subject") == ["alice"], (sign, listener)

    # Envoy refuses the other characters that lighttpd would replace.
    for listener in ("edge", BARE):
        refusal = await send(edge, "/public/hello", [("x\xa0auth-subject", "admin")], listener=listener)
        assert (refusal.status, refused(refusal)) == (400, "envoy http1.codec_error"), listener


def _folded(answer: EdgeResponse, name: str) -> list[str]:
    """Return every value that a server would read for the header if it replaces all punctuation."""
    assert answer.status == 200, answer
    headers = orjson.loads(answer.body)["headers"]
    return [value for found, value in headers if fold(found) == fold(name)]


def _subjects(answer: EdgeResponse) -> list[str]:
    """Return every value that some upstream would read as x-auth-subject."""
    assert answer.status == 200
    spellings = {"x-auth-subject", *(twin.lower() for twin in TWINS)}
    return [value for name in sorted(spellings) for value in answer.upstream_values(name)]
