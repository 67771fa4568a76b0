"""What users of other authorizers complain about, each answer named after its issue.

Here are those that no test of a single module answers in full. The rest: authz/test_pitfalls (envoy#43310,
envoy#42098 and #34005), test_decide (authorino#649), test_respond (oauth2-proxy#1902), test_answers
(oauth2-proxy#644), policy/test_shared (gateway#8781), credentials/test_jwks (gateway#6525 and #4791,
envoy#40025; gateway#6520, envoy#14557), credentials/test_jwt (istio#60259, authorino#664),
credentials/test_pitfalls (istio#49691), credentials/test_revocation (oauth2-proxy#1224 and PR 3445) and
sidecars/test_authz_decisions (opa#6333).
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from google.protobuf.json_format import MessageToDict
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from authz.credentials import Credentials
from authz.engine.decide import Authorizer, Decision, DecisionIds
from authz.policy.compile.load import load_policy, parse_policy
from authz.request.identity import CredentialKind, Identity, RefusalReason
from common.configfile import ConfigError
from protos.authz_pb2 import CheckRequest, CheckResponse
from sidecars.admin.routes import AdminRequest
from sidecars.demo.envoy import find_envoy, scripts_folder, serve_envoy
from sidecars.services.authz.sidecar import AuthzSidecar, build
from sidecars.services.sidecar import Dependencies
from sidecars.settings.authz import AuthzSettings
from sidecars.transport.api.address import UnixAddress
from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Call, Code, Service, StatusError, Unary
from sidecars.transport.server.server import GrpcServer
from tests.authz.credentials.conftest import World, reason_of, serve, started, world
from tests.authz.credentials.introspection.test_verifier import Introspected
from tests.authz.credentials.jwt.test_verifier import verifications
from tests.authz.engine.test_answers import Answers
from tests.sidecars.services.authz.test_sidecar import Broken, Never, OneCall
from tests.sidecars.transport.test_clients_envoy import endpoint, listener
from tests.support.checks import Headers, check_request, request
from tests.support.running import SIDECARS, Running, call, connect
from tests.support.signing import (
    AUDIENCE,
    ISSUER,
    NOW,
    bearer,
    jwk,
    key_set,
    private_key,
    token,
)
from tests.support.webserver import WebServer
from tests.test_deployment_docs import envoy_blocks, with_service

__all__ = ["serve", "started", "verifications", "world"]

CHECK = "/envoy.service.auth.v3.Authorization/Check"

IDENTITY_SECONDS = 60
ISSUER_BLOCK: Mapping[str, Any] = {
    "issuer": ISSUER,
    "audiences": [AUDIENCE],
    "algorithms": ["ES256"],
    "jwks": {"file": "keys.json"},
    "max_lifetime_seconds": 3600,
}
CREDENTIALS: Mapping[str, Any] = {
    "issuers": [ISSUER_BLOCK],
    "revocations": {},
    "sessions": {},
    "throttle": None,
    "cache": {"ttl_seconds": IDENTITY_SECONDS},
}
RULES = [
    {"name": "public", "paths": ["/public"], "allow": "anyone"},
    {"name": "orders", "paths": ["/orders"], "allow": {"scopes": ["read"]}},
    {"name": "bills", "paths": ["/bills"], "allow": {"scopes": ["read"]}},
    {"name": "admin", "paths": ["/admin"], "allow": {"roles": ["admin"]}},
]


class Sidecar:
    """The authz sidecar with one issuer, at NOW."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.file = folder / "policy.yaml"
        (folder / "keys.json").write_bytes(key_set(jwk(private_key("ES256"))))
        self.write(RULES)
        self.registry = CollectorRegistry()
        self.now = NOW
        dependencies = Dependencies(
            registry=self.registry,
            wall_clock=lambda: self.now,
            monotonic_clock=lambda: self.now,
            random=lambda: 0.5,
            redis=None,
        )
        checked = AuthzSettings.model_validate(
            {"listen": ["unix:/tmp/authz.sock"], "policy": [self.file], **settings}
        )
        self.sidecar: AuthzSidecar = build(checked, dependencies)

    def write(self, rules: Any, **changes: Any) -> None:
        """The policy file, to be read at the next reload; `changes` to the credentials."""
        self.file.write_text(json.dumps({"credentials": {**CREDENTIALS, **changes}, "rules": rules}))

    def ask(self, text: str = "", path: str = "/orders") -> CheckResponse:
        """The answer to a request with `text` as its bearer token."""
        headers = {"authorization": f"Bearer {text}"} if text else {}
        answer = self.sidecar.check(check_request(path=path, headers=headers).SerializeToString(), OneCall())
        assert isinstance(answer, bytes)
        return CheckResponse.FromString(answer)

    def told(self, text: str = "", path: str = "/orders") -> str:
        """What becomes of it: the rule that let it in, or the reason why none did."""
        said = MessageToDict(self.ask(text, path).dynamic_metadata)
        return str(said["rule"] if said["outcome"] == "allow" else said["reason"])

    def replace_authenticator(self, authenticator: object) -> None:
        self.sidecar._serving.authorizer._authenticator = authenticator  # type: ignore[assignment]

    async def post(self, path: str, wish: Any) -> int:
        """What the admin port answers."""
        route = next(one for one in self.sidecar.admin_routes if (one.method, one.path) == ("POST", path))
        answer = await route.handle(AdminRequest({}, "application/json", json.dumps(wish).encode()))
        return answer.status


