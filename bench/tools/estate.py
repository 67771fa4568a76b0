"""A large estate: any number of teams, each with a service, every other one on a shared host."""

from collections.abc import Mapping

_PLATFORM = """\
domain: edge
policy:
  credentials:
    issuers:
      - issuer: https://idp.example
        audiences: [https://api.example.com]
        max_lifetime_seconds: 3600
        jwks: {url: "https://idp.example/keys"}
reserved: {hosts: [admin.example.com], paths: ["/.well-known/{rest=**}"]}
tiers: {gold: {requests: 2000, period: 1s}, silver: {requests: 500, period: 1s}}
ceilings: {requests_per_second: 1000, sample: 0.5, routes: 1000}
defaults:
  who: {allow: authenticated}
  limits: [{per: client, requests: 50, period: 1s}]
  log: {sample: 0.05}
overrides:
  limits: [{per: client, requests: 60000, period: 1m}]
  log: {redact: [{action: drop, headers: [x-card-number]}]}
teams:
"""

_ROUTES = (
    """\
  - id: read-{n}
    methods: [GET, HEAD]
    paths: [/{team}/things-{n}, "/{team}/things-{n}/{{id}}"]
    who: {{allow: {{scopes: ["{team}:read"]}}}}
""",
    """\
  - id: write-{n}
    methods: [POST, PUT, DELETE]
    paths: ["/{team}/things-{n}/{{id}}"]
    who:
      allow: {{any_scope: ["{team}:write", "{team}:admin"]}}
      deny: {{kinds: [api_key]}}
    limits:
      - {{per: subject, requests: 10, period: 1s, burst: 20}}
      - {{share: 20%}}
""",
    """\
  - id: files-{n}
    paths: ["/{team}/files-{n}/{{rest=**}}"]
    limits: [{{per: client, requests: 30, period: 1s}}]
    log: {{sample: 0.2, redact: [{{action: mask, query_parameters: [name]}}]}}
""",
    """\
  - id: open-{n}
    methods: [GET]
    paths: [/{team}/status-{n}]
    who: {{allow: anyone}}
""",
)
"""Four kinds of route. A team has equally many of each."""


def large_estate(teams: int = 500, routes: int = 20) -> Mapping[str, str]:
    """Return the texts of an estate by name: each team has one service with so many routes.

    Odd teams share `api.example.com`, even ones have a host of their own.
    """
    names = [f"team-{number:03}" for number in range(teams)]
    teams_of = "".join(f'  {name}: {{owns: ["{_owned(name, n)}"]}}\n' for n, name in enumerate(names))
    services = {f"services/{name}.yaml": team_service(name, n, routes) for n, name in enumerate(names)}
    return {"platform.yaml": _PLATFORM + teams_of, **services}


def team_service(name: str, number: int, routes: int) -> str:
    """Return the text of the service of a team, the `number`-th of the estate."""
    head = (
        f"service: {name}\nowner: {name}\nhosts: [{_host(name, number)}]\n"
        f'upstream: {{address: "{name}.internal:8080"}}\ntier: {"gold" if number % 3 else "silver"}\n'
        "objectives: {availability: 99.9, latency: 300ms}\nroutes:\n"
    )
    kinds = len(_ROUTES)
    return head + "".join(_ROUTES[n % kinds].format(team=name, n=n // kinds) for n in range(routes))


def _host(name: str, number: int) -> str:
    return "api.example.com" if number % 2 else f"{name}.example.com"


def _owned(name: str, number: int) -> str:
    return f"api.example.com/{name}/{{rest=**}}" if number % 2 else f"{name}.example.com"
