"""Rules compare every value of a header: repeated, joined by commas, next to bytes that are not text.

CVE-2021-32777: authz saw only the last of repeated headers. CVE-2026-26308, GHSA-ghc4-35x6-crw5: a value
joined to others evaded a deny rule. CVE-2023-27488: bytes that are not UTF-8 made a message that authz could
not parse. GHSA-gv94-wp4h-vv8p: a tab after `Bearer`.
"""

from typing import Any

import yaml

from sidecars.demo.ask import EdgeResponse
from sidecars.demo.edge import Edge
from tests.support.bare_envoy import add_bare_listener, refused, send

RULES = """
- {name: office, paths: [/office], allow: anyone}
- {name: marked, paths: [/office], deny: anyone, headers: {x-mark: bad}}
- {name: agents, paths: [/office], deny: anyone, headers: {user-agent: {prefix: evil}}}
- {name: groups, paths: [/office], deny: anyone, when: "'x-group' in headers && 'bad' in headers['x-group']"}
- {name: tenants, paths: [/tenants], allow: anyone, headers: {x-tenant: acme}}
"""
DENIED, UNMET, MALFORMED = "authz denied_by_rule", "authz conditions_unmet", "authz token_malformed"
NO_TEXT = b"\xff\xfe\x80"

change_envoy = add_bare_listener


async def scenario(edge: Edge) -> None:
    def configure(policy: dict[str, Any]) -> None:
        policy["rules"] += yaml.safe_load(RULES)

    await edge.change_policy(configure)
    await _deny_rules(edge)
    await _allow_rules(edge)
    await _no_text(edge)
    await _bearer(edge)


async def _deny_rules(edge: Edge) -> None:
    # Envoy itself joins some headers, such as user-agent, even with encode_raw_headers.
    for name, bad in (("x-mark", "bad"), ("X-Mark", "bad"), ("x-group", "bad"), ("user-agent", "evil")):
        assert refused(await _ask(edge, "/office", (name, "good"))) == ""
        for values in (
            (bad,),
            (bad, "good"),
            ("good", bad),
            ("good", bad, "good"),
            (f"{bad},good",),
            (f"good,{bad}",),
            (f"good, {bad}",),
            (f"good ,\t{bad} ",),
            ("good,good", f"good,{bad}"),
            (f",{bad}",),
            ("", bad),
        ):
            answer = await _ask(edge, "/office", *((name, value) for value in values))
            assert refused(answer) == DENIED, (name, values)


async def _allow_rules(edge: Edge) -> None:
    assert (await _ask(edge, "/tenants", ("x-tenant", "acme"))).status == 200
    for values in (("acme", "globex"), ("globex", "acme"), ("acme,globex",), ("globex, acme",)):
        answer = await _ask(edge, "/tenants", *(("x-tenant", value) for value in values))
        assert refused(answer) == UNMET, values


async def _no_text(edge: Edge) -> None:
    answer = await _ask(edge, "/office", ("x-other", NO_TEXT))
    assert (answer.status, refused(answer)) == (200, "")
    seen = dict(edge.echo.received[-1]["headers"])
    assert seen["x-other"].encode(errors="surrogateescape") == NO_TEXT
    for line in (("x-other", NO_TEXT), ("x-mark", NO_TEXT), ("x-mark", NO_TEXT + b",good")):
        assert refused(await _ask(edge, "/office", line, ("x-mark", "bad"))) == DENIED, line
    assert refused(await _ask(edge, "/office", ("x-mark", NO_TEXT + b", bad"))) == DENIED
    assert refused(await _ask(edge, "/office", ("user-agent", b"evil" + NO_TEXT))) == DENIED
    assert (await _ask(edge, "/tenants", ("x-tenant", "acme"), ("x-other", NO_TEXT))).status == 200
    for value in (b"acme" + NO_TEXT, NO_TEXT + b"acme", NO_TEXT):
        assert refused(await _ask(edge, "/tenants", ("x-tenant", value))) == UNMET, value


async def _bearer(edge: Edge) -> None:
    token = edge.provider.token("alice", "orders:read").encode()
    for scheme in (b"Bearer ", b"bearer ", b"BEARER "):
        assert (await _ask(edge, "/orders", ("authorization", scheme + token))).status == 200, scheme
    for value in (
        b"Bearer\t" + token,
        b"Bearer  " + token,
        b"Bearer " + token + NO_TEXT,
        b"Bearer " + NO_TEXT,
    ):
        assert refused(await _ask(edge, "/orders", ("authorization", value))) == MALFORMED, value


async def _ask(edge: Edge, path: str, *headers: tuple[str, str | bytes]) -> EdgeResponse:
    return await send(edge, path, headers, listener="edge")