async def test_authorino_19_a_revoked_token_is_refused_at_once_and_from_memory(
    tmp_path: Path, verifications: list[str]
) -> None:
    """It has neither somebody to tell of a revoked token nor a memory of them."""
    authz = Sidecar(tmp_path, session_admin=True)
    seen, unseen, good = token(jti="t1"), token(jti="t1", iat=NOW - 30), token(jti="t2")
    assert [authz.told(text) for text in (seen, good)] == ["orders", "orders"]
    wish = {"target": "jti", "value": "t1", "issuer": ISSUER}
    assert await authz.post("/authz/revocations", wish) == 200
    for _ in range(2):
        assert [authz.told(text) for text in (seen, unseen, good)] == ["revoked", "revoked", "orders"]
    assert authz.ask(seen).denied_response.status.code == 401
    assert verifications == [seen, good, unseen]
    authz.write(RULES, revocations={"retention_seconds": 100_000}, cache={"negative_max_entries": 1})
    authz.sidecar.prepare()()
    assert [authz.told(text) for text in (seen, unseen, good)] == ["revoked", "revoked", "orders"]


async def test_authorino_20_a_repeated_request_repeats_no_work_and_outlives_nothing(
    tmp_path: Path, verifications: list[str]
) -> None:
    """What is remembered ends with the token, with the setting and with the configuration."""
    authz = Sidecar(tmp_path)
    text = token(exp=NOW + IDENTITY_SECONDS + 5)
    ids = {MessageToDict(authz.ask(text).dynamic_metadata)["decision_id"] for _ in range(5)}
    assert len(ids) == 5
    told = [authz.told(text, path) for path in ("/orders", "/bills", "/admin")]
    assert told == ["orders", "bills", "credentials_insufficient"]
    assert len(verifications) == 1
    authz.write([{"name": "shut", "deny": "anyone"}])
    authz.sidecar.prepare()()
    assert authz.told(text) == "denied_by_rule"
    authz.write(RULES)
    authz.sidecar.prepare()()
    authz.now += IDENTITY_SECONDS - 1
    assert authz.told(text) == "orders"
    assert len(verifications) == 1
    authz.now += 1
    assert authz.told(text) == "orders"
    assert len(verifications) == 2
    # Past exp and leeway, but not yet as long remembered as it may be.
    authz.now += 35
    assert authz.told(text) == "token_expired"


