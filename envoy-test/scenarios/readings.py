"""What an upstream reads as denied is denied, with every kind of listener.

`tests/attacks/upstreams.json` records the spellings and how real servers read them. They pass through the
edge of `envoy.yaml`, one without its hardening, and one that sends headers and bodies to authz as text, with
`!` for bytes that are not UTF-8 (envoy#22996). Each form of deny rule in the policy language has its own
host, and everything else is allowed.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from sidecars.demo.ask import EdgeResponse
from sidecars.demo.configuration import http_filters, http_manager
from sidecars.demo.edge import Edge
from tests.support.attacks.facts import FACTS, FORM, OPEN, Fact, rules_against
from tests.support.bare_envoy import BARE, add_bare_listener, refused, send, send_http2

TEXT = "text"
"""The name of the listener that sends headers and bodies to authz as text."""

LISTENERS = ("edge", BARE, TEXT)
BODY = {"max_request_bytes": 8192, "allow_partial_message": True, "pack_as_bytes": True}
HOSTS = {
    rule: f"r{number}.example" for number, rule in enumerate({r for f in FACTS for r in rules_against(f)})
}
BYTES = "bytes.example"
READ_AS = {(fact.kind, fact.means, fact.sent) for fact in FACTS}

BYTES_RULES = """
- {name: bytes, hosts: [bytes.example], allow: anyone}
- {name: header, hosts: [bytes.example], deny: anyone, headers: {x-role: admin}}
- {name: query, hosts: [bytes.example], deny: anyone, query: {role: admin}}
- {name: body, hosts: [bytes.example], methods: [POST], deny: anyone, when: body.role == 'admin'}
"""


def change_envoy(configuration: dict[str, Any], folder: Path) -> None:
    add_bare_listener(configuration, folder)
    listeners = configuration["static_resources"]["listeners"]
    [bare] = [one for one in listeners if one["name"] == BARE]
    text = deepcopy(bare)
    text["name"] = TEXT
    listeners.append(text)
    for listener in listeners:
        if listener["name"] in LISTENERS:
            authz = http_filters(listener)["envoy.filters.http.ext_authz"]
            authz["with_request_body"] = {**BODY, "pack_as_bytes": listener is not text}
            authz["encode_raw_headers"] = listener is not text
            for virtual_host in http_manager(listener)["route_config"]["virtual_hosts"]:
                virtual_host["domains"] = ["*"]


async def scenario(edge: Edge) -> None:
    def configure(policy: dict[str, Any]) -> None:
        policy["paths"] = {"case": "ignore", "trailing_slash": "ignore"}
        closed = [
            {"name": rule, "hosts": [host], "deny": "anyone", **yaml.safe_load(f"{{{rule}}}")}
            for rule, host in HOSTS.items()
        ]
        opened = {**yaml.safe_load(OPEN), "hosts": [*HOSTS.values()]}
        policy["rules"] = [*closed, *yaml.safe_load(BYTES_RULES), opened]

    await edge.change_policy(configure)
    for fact in FACTS:
        for rule in rules_against(fact):
            for listener in LISTENERS:
                await _ask(edge, fact, rule, listener)
    await _bytes_that_are_no_text(edge)
    await _blanks_around_values(edge)
    await _what_a_client_chooses_about_a_body(edge)
    await _marks_that_are_themselves(edge)


async def _ask(edge: Edge, fact: Fact, rule: str, listener: str) -> None:
    """Check that the request is refused, or that Envoy sends a path that no upstream reads as denied."""
    edge.echo.received.clear()
    path = {"path": fact.sent, "query": f"/x?{fact.sent}"}.get(fact.kind, "/x")
    headers, body = [], b""
    if fact.kind == "header":
        headers = [(fact.sent, "admin")]
    elif fact.kind in {"form", "json"}:
        headers, body = (
            [("content-type", FORM if fact.kind == "form" else "application/json")],
            fact.sent.encode(),
        )
    method = "POST" if body else "GET"
    answer = await send(edge, path, headers, listener=listener, host=HOSTS[rule], method=method, body=body)
    if answer.status == 200 and listener == "edge" and fact.kind == "path":
        assert (fact.kind, fact.means, edge.echo.received[-1]["path"]) not in READ_AS, (fact, rule)
        return
    found = refused(answer)
    assert found.startswith(("authz denied_by_rule", "authz path_", "envoy ")), (
        str(fact),
        rule,
        listener,
        found,
    )
    assert not edge.echo.received


async def _bytes_that_are_no_text(edge: Edge) -> None:
    """The upstream gets the bytes, and may ignore them, as in `adm?in`."""
    role = ("x-role", b"adm\xffin")
    # If authz gets the bytes, it compares them: the value is not the word.
    assert refused(await _send(edge, BARE, "/x", role)) == ""
    assert refused(await _send(edge, TEXT, "/x", role)) == "authz denied_by_rule"
    assert refused(await _send(edge, TEXT, "/x", ("x-role", b"user, adm\xffin"))) == "authz denied_by_rule"
    form = ("content-type", FORM)
    for listener in LISTENERS:
        assert refused(await _send(edge, listener, "/x?role=adm%ffin")) == "authz denied_by_rule"
        for body in (b"role=adm\xffin", b"role=adm%ffin", b'{"role": "adm\xffin"}'):
            answer = await _send(edge, listener, "/x", form, body=body)
            assert refused(answer) == "authz denied_by_rule", (listener, body)
    for path, found in ((b"/adm\xffin", "authz path_masked"), (b"/x?role=adm\xffin", "authz denied_by_rule")):
        answer = await send_http2(edge, path, listener=TEXT, authority=BYTES)
        assert refused(answer) == found, path
        answer = await send_http2(edge, path, listener=BARE, authority=BYTES)
        assert refused(answer) == "authz path_not_utf8", path


async def _blanks_around_values(edge: Edge) -> None:
    """Envoy passes them on from HTTP/2, and the upstream, which uses HTTP/1, reads the value without them."""
    for listener in LISTENERS:
        for value in (b" admin", b"admin ", b"\tadmin\t", b"user ,\tadmin "):
            answer = await send_http2(edge, b"/x", [(b"x-role", value)], listener=listener, authority=BYTES)
            assert refused(answer) == "authz denied_by_rule", (listener, value)
        answer = await send_http2(edge, b"/x", [(b"x-role", b" user ")], listener=listener, authority=BYTES)
        assert answer.upstream_values("x-role") == ["user"], listener


async def _what_a_client_chooses_about_a_body(edge: Edge) -> None:
    """A forged content type, other value types, and a body that seems absent."""
    for listener in LISTENERS:
        for kind, body in (
            (FORM, b'{"role":"admin","x":"="}'),
            ("text/plain", b'{"role":"admin"}'),
            ("application/json", b'{"role":["admin"]}'),
            ("application/json", b'{"role":{"0":"admin"}}'),
            ("application/json", rb'{"role":"admin\u0000"}'),
        ):
            answer = await _send(edge, listener, "/x", ("content-type", kind), body=body)
            assert refused(answer) == "authz denied_by_rule", (listener, kind, body)
        forged = ("x-envoy-auth-partial-body", "false")
        answer = await _send(edge, listener, "/x", ("content-type", FORM), forged, body=b"role=admin")
        assert refused(answer) == "authz denied_by_rule", listener
        answer = await _send(edge, listener, "/x", ("content-type", FORM), body=b"role=user")
        assert answer.status == 200, listener


async def _marks_that_are_themselves(edge: Edge) -> None:
    """If authz gets the bytes, a `!` is a literal `!`."""
    for listener in ("edge", BARE):
        assert (await _send(edge, listener, "/hi!?q=hi!&role=hi!", ("x-role", "hi!"))).status == 200
        body = b"role=user&note=hi!"
        assert (await _send(edge, listener, "/x", ("content-type", FORM), body=body)).status == 200
    assert (await _send(edge, TEXT, "/x?q=hi!", ("x-other", "hi!"))).status == 200


async def _send(
    edge: Edge, listener: str, path: str, *headers: tuple[str, str | bytes], body: bytes = b""
) -> EdgeResponse:
    method = "POST" if body else "GET"
    return await send(edge, path, headers, listener=listener, host=BYTES, method=method, body=body)
