"""The authz sidecar against a server that does nothing: cached tokens, many rules, expressions, reloads.

What is compared is measured alternately, and each figure is the median of several runs. Every request has a
JWT that was verified before, and its response has identity headers and metadata.
"""

import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import rsa

from bench.tools import load
from bench.tools.goals import Figures, Goal
from bench.tools.load import Load
from bench.tools.noop_server import PATH
from bench.tools.processes import python_server
from bench.transport import Say, in_turns
from protos.authz_pb2 import CheckRequest, CheckResponse

GOALS = {
    "ratio_grpcio_noop": Goal(at_least=9),
    "ratio_rules_10k": Goal(at_least=0.8),
    "ratio_cel": Goal(at_least=0.5),
    "load_10k_seconds": Goal(at_most=2),
    "swap_stall_ms": Goal(at_most=5),
}
"""Issue 5, "Speed"."""

ISSUER = "https://idp.example"
AUDIENCE = "https://api.example"


@dataclass(frozen=True, slots=True)
class AuthzPlan:
    """How long to measure."""

    turns: int
    seconds: float
    warm_up_seconds: float
    reloads: int


FULL = AuthzPlan(turns=5, seconds=3.0, warm_up_seconds=1.0, reloads=3)
QUICK = AuthzPlan(turns=2, seconds=1.0, warm_up_seconds=0.3, reloads=1)


def run(*, quick: bool, say: Say, transport: str = "native") -> Figures:
    """Measure authz on `transport` (native or grpcio) and return all figures."""
    plan = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        token = issue_token(folder)
        policies = {
            "rules_100": policy_file(folder, 100),
            "rules_10": policy_file(folder, 10),
            "rules_10k": policy_file(folder, 10_000),
            "cel": policy_file(folder, 100, when="claims.tenant == 'acme'"),
        }
        noop = stack.enter_context(python_server("bench.tools.noop_server", "grpcio"))[1]
        servers = {
            key: stack.enter_context(python_server("bench.tools.authz_server", transport, str(file)))
            for key, file in policies.items()
        }
        order = Load(PATH, check_message(token), seconds=plan.seconds, warm_up_seconds=plan.warm_up_seconds)
        for _, port in servers.values():
            _check_allowed(port, order)
        ports = {"grpcio_noop": noop, **{key: port for key, (_, port) in servers.items()}}
        results = in_turns(
            {key: lambda port=port: load.any_load(port, order) for key, port in ports.items()},  # type: ignore[misc]
            plan.turns,
            "4 connections x 16 calls",
            say,
        )
        one = in_turns(
            {"one": lambda: load.any_load(ports["rules_100"], replace(order, connections=1, streams=1))},
            plan.turns,
            "one call in flight",
            say,
        )["one"]
        say("reload of 10,000 rules")
        reload_seconds, stalls_ms, swaps_ms = reloads(servers["rules_10k"][0], plan.reloads)
    rps = {key: result.rps for key, result in results.items()}
    return {
        "transport": transport,
        **{f"{key}_rps": value for key, value in rps.items()},
        "ratio_grpcio_noop": rps["rules_100"] / rps["grpcio_noop"],
        "ratio_rules_10k": rps["rules_10k"] / rps["rules_10"],
        "ratio_cel": rps["cel"] / rps["rules_100"],
        "rules_100_p50_us": results["rules_100"].p50_us,
        "rules_100_p99_us": results["rules_100"].p99_us,
        "one_p50_us": one.p50_us,
        "load_10k_seconds": reload_seconds,
        "swap_stall_ms": stalls_ms,
        "swap_alone_ms": swaps_ms,
    }


def issue_token(folder: Path) -> str:
    """Return a token that is valid for an hour; the keys of its issuer are written into the folder."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    (folder / "keys.json").write_bytes(orjson.dumps({"keys": [{**public, "kid": "bench", "alg": "RS256"}]}))
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": now,
        "exp": now + 3600,
        "scope": "orders:read orders:write",
        "tenant": "acme",
    }
    return jwt.encode(claims, key, algorithm="RS256", headers={"kid": "bench"})


def policy_file(folder: Path, rules: int, when: str = "") -> Path:
    """Write a policy with that many rules, each for one service; requests go to the one in the middle."""
    condition = f"    when: {orjson.dumps(when).decode()}\n" if when else ""
    text = [
        "credentials:\n  issuers:\n",
        f"    - {{issuer: {ISSUER!r}, audiences: [{AUDIENCE!r}], jwks: {{file: keys.json}}}}\nrules:\n",
    ]
    for number in range(rules):
        name = "target" if number == rules // 2 else f"service-{number}"
        text.append(
            f"  - name: {name}\n    owner: team-{number % 20}\n    hosts: [api.example.com]\n"
            f"    methods: [GET, POST]\n    paths: [/{name}/orders, '/{name}/orders/{{id}}']\n"
            f"{condition}    allow: {{scopes: ['orders:read']}}\n"
        )
    file = folder / f"policy-{rules}{'-cel' if when else ''}.yaml"
    file.write_text("".join(text))
    return file


def check_message(token: str) -> bytes:
    """Return the check request of Envoy for a browser's request, about 1.5 KB."""
    message = CheckRequest()
    attributes = message.attributes
    attributes.source.address.socket_address.address = "192.0.2.1"
    http = attributes.request.http
    http.id, http.method, http.scheme, http.protocol = "1234567890", "GET", "https", "HTTP/2"
    http.host, http.path = "api.example.com", "/target/orders/42?fields=total"
    http.headers.update(
        {
            ":authority": "api.example.com",
            ":method": "GET",
            ":path": http.path,
            ":scheme": "https",
            "accept": "application/json, text/plain, */*",
            "accept-encoding": "gzip, deflate, br, zstd",
            "accept-language": "en-GB,en;q=0.9,de;q=0.8",
            "authorization": f"Bearer {token}",
            "referer": "https://app.example.com/orders",
            "user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)",
            "x-forwarded-for": "192.0.2.1",
            "x-forwarded-proto": "https",
            "x-request-id": "7e0f5c1a-2b0d-4b8f-9d52-0c6f6d2f7a11",
        }
    )
    return message.SerializeToString()


def _check_allowed(port: int, order: Load) -> None:
    """Raise LoadError unless the request is allowed: a server that denies is fast, too."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask: Any = channel.unary_unary(order.path)
        answer = CheckResponse.FromString(ask(order.message, timeout=20, wait_for_ready=True))
    if answer.status.code or not answer.ok_response.headers or not answer.dynamic_metadata.fields:
        raise load.LoadError(str(answer))


def reloads(server: subprocess.Popen[bytes], times: int) -> tuple[float, float, float]:
    """Return the medians: seconds to load, and in ms the longest loop delay and the swap."""
    assert server.stdout is not None  # noqa: S101  # asked for with PIPE
    figures = []
    for _ in range(times):
        server.send_signal(signal.SIGHUP)
        figures.append([float(part) for part in server.stdout.readline().split()])
    seconds, late_ms, swap_ms = (median(column) for column in zip(*figures, strict=True))
    return seconds, late_ms, swap_ms
