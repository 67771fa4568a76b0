"""Credentials: the time from header value to identity, and the delay that new credentials cause to others.

It measures the real library in one process on one core; what is compared is measured alternately.
"""

import asyncio
import gc
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jwt
import orjson
import uvloop
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from authz.credentials import Credentials, CredentialsConfig
from authz.credentials.jwt.claims import identity_of
from authz.request.identity import Identity
from authz.request.request import Request
from bench.tools.goals import Figures, Goal
from bench.tools.processes import resident_bytes
from bench.tools.redis_server import redis_server
from protos.authz_pb2 import CheckRequest
from sidecars.process.redis import connect
from sidecars.settings.redis import RedisSettings

GOALS = {
    "cached_jwt_us": Goal(at_most=3),
    "ratio_issuers_50": Goal(at_least=0.95),
    "ratio_cold_rs256": Goal(at_most=1.6),
    "cold_burst_delay_ms": Goal(at_most=5),
    "ratio_session_cached": Goal(at_most=1.05),
    "ratio_session_redis": Goal(at_most=1.5),
    "ratio_session_redis_first": Goal(at_most=1.5),
    "identities_100k_mb": Goal(at_most=200),
    "revocation_seen_ms": Goal(at_most=1000),
}
"""Issue 4, "Speed". A session from cache may be 5 % slower than a JWT, because repeated measurements differ
by as much."""

ISSUER = "https://idp-{}.example"
AUDIENCE = "https://api.example"
BURST = 1_000

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class AuthnPlan:
    """How much to measure."""

    turns: int
    calls: int
    cold_tokens: int
    bursts: int
    redis_calls: int
    identities: int
    revocations: int


FULL = AuthnPlan(
    turns=9, calls=20_000, cold_tokens=2_000, bursts=7, redis_calls=2_000, identities=100_000, revocations=30
)
QUICK = AuthnPlan(
    turns=5, calls=5_000, cold_tokens=500, bursts=3, redis_calls=500, identities=10_000, revocations=10
)


class Idp:
    """Issuers that share one RSA key."""

    def __init__(self, folder: Path) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        self.file = folder / "keys.json"
        self.file.write_text(json.dumps({"keys": [{**public, "kid": "k1", "alg": "RS256"}]}))

    def block(self, issuers: int, **others: Any) -> dict[str, Any]:
        """Return credentials for that many issuers."""
        one = {"audiences": [AUDIENCE], "algorithms": ["RS256"], "jwks": {"file": str(self.file)}}
        return {"issuers": [{"issuer": ISSUER.format(n), **one} for n in range(issuers)], **others}

    def token(self, number: int = 0, issuer: int = 0) -> str:
        """Return an access token like those of identity providers, about 700 bytes."""
        now = int(time.time())
        claims = {
            "iss": ISSUER.format(issuer),
            "aud": AUDIENCE,
            "sub": f"user-{number}",
            "iat": now,
            "exp": now + 86_400,
            "jti": f"{number:032x}",
            "scope": "orders:read orders:write profile",
            "email": f"user-{number}@example.com",
            "realm_access": {"roles": ["customer", "beta"]},
        }
        return jwt.encode(claims, self.key, "RS256", headers={"kid": "k1"})


def credentials(block: Mapping[str, Any], redis: Redis | None = None) -> Credentials:
    """Return the credentials of the configuration `block`."""
    return Credentials(
        CredentialsConfig.model_validate(block),
        registry=CollectorRegistry(),
        monotonic_clock=time.monotonic,
        random=lambda: 0.5,
        redis=redis,
    )


def request(name: str, value: str) -> Request:
    """Return a request with the headers that a browser sends through Envoy, and the given one."""
    message = CheckRequest()
    http = message.attributes.request.http
    http.method, http.host, http.path = "GET", "api.example", "/orders/7"
    headers = {
        ":authority": "api.example",
        ":path": "/orders/7",
        ":method": "GET",
        ":scheme": "https",
        "accept": "application/json",
        "accept-encoding": "gzip, br",
        "user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
        name: value,
        "x-forwarded-proto": "https",
        "x-request-id": "5d1c45a0-24e2-4322-9d0b-0f1d3c5a9b8e",
    }
    for header, text in headers.items():
        http.header_map.headers.add(key=header, raw_value=text.encode())
    return Request(message)


