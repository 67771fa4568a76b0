"""How real servers parse requests, as recorded in `upstreams.json`, and policies that must deny these.

Each fact is one spelling that the named servers read as `/admin`, `role` or `x-role`. So a policy that denies
these must deny the spelling.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from authz.engine.decide import BAD_REQUEST, Authorizer, decision_ids
from authz.policy.compile.compile import Policy
from authz.policy.compile.load import parse_policy
from authz.request.request import BadRequestError, Request
from protos.authz_pb2 import CheckRequest
from tests.support.callers import Says

FORM = "application/x-www-form-urlencoded"
ACCEPTED = (
    "[empty_segment, encoded_slash, backslash, double_encoding, parameters, fragment, not_ascii, masked]"
)
OPEN = f'{{name: open, paths: ["/**"], allow: anyone, accept_in_path: {ACCEPTED}}}'
"""Allows every request that a rule can allow, so that only the deny rule refuses one."""
LENIENT = "paths: {case: ignore, trailing_slash: ignore}\n"


@dataclass(frozen=True, slots=True)
class Fact:
    """One spelling, and how servers read it."""

    kind: str
    """`path`, `query`, `form`, `header` or `json`."""
    sent: str
    means: str
    servers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} {self.sent} {self.means}"


def _recorded() -> Iterator[Fact]:
    content = json.loads((Path(__file__).parent / "upstreams.json").read_text())
    for fact in content["facts"]:
        assert content["servers"].keys() >= set(fact["servers"])
        yield Fact(fact["kind"], fact["sent"], fact["means"], tuple(fact["servers"]))


FACTS = tuple(_recorded())

_PATH_RULES = {
    "/admin": ("paths: [/admin]", "when: path == '/admin'", "when: \"segments == ['admin']\""),
    "/admin/:id": (
        'paths: ["/admin/{id}"]',
        "when: path.startsWith('/admin/')",
        "when: \"size(segments) == 2 && segments[0] == 'admin'\"",
        "paths: [\"/admin/{id}\"], when: vars.id != 'other'",
    ),
}


def rules_against(fact: Fact) -> Iterator[str]:
    """Return deny conditions for the meaning of the fact, in each form that the policy language has."""
    if fact.kind == "path":
        yield from _PATH_RULES[fact.means]
    elif fact.kind == "header":
        yield "headers: {x-role: admin}"
        yield "when: \"'x-role' in headers && headers['x-role'].exists(v, v == 'admin')\""
    elif fact.kind == "query":
        name = {"user.role": "user[role]"}.get(fact.means, fact.means)
        yield f"query: {{'{name}': admin}}"
        yield f"query: {{'{name}': {{matches: 'adm.*'}}}}"
        yield f"when: \"'{name}' in query && query['{name}'].exists(v, v == 'admin')\""
    else:
        yield f"body: {{{fact.means}: admin}}"
        guard = "has(body.user) && " if fact.means == "user.role" else ""
        yield f"when: {guard}has(body.{fact.means}) && body.{fact.means} == 'admin'"
        yield f"when: \"{guard}has(body.{fact.means}) && 'admin' in body.{fact.means}\""


@lru_cache
def policy_with(rule: str, *, lenient: bool) -> Policy:
    """Return a policy that allows everything, with one deny rule."""
    head = LENIENT if lenient else ""
    return parse_policy(f"{head}rules:\n  - {OPEN}\n  - {{name: closed, deny: anyone, {rule}}}\n")


def check_of(fact: Fact, *, joined: bool) -> CheckRequest:
    """Return the request as Envoy sends it with raw headers and bodies as bytes, or without (`joined`)."""
    message = CheckRequest()
    http = message.attributes.request.http
    http.method, http.host, http.path = "GET", "api.example.com", "/x"
    headers = {}
    if fact.kind == "path":
        http.path = fact.sent
    elif fact.kind == "query":
        http.path = f"/x?{fact.sent}"
    elif fact.kind == "header":
        headers[fact.sent] = "admin"
    else:
        http.method = "POST"
        headers["content-type"] = FORM if fact.kind == "form" else "application/json"
        headers["x-envoy-auth-partial-body"] = "false"
        if joined:
            http.body = fact.sent
        else:
            http.raw_body = fact.sent.encode()
    if joined:
        http.headers.update(headers)
    else:
        for name, value in {":path": http.path, **headers}.items():
            http.header_map.headers.add(key=name, raw_value=value.encode())
    return message


def answer(policy: Policy, message: CheckRequest) -> str:
    """Return the rule that decided, or the reason if none did."""
    try:
        request = Request(message)
    except BadRequestError as error:
        return BAD_REQUEST[error.reason].reason
    decision = Authorizer(policy, Says(None), decision_ids(lambda: 0.5)).decide(request, 0.0)
    return decision.verdict.rule or decision.verdict.reason  # type: ignore[union-attr]  # nothing is waited for
