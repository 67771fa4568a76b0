"""Every spelling of a host is the same host (CVE-2021-39155)."""

from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge
from sidecars.demo.until import until

RULES = """
- {name: lax, hosts: ["*.acme.example"], paths: [/hosts], allow: anyone}
- {name: strict, hosts: [api.acme.example], paths: [/hosts], deny: anyone}
"""


async def scenario(edge: Edge) -> None:
    file = edge.places.policy_file
    file.write_text(file.read_text() + RULES)

    async def known() -> bool:
        return (await ask(edge.url, "/hosts", headers={"host": "www.acme.example"})).status == 200

    await until(known, "the new rules decide")
    for host in ("api.acme.example", "API.Acme.Example", "api.acme.example.", "api.acme.example:8443"):
        assert (await ask(edge.url, "/hosts", headers={"host": host})).status == 403, host
        # Nobody but Envoy says what the host is.
        claimed = {
            "host": host,
            "x-forwarded-host": "www.acme.example",
            "x-original-host": "www.acme.example",
        }
        assert (await ask(edge.url, "/hosts", headers=claimed)).status == 403, host
    for host in (
        "www.acme.example@api.acme.example",
        "www.acme.example,api.acme.example",
        "www..acme.example",
    ):
        assert (await ask(edge.url, "/hosts", headers={"host": host})).status in {400, 403}, host