def run(*, quick: bool, say: Say) -> Figures:
    """Measure credentials and return all figures."""
    plan = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="bench-authn-") as folder:
        idp = Idp(Path(folder))
        figures = _cached(idp, plan, say) | _cold(idp, plan, say)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures |= runner.run(_burst(idp, plan, say))
            figures |= runner.run(_redis(plan, say, Path(folder)))
        figures |= _memory(idp, plan, say)
    return figures


def in_turns(measures: Mapping[str, Callable[[], Any]], turns: int, calls: int) -> dict[str, float]:
    """Return the least microseconds of one call of each, measured A B A B.

    `timeit` advises the least, because the rest is other load on the machine.
    """
    found: dict[str, list[float]] = {name: [] for name in measures}
    gc.collect()
    for _ in range(turns):
        for name, measure in measures.items():
            began = time.perf_counter()
            for _ in range(calls):
                measure()
            found[name].append((time.perf_counter() - began) / calls * 1e6)
    return {name: min(times) for name, times in found.items()}


def _cached(idp: Idp, plan: AuthnPlan, say: Say) -> Figures:
    say("cached: a JWT, one of 50 issuers, a session")
    place = {"locations": [{"header": "x-session", "scheme": "Bearer"}]}
    keys = {"keys": [{"id": "a", "sha256": "0" * 64, "subject": "a"}]}
    one = credentials(idp.block(1, sessions=place, api_keys=keys))
    fifty = credentials(idp.block(50, sessions=place, api_keys=keys))
    assert one.sessions is not None  # noqa: S101 - configured above
    session = asyncio.run(one.sessions.create("user-0", time.time()))
    asked = {
        "one": (one, request("authorization", f"Bearer {idp.token()}")),
        "fifty": (fifty, request("authorization", f"Bearer {idp.token(issuer=49)}")),
        "session": (one, request("x-session", f"Bearer {session}")),
    }
    now = time.time()
    measures: dict[str, Callable[[], Any]] = {}
    for name, (of, asks) in asked.items():
        _must_know(of.authenticate(asks, now))
        measures[name] = lambda of=of, asks=asks: of.authenticate(asks, now)  # type: ignore[misc]
    token_request, session_request = asked["one"][1], asked["session"][1]
    measures["header"] = lambda: token_request.header_values("authorization")
    measures["session_header"] = lambda: session_request.header_values("x-session")
    measures["empty"] = lambda: None
    found = in_turns(measures, plan.turns, plan.calls)
    empty = found["empty"]
    # Measured from the header value on: finding the header is part of parsing the request.
    jwt_us = found["one"] - found["header"]
    session_us = found["session"] - found["session_header"]
    return {
        "cached_jwt_us": jwt_us,
        "cached_jwt_with_header_lookup_us": found["one"] - empty,
        "cached_session_us": session_us,
        "ratio_session_cached": session_us / jwt_us,
        "ratio_issuers_50": (found["one"] - empty) / (found["fifty"] - empty),
    }