@pytest.mark.parametrize("audience", ["another", ["another", "edge.example"], "Edge", None])
def test_authorino_664_a_token_for_another_service_of_the_same_issuer_is_refused(
    tmp_path: Path, audience: Any
) -> None:
    """PR 688 there: the audience of a token was not checked. Here it is, also for a cached token."""
    authz = Sidecar(tmp_path)
    text = token(aud=audience)
    assert [authz.told(text) for _ in range(2)] == ["audience_mismatch"] * 2
    assert authz.told(token(aud=["another", AUDIENCE])) == "orders"


def test_oauth2_proxy_1902_five_thousand_groups_make_no_request_too_large_for_its_upstream(
    tmp_path: Path,
) -> None:
    """With nginx and many others a line of the head may have 8 KiB; more is 431 or 400."""
    policy = "identity_headers: {x-user: subject, x-roles: roles}\nrules: [{name: a, allow: authenticated}]"
    many = Identity(CredentialKind.JWT, "alice", roles=frozenset(f"group-{n}" for n in range(5_000)))
    few = Identity(CredentialKind.JWT, "alice", roles=frozenset({"admin"}))
    for who, names in ((few, {"x-user", "x-roles"}), (many, {"x-user"})):
        ok = Answers(policy, who)().ok_response
        assert {option.header.key for option in ok.headers} == names
        assert all(len(option.header.value) < 8_000 for option in ok.headers)
        assert names.isdisjoint(ok.headers_to_remove)
    assert "x-roles" in ok.headers_to_remove, "else the client's own would get through"


def test_gateway_8781_no_file_replaces_the_credentials_of_another(tmp_path: Path) -> None:
    """A policy of a route silently took the place of the one above it, and with it of its JWT settings."""
    for name, issuer in (("a.yaml", ISSUER), ("b.yaml", "https://mallory.example")):
        block = {**ISSUER_BLOCK, "issuer": issuer}
        rules = [{"name": name, "paths": [f"/{name}"], "allow": "authenticated"}]
        content = {"credentials": {"issuers": [block]}, "rules": rules}
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"credentials.*a\.yaml"):
        load_policy([tmp_path / "a.yaml", tmp_path / "b.yaml"])


@pytest.mark.parametrize("scheme", ["HMAC", "HMAC-SHA256", "Signature", "AWS4-HMAC-SHA256"])
def test_authorino_9_a_signed_request_that_nobody_verifies_lets_nobody_in(
    tmp_path: Path, scheme: str
) -> None:
    """Its HMAC identity was never built, and answers that all is well."""
    authz = Sidecar(tmp_path)
    for headers in (
        {"authorization": f"{scheme} keyId=alice,signature=AAAA"},
        {"authorization": f"{scheme} {token()}"},
        {"signature": "alice=:AAAA:", "signature-input": 'alice=("@method")'},
    ):
        message = check_request(path="/orders", headers=headers).SerializeToString()
        answer = authz.sidecar.check(message, OneCall())
        assert isinstance(answer, bytes)
        assert CheckResponse.FromString(answer).denied_response.status.code == 401
    with pytest.raises(ConfigError, match=r"credentials\.hmac: unknown key"):
        parse_policy("credentials: {hmac: {}}\nrules: [{name: a, allow: authenticated}]")


async def test_envoy_37449_what_somebody_else_has_to_be_asked_is_asked_once(
    world: World,
    serve: Callable[[], Awaitable[WebServer]],
    started: Callable[[Credentials], Awaitable[Credentials]],
) -> None:
    """Envoy keeps no answers of ext_authz (#3023, #18080, PR 44874, gateway#3956).

    The cache keeps the caller; each request is decided on its own, and an outage is not cached.
    """
    asked = Introspected(world, await serve())
    good, asked.server.bodies["/introspect"] = asked.server.bodies["/introspect"], b"<html>"
    credentials = await started(world.credentials(asked.config()))
    assert reason_of(await world.awaited(credentials, bearer("a"))) == RefusalReason.INTROSPECTION_UNAVAILABLE
    asked.server.bodies["/introspect"] = good
    assert isinstance(await world.awaited(credentials, bearer("a")), Identity)
    questions = len(asked.server.asked)
    authorizer = Authorizer(parse_policy(json.dumps({"rules": RULES})), credentials, DecisionIds(lambda: 0.5))
    statuses = []
    for path in ("/orders", "/admin", "/nothing") * 10:
        decision = authorizer.decide(
            request(path=path, headers={"authorization": "Bearer a"}), world.clock.wall_seconds
        )
        assert isinstance(decision, Decision), "this should be answered without waiting"
        statuses.append(decision.verdict.status)
    assert statuses == [200, 403, 403] * 10
    assert len(asked.server.asked) == questions


