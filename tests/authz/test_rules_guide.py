"""docs/rules.md teaches by examples: every one is loaded, and every request shown is made."""

import re
import shlex
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import orjson
import pytest

from authz.engine.decide import Authorizer, Decision, decision_ids
from authz.engine.respond import Responder
from authz.policy.compile.load import parse_policy
from authz.request.identity import CredentialKind, Identity
from authz.request.request import Request
from protos.authz_pb2 import CheckResponse
from tests.support.asking import NOON
from tests.support.callers import Says
from tests.support.checks import check_request

GUIDE = Path(__file__).parents[2] / "docs" / "rules.md"
EXAMPLE = re.compile(r"```yaml\n(.*?)```\n```requests\n(.*?)```", re.DOTALL)


def examples() -> Iterator[tuple[str, str]]:
    for policy, requests in EXAMPLE.findall(GUIDE.read_text()):
        for line in requests.splitlines():
            yield policy, line


def answer(policy: str, asked: str) -> str:
    method, url, *details = shlex.split(asked)
    said = dict(detail.split("=", 1) for detail in details)
    head, _, host_and_path = url.partition("://")
    assert head == "https"
    host, slash, path = host_and_path.partition("/")
    headers = {
        name.removeprefix("header."): text for name, text in said.items() if name.startswith("header.")
    }
    if "body" in said:
        headers |= {"content-type": "application/json", "x-envoy-auth-partial-body": "false"}
    message = check_request(method, slash + path, host, headers, said.get("client", "198.51.100.1"))
    context = {key.removeprefix("context."): text for key, text in said.items() if key.startswith("context.")}
    message.attributes.context_extensions.update(context)
    message.attributes.request.http.body = said.get("body", "")
    now = datetime.fromisoformat(said["time"]).timestamp() if "time" in said else NOON
    compiled = parse_policy(policy)
    authorizer = Authorizer(compiled, Says(identity_of(said)), decision_ids(lambda: 0.5))
    decision = authorizer.decide(Request(message), now)
    assert isinstance(decision, Decision)
    responder = Responder(compiled, "f" * 24)
    response = CheckResponse.FromString(responder.respond(decision))
    status = response.denied_response.status.code or 200
    return f"{status} {decision.verdict.rule or decision.verdict.reason}"


def identity_of(said: dict[str, str]) -> Identity | None:
    if not {"subject", "scopes", "roles", "claims", "kind"} & said.keys():
        return None
    return Identity(
        CredentialKind(said.get("kind", "jwt")),
        said.get("subject", "somebody"),
        said.get("issuer", ""),
        frozenset(filter(None, said.get("scopes", "").split(","))),
        frozenset(filter(None, said.get("roles", "").split(","))),
        claims=orjson.loads(said.get("claims", "{}")),
    )


@pytest.mark.parametrize(("policy", "line"), list(examples()))
def test_the_guide_says_what_happens(policy: str, line: str) -> None:
    asked, arrow, expected = line.rpartition(" -> ")
    assert arrow
    assert answer(policy, asked) == expected.strip()


def test_every_block_of_the_guide_is_an_example() -> None:
    text = GUIDE.read_text()
    assert text.count("```yaml") == text.count("```requests") == len(EXAMPLE.findall(text)) >= 10