def _cold(idp: Idp, plan: AuthnPlan, say: Say) -> Figures:
    say("cold: RS256 against PyJWT with a parsed key")
    of = credentials(idp.block(1, throttle=None, cache={"max_entries": 10 * plan.cold_tokens}))
    public = idp.key.public_key()
    now = time.time()
    ours: list[float] = []
    theirs: list[float] = []
    for turn in range(plan.turns):
        texts = [idp.token(turn * plan.cold_tokens + number) for number in range(plan.cold_tokens // 10)]
        asks = [request("authorization", f"Bearer {text}") for text in texts]
        began = time.perf_counter()
        for ask in asks:
            of.authenticate(ask, now)
        ours.append((time.perf_counter() - began) / len(texts) * 1e6)
        began = time.perf_counter()
        for text in texts:
            jwt.decode(text, public, algorithms=["RS256"], audience=AUDIENCE, issuer=ISSUER.format(0))
        theirs.append((time.perf_counter() - began) / len(texts) * 1e6)
    cold, pyjwt = min(ours), min(theirs)
    return {"cold_rs256_us": cold, "pyjwt_rs256_us": pyjwt, "ratio_cold_rs256": cold / pyjwt}


async def _burst(idp: Idp, plan: AuthnPlan, say: Say) -> Figures:
    """Measure how late a task runs that is always ready, while a thousand new tokens arrive at once."""
    say(f"a burst of {BURST} new tokens together with cached ones")
    known = request("authorization", f"Bearer {idp.token()}")
    delays: list[float] = []
    quiet: list[float] = []
    answered = 0
    for burst in range(plan.bursts):
        of = credentials(idp.block(1, throttle=None, lookup_timeout_seconds=30))
        _must_know(of.authenticate(known, time.time()))
        first = 1 + burst * BURST
        cold = [
            request("authorization", f"Bearer {idp.token(number)}") for number in range(first, first + BURST)
        ]
        gc.collect()
        quiet.append(await _longest_turn(of, known, asyncio.sleep(0.02)))
        work = asyncio.gather(*[_outcome(of, ask) for ask in cold])
        delays.append(await _longest_turn(of, known, work))
        answered += sum(isinstance(outcome, Identity) for outcome in work.result())
    if answered != plan.bursts * BURST:
        raise RuntimeError(f"only {answered} of {plan.bursts * BURST} tokens were accepted")
    # The least of the longest delays: the rest is other processes on the core.
    return {"cold_burst_delay_ms": min(delays), "quiet_delay_ms": min(quiet)}


async def _outcome(of: Credentials, ask: Request) -> Any:
    outcome = of.authenticate(ask, time.time())
    return await outcome if isinstance(outcome, Awaitable) else outcome


async def _longest_turn(of: Credentials, known: Request, work: Awaitable[Any]) -> float:
    """Return the longest time that a cached token waited for the event loop, in milliseconds."""
    task = asyncio.ensure_future(work)
    # The tasks of a burst start in one turn, which is a cost of the burst, not of verification.
    await asyncio.sleep(0)
    longest = 0.0
    while not task.done():
        began = time.perf_counter()
        await asyncio.sleep(0)
        _must_know(of.authenticate(known, time.time()))
        longest = max(longest, time.perf_counter() - began)
    await task
    return longest * 1000


async def _redis(plan: AuthnPlan, say: Say, folder: Path) -> Figures:
    async with redis_server(folder) as socket:
        if socket is None:
            return dict.fromkeys(name for name in GOALS if "redis" in name or "revocation" in name)
        say("a session from Redis against a bare GET")
        # The connection settings of the sidecars, with longer timeouts for a busy machine.
        url = f"unix://{socket}?db=0"
        client = connect(RedisSettings(url=url, operation_timeout_ms=2_000, connect_timeout_ms=2_000))
        stock = Redis.from_url(url)
        try:
            figures = await _session_from_redis(plan, client, stock)
            say("a revocation, seen by another process's list")
            figures |= await _revocation(plan, client)
        finally:
            await client.aclose()
            await stock.aclose()
        return figures


async def _session_from_redis(plan: AuthnPlan, client: Redis, stock: Redis) -> Figures:
    """Measure first lookups of many sessions, and repeated lookups of one session; both use Redis.

    They are compared with a GET by plain redis-py, and by the sidecars' client, whose pool is faster.
    """
    credential_admin = _asking_redis(client).credential_admin
    claims = {"email": "user-0@example.com"}
    made = [
        await credential_admin.create_session("user-0", ["a", "b"], [], claims)
        for _ in range(plan.redis_calls)
    ]
    asks = [request("x-session", one["token"]) for one in made]
    keys = [f"sidecars:session:{one['id']}" for one in made]
    known = _asking_redis(client)
    took: dict[str, list[float]] = {}

    async def timed(name: str, call: Callable[..., Any], *arguments: Any) -> None:
        began = time.perf_counter()
        await call(*arguments)
        took.setdefault(name, []).append((time.perf_counter() - began) * 1e6)

    for _ in range(plan.turns):
        unknown = _asking_redis(client)
        gc.collect()
        for ask, key in zip(asks, keys, strict=True):
            # One call of each alternately, so that other load affects all of them.
            await timed("session_redis_first_us", unknown.authenticate, ask, time.time())
            await timed("session_redis_us", known.authenticate, asks[0], time.time())
            await timed("redis_get_us", stock.get, key)
            await timed("redis_get_own_client_us", client.get, key)
    figures: Figures = {name: median(times) for name, times in took.items()}
    bare = median(took["redis_get_us"])
    figures["ratio_session_redis_first"] = median(took["session_redis_first_us"]) / bare
    figures["ratio_session_redis"] = median(took["session_redis_us"]) / bare
    return figures


def _asking_redis(client: Redis) -> Credentials:
    """Return credentials that look up every session in Redis in every request."""
    place = {"locations": [{"header": "x-session"}]}
    return credentials(
        {"sessions": {"store": "redis", "cache_ttl_seconds": 0, **place}, "throttle": None}, client
    )


async def _revocation(plan: AuthnPlan, client: Redis) -> Figures:
    block = {"sessions": {"store": "redis", "cache_ttl_seconds": 300}}
    here, there = credentials(block, client), credentials(block, client)
    await here.start()
    await there.start()
    took: list[float] = []
    for _ in range(plan.revocations):
        made = await here.credential_admin.create_session("user-0", [], [], {})
        ask = request("cookie", f"session={made['token']}")
        _must_know(await _outcome(there, ask))
        began = time.perf_counter()
        await here.credential_admin.revoke_sessions("token", made["token"])
        while isinstance(await _outcome(there, ask), Identity):  # noqa: ASYNC110 - the moment is measured
            await asyncio.sleep(0)
        took.append((time.perf_counter() - began) * 1000)
    await here.stop()
    await there.stop()
    return {"revocation_seen_ms": max(took)}


def _memory(idp: Idp, plan: AuthnPlan, say: Say) -> Figures:
    """Measure the memory of 100,000 cached tokens.

    Signing as many would take minutes, so one is verified and cached under as many keys.
    """
    say(f"memory of {plan.identities} cached identities")
    of = credentials(idp.block(1, throttle=None))
    text = idp.token()
    _must_know(of.authenticate(request("authorization", f"Bearer {text}"), time.time()))
    tokens = of._serving.tokens  # noqa: SLF001 - there is no other way to fill it without signing
    (known,) = tokens.verified._entries.values()  # noqa: SLF001 - as above
    now = time.time()
    body = orjson.dumps(dict(known.identity.claims))
    gc.collect()
    before = resident_bytes(os.getpid())
    for number in range(plan.identities):
        # Parsed each time, as in production, so that the tokens share nothing.
        claims = orjson.loads(body.replace(b"user-0", f"user-{number}".encode()))
        identity = identity_of(claims, known.issuer.config, known.issuer.shared, now)
        entry = type(known)(identity, known.issuer, known.key, now, now + 300, 0)
        tokens.verified.put(number.to_bytes(32, "big"), entry)
    grown = resident_bytes(os.getpid()) - before
    return {
        "identities": float(plan.identities),
        "identity_bytes": grown / plan.identities,
        "identities_100k_mb": grown / plan.identities * 100_000 / 1e6,
    }


def _must_know(outcome: Any) -> None:
    if isinstance(outcome, Identity):
        return
    raise RuntimeError(f"not accepted: {outcome}")