class FailsAtFirst:
    """Check of a sidecar that is going away: every request is told so once."""

    def __init__(self, authz: AuthzSidecar) -> None:
        self._authz = authz
        self.asked: list[str] = []

    def check(self, message: bytes, call: Call) -> bytes | Awaitable[bytes]:
        path = CheckRequest.FromString(message).attributes.request.http.path
        self.asked.append(path)
        if self.asked.count(path) == 1:
            raise StatusError(Code.UNAVAILABLE, "going away")
        return self._authz.check(message, call)


@pytest.mark.envoy
async def test_envoy_33108_a_check_that_fails_is_asked_again_by_static_configuration(tmp_path: Path) -> None:
    """Envoy#23301 too: the blocks of docs/deployment.md, without any management server."""
    fails = FailsAtFirst(Sidecar(tmp_path).sidecar)
    address = UnixAddress(str(tmp_path / "a.sock"))
    services = (Service("envoy.service.auth.v3.Authorization", {"Check": Unary(fails.check)}),)
    server = GrpcServer(services, [address], limits=Limits())
    await server.start()
    cluster, service = envoy_blocks()
    del cluster["health_checks"]  # this server has no such service
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = [endpoint(address, 0)]
    service["status_on_error"] = {"code": "ServiceUnavailable"}
    service["grpc_service"]["timeout"] = "10s"
    whole = {"static_resources": {"listeners": [listener(with_service(service))], "clusters": [cluster]}}
    program = find_envoy(os.environ, scripts_folder())
    try:
        async with (
            serve_envoy(program, whole, tmp_path) as envoy,
            aiohttp.ClientSession(f"http://127.0.0.1:{envoy.ports['edge']}") as client,
        ):
            statuses = []
            for path in ("/public", "/orders", "/nothing"):
                async with client.get(path) as answer:
                    statuses.append(answer.status)
    finally:
        await server.drain(0)
    # A denial is an answer: it is not asked for again.
    assert statuses == [200, 401, 403]
    assert fails.asked == ["/public", "/public", "/orders", "/orders", "/nothing", "/nothing"]


LOGGED: Mapping[str, tuple[Headers, str, str]] = {
    "no credential": ({}, "/orders", "credentials_missing"),
    "an empty token": ({"authorization": "Bearer "}, "/orders", "token_malformed"),
    "an empty header": ({"authorization": ""}, "/orders", "credentials_missing"),
    "no token": ({"authorization": "Bearer a.b.c"}, "/orders", "token_malformed"),
    "two tokens": (
        [("authorization", "Bearer a"), ("authorization", "Bearer b")],
        "/orders",
        "duplicate_authorization",
    ),
    "bytes that are not text": ([("authorization", b"Bearer \xff")], "/orders", "token_malformed"),
    "an odd path": ({}, "//orders", "path_empty_segment"),
    "no path": ({}, "", "path_form"),
    "no rule": ({}, "/nothing", "no_rule"),
}


