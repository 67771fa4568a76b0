"""Every spelling of a host is the same host (CVE-2021-39155), and only Envoy determines the host."""

from sidecars.demo.edge import Edge
from sidecars.demo.until import until
from tests.support.bare_envoy import add_bare_listener, refused, send

RULES = """
- {name: lax, hosts: ["*.acme.example"], paths: [/hosts], allow: anyone}
- {name: strict, hosts: [api.acme.example], paths: [/hosts], deny: anyone}
- {name: literal, hosts: ["[2001:db8::1]"], paths: [/hosts], allow: anyone}
"""
STRICT = "authz denied_by_rule"

BY_AUTHZ, BY_ENVOY = "authz host_malformed", "envoy http.invalid_authority"
NO_HOSTS = {
    "": BY_AUTHZ,
    "www.acme.example,api.acme.example": BY_AUTHZ,
    "www.acme.example@api.acme.example": BY_AUTHZ,
    "www..acme.example": BY_AUTHZ,
    "www.acme.example:x": BY_AUTHZ,
    "*.acme.example": BY_AUTHZ,
    "2001:db8::1": BY_AUTHZ,
    "www.acme.example/": BY_ENVOY,
    "b\u00fccher.acme.example": BY_ENVOY,
}
"""Malformed hosts, and who refuses them."""

change_envoy = add_bare_listener


async def scenario(edge: Edge) -> None:
    file = edge.places.policy_file
    file.write_text(file.read_text() + RULES)

    async def known() -> bool:
        return (await send(edge, "/hosts", host="www.acme.example", listener="edge")).status == 200

    await until(known, "the new rules decide")
    for host in ("api.acme.example", "API.Acme.Example", "api.acme.example.", "api.acme.example:8443"):
        assert refused(await send(edge, "/hosts", host=host, listener="edge")) == STRICT, host
        # Only Envoy determines the host.
        claimed = [("x-forwarded-host", "www.acme.example"), ("x-original-host", "www.acme.example")]
        assert refused(await send(edge, "/hosts", claimed, host=host, listener="edge")) == STRICT, host
    for host, who in NO_HOSTS.items():
        answer = await send(edge, "/hosts", host=host, listener="edge")
        assert (answer.status, refused(answer)) == (400, who), host
    await _one_of_two(edge)
    await _literals(edge)


async def _one_of_two(edge: Edge) -> None:
    """If a request names two hosts, authz decides about the one that Envoy sends upstream."""
    www, api = "http://www.acme.example/hosts", "http://api.acme.example/hosts"
    # RFC 9112 section 3.2.2: the absolute form takes precedence.
    assert refused(await send(edge, api, host="www.acme.example", listener="edge")) == STRICT
    absolute = await send(edge, www, host="api.acme.example", listener="edge")
    assert (absolute.status, absolute.upstream_values("host")) == (200, ["www.acme.example"])
    for first, second in (("www", "api"), ("api", "www")):
        twice = [("host", f"{second}.acme.example")]
        refusal = await send(edge, "/hosts", twice, host=f"{first}.acme.example", listener="edge")
        assert (refusal.status, refused(refusal)) == (400, BY_AUTHZ)


async def _literals(edge: Edge) -> None:
    """Authorino cut IPv6 literals at their first colon."""
    for host in ("[2001:db8::1]", "[2001:db8::1]:8443", "[2001:0DB8:0::1]"):
        assert (await send(edge, "/hosts", host=host, listener="edge")).status == 200, host
    assert refused(await send(edge, "/hosts", host="[2001:db8::2]", listener="edge")) == "authz no_rule"
