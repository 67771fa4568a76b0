"""What users of other authorizers complain about, each test named after its issue.

Here are those that need more than one module; a single module's own tests name their issues likewise
(`grep -rE "def test_[a-z0-9_]+_[0-9]{2,5}_" tests`). Logs and metrics: test_reported_log_issues.
"""

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from google.protobuf.json_format import MessageToDict

from authz.credentials import Credentials
from authz.engine.decide import Authorizer, Decision, decision_ids
from authz.policy.compile.load import load_policy, parse_policy
from authz.request.identity import CredentialKind, Identity, RefusalReason
from common.configfile import ConfigError
from protos.authz_pb2 import CheckRequest, CheckResponse
from sidecars.demo.envoy import find_envoy, scripts_folder, serve_envoy
from sidecars.services.authz.sidecar import AuthzSidecar
from sidecars.transport.api.address import UnixAddress
from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Call, Code, Service, StatusError, Unary
from sidecars.transport.server.server import GrpcServer
from tests.support.answers import Answers
from tests.support.authz_sidecar import IDENTITY_SECONDS, ISSUER_BLOCK, RULES, BuiltWithIssuer, OneCall
from tests.support.checks import check_request, request
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.envoy_config import endpoint, envoy_blocks, listener, with_service
from tests.support.introspection import Introspected
from tests.support.signing import (
    AUDIENCE,
    ISSUER,
    NOW,
    bearer,
    token,
)
from tests.support.webserver import WebServer


async def test_authorino_19_a_revoked_token_is_refused_at_once_and_from_memory(
    tmp_path: Path, verifications: list[str]
) -> None:
    """It has neither somebody to tell of a revoked token nor a memory of them."""
    authz = BuiltWithIssuer(tmp_path, session_admin=True)
    seen, unseen, good = token(jti="t1"), token(jti="t1", iat=NOW - 30), token(jti="t2")
    assert [authz.result(text) for text in (seen, good)] == ["orders", "orders"]
    wish = {"target": "jti", "value": "t1", "issuer": ISSUER}
    assert await authz.post("/authz/revocations", wish) == 200
    for _ in range(2):
        assert [authz.result(text) for text in (seen, unseen, good)] == ["revoked", "revoked", "orders"]
    assert authz.bearer(seen).denied_response.status.code == 401
    assert verifications == [seen, good, unseen]
    authz.write(RULES, revocations={"retention_seconds": 100_000}, cache={"negative_max_entries": 1})
    authz.sidecar.prepare()()
    assert [authz.result(text) for text in (seen, unseen, good)] == ["revoked", "revoked", "orders"]


async def test_authorino_20_a_repeated_request_repeats_no_work_and_outlives_nothing(
    tmp_path: Path, verifications: list[str]
) -> None:
    """What is remembered ends with the token, with the setting and with the configuration."""
    authz = BuiltWithIssuer(tmp_path)
    text = token(exp=NOW + IDENTITY_SECONDS + 5)
    ids = {MessageToDict(authz.bearer(text).dynamic_metadata)["decision_id"] for _ in range(5)}
    assert len(ids) == 5
    results = [authz.result(text, path) for path in ("/orders", "/bills", "/admin")]
    assert results == ["orders", "bills", "credentials_insufficient"]
    assert len(verifications) == 1
    authz.write([{"name": "shut", "deny": "anyone"}])
    authz.sidecar.prepare()()
    assert authz.result(text) == "denied_by_rule"
    authz.write(RULES)
    authz.sidecar.prepare()()
    authz.now += IDENTITY_SECONDS - 1
    assert authz.result(text) == "orders"
    assert len(verifications) == 1
    authz.now += 1
    assert authz.result(text) == "orders"
    assert len(verifications) == 2
    # Past exp and leeway, but not yet as long remembered as it may be.
    authz.now += 35
    assert authz.result(text) == "token_expired"


@pytest.mark.parametrize("audience", ["another", ["another", "edge.example"], "Edge", None])
def test_authorino_664_a_token_for_another_service_of_the_same_issuer_is_refused(
    tmp_path: Path, audience: Any
) -> None:
    """PR 688 there: the audience of a token was not checked. Here it is, also for a cached token."""
    authz = BuiltWithIssuer(tmp_path)
    text = token(aud=audience)
    assert [authz.result(text) for _ in range(2)] == ["audience_mismatch"] * 2
    assert authz.result(token(aud=["another", AUDIENCE])) == "orders"


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
def test_authorino_9_a_signed_request_that_is_not_verified_is_refused(tmp_path: Path, scheme: str) -> None:
    """Its HMAC identity was never built, and answers that all is well."""
    authz = BuiltWithIssuer(tmp_path)
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


async def test_envoy_37449_another_server_is_asked_once(
    harness: CredentialsHarness,
    serve: Callable[[], Awaitable[WebServer]],
    started: Callable[[Credentials], Awaitable[Credentials]],
) -> None:
    """Envoy keeps no answers of ext_authz (#3023, #18080, PR 44874, gateway#3956).

    The cache keeps the caller; each request is decided on its own, and an outage is not cached.
    """
    asked = Introspected(harness, await serve())
    good, asked.server.bodies["/introspect"] = asked.server.bodies["/introspect"], b"<html>"
    credentials = await started(harness.credentials(asked.config()))
    assert (
        reason_of(await harness.awaited(credentials, bearer("a"))) == RefusalReason.INTROSPECTION_UNAVAILABLE
    )
    asked.server.bodies["/introspect"] = good
    assert isinstance(await harness.awaited(credentials, bearer("a")), Identity)
    questions = len(asked.server.asked)
    authorizer = Authorizer(
        parse_policy(json.dumps({"rules": RULES})), credentials, decision_ids(lambda: 0.5)
    )
    statuses = []
    for path in ("/orders", "/admin", "/nothing") * 10:
        decision = authorizer.decide(
            request(path=path, headers={"authorization": "Bearer a"}), harness.clock.wall_seconds
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
    fails = FailsAtFirst(BuiltWithIssuer(tmp_path).sidecar)
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