class TestOpa1953:
    """Some answers, such as that to a bad token, left no line in the decision log."""

    @pytest.mark.parametrize("case", LOGGED)
    async def test_opa_1953_every_refusal_is_in_the_decision_log(self, tmp_path: Path, case: str) -> None:
        headers, path, reason = LOGGED[case]
        await self.logged(tmp_path, check_request(path=path, headers=headers), reason)

    async def test_opa_1953_so_is_a_bad_host(self, tmp_path: Path) -> None:
        await self.logged(tmp_path, check_request(host="a,b"), "host_malformed")

    async def test_opa_1953_so_is_an_empty_request(self, tmp_path: Path) -> None:
        await self.logged(tmp_path, CheckRequest(), "method_missing")

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"exp": NOW - 100}, "token_expired"),
            ({"iss": "https://mallory.example"}, "issuer_unknown"),
            ({"aud": "another"}, "audience_mismatch"),
            ({"sub": None}, "claim_missing"),
            ({"scope": "nothing"}, "credentials_insufficient"),
        ],
    )
    async def test_opa_1953_so_is_every_bad_token(
        self, tmp_path: Path, changes: dict[str, Any], reason: str
    ) -> None:
        headers = {"authorization": f"Bearer {token(**changes)}"}
        await self.logged(tmp_path, check_request(path="/orders", headers=headers), reason)

    @pytest.mark.parametrize(
        ("authenticator", "reason"), [(Broken(), "internal_error"), (Never(), "deadline")]
    )
    async def test_opa_1953_so_is_what_fails_or_takes_too_long(
        self, tmp_path: Path, authenticator: object, reason: str
    ) -> None:
        with capture_logs():
            await self.logged(tmp_path, check_request(path="/orders"), reason, authenticator)

    async def logged(
        self, folder: Path, message: CheckRequest, reason: str, authenticator: object = None
    ) -> None:
        """One line, which holds what the answer says and what was asked, though no allow would be logged."""
        file = folder / "decisions.jsonl"
        authz = Sidecar(folder, decisions={"log": {"file": file, "allow_sample_rate": 0.0}})
        if authenticator is not None:
            authz.replace_authenticator(authenticator)
        await authz.sidecar.start()
        deadline = asyncio.get_running_loop().time() + 0.05
        answer = authz.sidecar.check(message.SerializeToString(), OneCall(deadline))
        response = CheckResponse.FromString(answer if isinstance(answer, bytes) else await answer)
        await authz.sidecar.stop()
        said = MessageToDict(response.dynamic_metadata)
        (line,) = [orjson.loads(line) for line in file.read_bytes().splitlines()]
        assert said["reason"] == line["reason"] == reason
        assert (line["decision_id"], line["outcome"]) == (said["decision_id"], said["outcome"])
        http = message.attributes.request.http
        for name, value in (("path", http.path), ("host", http.host), ("method", http.method)):
            assert line.get(name, "") == value


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A process that keeps no decisions and logs none."""
    Sidecar(tmp_path)
    settings = {"listen": [f"unix:{tmp_path}/a.sock"], "policy": ["policy.yaml"], "decisions": {"recent": 0}}
    with Running(tmp_path, {"authz": settings}, program=SIDECARS) as process:
        yield process.wait_until_ready()


def test_opa_3852_decisions_and_their_time_can_be_read_by_prometheus(
    tmp_path: Path, running: Running
) -> None:
    """The plugin wrote its figures into the decision log only; its metrics page stayed empty."""
    with connect(f"unix:{tmp_path}/a.sock") as channel:
        for path in ("/public", "/public", "/orders", "//"):
            call(channel, CHECK, check_request(path=path).SerializeToString())
    labels = 'outcome="{}",reason="{}",rule="{}"'
    expected = {
        labels.format("allow", "allowed", "public"): 2,
        labels.format("deny", "credentials_missing", "orders"): 1,
        labels.format("deny", "path_empty_segment", ""): 1,
    }
    for sample, times in expected.items():
        assert running.metric(f'authz_decisions_total{{credential="none",{sample}}}') == times
    page = running.get("/metrics")[1]
    counts = [line for line in page.splitlines() if line.startswith("grpc_server_handling_seconds_count")]
    assert sum(float(line.rpartition(" ")[2]) for line in counts if 'grpc_method="Check"' in line) == 4
    assert "grpc_server_handling_seconds_bucket" in page
