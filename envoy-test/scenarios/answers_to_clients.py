"""Each client gets a denial that it understands: a browser a login, a script its origin, gRPC a status."""

from urllib.parse import parse_qs, urlsplit

from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge
from sidecars.demo.rows import bearer
from sidecars.demo.until import until

RULES = """
- name: scripts
  paths: ["/scripts/{rest=**}"]
  methods: [PUT]
  allow: authenticated
  cors: {origins: [https://app.example], headers: [authorization]}
- {name: closed, paths: [/scripts/closed], deny: anyone}
- {name: members, paths: ["/members/{rest=**}"], allow: authenticated}
- {name: gone, paths: [/gone], deny: anyone, answer: {status: 404, detail: It is gone.}}
- {name: moving, paths: [/moving], deny: anyone, answer: {status: 503, retry_after_seconds: 900}}
- {name: office, paths: [/office], allow: anyone, headers: {x-tenant: acme}}
- {name: greeting, paths: [/greeting], allow: anyone, response_headers: {x-greeting: hello}}
"""
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def scenario(edge: Edge) -> None:
    file = edge.places.policy_file
    file.write_text(f"login: {{url: 'https://login.example/'}}\n{file.read_text()}{RULES}")

    async def known() -> bool:
        return (await ask(edge.url, "/greeting")).status == 200

    await until(known, "the new rules decide")
    assert (await ask(edge.url, "/greeting")).headers.getall("x-greeting") == ["hello"]

    page = await ask(edge.url, "/members/a?b=c", headers=BROWSER)
    assert page.status == 302
    target = urlsplit(page.headers["location"])
    assert (target.netloc, parse_qs(target.query)) == ("login.example", {"return_to": ["/members/a?b=c"]})

    problem = await ask(edge.url, "/members/a", headers={"accept": "application/json"})
    assert (problem.status, problem.headers["content-type"]) == (401, "application/problem+json")
    gone = await ask(edge.url, "/gone", headers=BROWSER)
    assert (gone.status, gone.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert b"It is gone." in gone.body

    moving = await ask(edge.url, "/moving")
    assert (moving.status, moving.headers["retry-after"]) == (503, "900")
    assert b"out of service" in moving.body

    # Envoy itself answers gRPC callers with 200 and a status; envoyproxy/envoy#11079.
    for path, status, message in (
        ("/members/a", "16", "This resource needs a credential."),
        ("/office", "7", "Access to this resource is not allowed."),
        ("/members/%2", "3", "The request could be understood in more than one way."),
    ):
        refused = await ask(
            edge.url, path, method="POST", headers={"content-type": "application/grpc", "te": "trailers"}
        )
        assert refused.status == 200
        assert refused.headers["content-type"] == "application/grpc"
        assert refused.headers.getall("grpc-status") == [status], (path, refused.headers)
        assert refused.headers["grpc-message"].replace("%20", " ") == message

    asks = {"origin": "https://app.example", "access-control-request-method": "PUT"}
    preflight = await ask(edge.url, "/scripts/a", method="OPTIONS", headers=asks)
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert preflight.headers["access-control-allow-methods"] == "PUT"
    stranger = await ask(
        edge.url, "/scripts/a", method="OPTIONS", headers=asks | {"origin": "https://evil.example"}
    )
    assert "access-control-allow-origin" not in stranger.headers

    # The script may read every response (emissary-ingress/emissary#3051, envoyproxy/envoy#23473).
    script = {"origin": "https://app.example"}
    bearers = f"{bearer(edge.provider.token('alice', 'orders:read'))['authorization']}, Bearer x"
    for path, headers, expected in (
        ("/scripts/a", {}, 401),
        ("/scripts/closed", {}, 403),
        ("/scripts/a%2", {}, 400),
        ("/scripts/a", {"authorization": bearers}, 400),
        ("/scripts/a", {"authorization": "Bearer x"}, 401),
    ):
        told = await ask(edge.url, path, method="PUT", headers=script | headers)
        assert told.status == expected, path
        assert told.headers["access-control-allow-origin"] == "https://app.example", path
        assert "origin" in ",".join(told.headers.getall("vary")), path
        assert "accept" in ",".join(told.headers.getall("vary")), path

    # Repeating a header does not evade a rule about its value (CVE-2026-26308).
    assert (await ask(edge.url, "/office", headers={"x-tenant": "acme"})).status == 200
    twice = [("x-tenant", "acme"), ("x-tenant", "globex")]
    assert (await ask(edge.url, "/office", headers=twice)).status == 403
