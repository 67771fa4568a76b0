"""The examples of docs/migrating-opa.md: policies in Rego and YAML, requests, and the answers of both."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import MessageToDict

from protos.authz_pb2 import CheckRequest, CheckResponse
from tests.support.checks import check_request
from tests.support.manifests import ROOT
from tests.support.signing import private_key, token

PAGE = (ROOT / "docs" / "migrating-opa.md").read_text(encoding="utf-8")
_EXAMPLE = re.compile(
    r"^## (?P<title>.*?)\n(?:(?!^## ).)*?```rego\n(?P<rego>.*?)```\n```yaml\n(?P<policy>.*?)```\n"
    r"(?:```requests\n(?P<requests>.*?)```)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Case:
    """A request of the page: its message for both, and what each answers."""

    line: str
    message: CheckRequest
    ours: Mapping[str, str]
    opa: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Example:
    """A section of the page."""

    title: str
    rego: str
    policy: str
    lines: tuple[str, ...]

    def cases(self, now: float) -> Iterator[Case]:
        """Yield the requests, with tokens that were signed at `now`."""
        for line in self.lines:
            asked, _, expected = line.rpartition(" -> ")
            status, *facts = shlex.split(expected)
            wanted = dict(fact.split("=", 1) for fact in facts)
            opa_status = wanted.pop("opa", status)
            opa = {"status": opa_status} | wanted
            yield Case(line, message_of(asked, now), {"status": status} | wanted, opa)


def examples() -> tuple[Example, ...]:
    """Return the sections with an example; the first one has the tokens for all."""
    return tuple(
        Example(found["title"], found["rego"], found["policy"], tuple((found["requests"] or "").splitlines()))
        for found in _EXAMPLE.finditer(PAGE)
    )


def message_of(asked: str, now: float) -> CheckRequest:
    """Return the check request of one line of the page."""
    method, url, *details = shlex.split(asked)
    said = dict(detail.split("=", 1) for detail in details)
    host, slash, path = url.removeprefix("https://").partition("/")
    headers = {
        name.removeprefix("header."): text for name, text in said.items() if name.startswith("header.")
    }
    if "body" in said:
        headers |= {"content-type": "application/json", "x-envoy-auth-partial-body": "false"}
    if "token" in said:
        headers["authorization"] = f"Bearer {signed(said['token'], now)}"
    client, principal = said.get("client", "198.51.100.1"), said.get("principal", "")
    message = check_request(method, slash + path, host, headers, client, principal)
    context = {key.removeprefix("context."): text for key, text in said.items() if key.startswith("context.")}
    message.attributes.context_extensions.update(context)
    message.attributes.request.http.body = said.get("body", "")
    return message


def signed(described: str, now: float) -> str:
    """Return a token with these claims; `forged` is one that another key signed."""
    usual: dict[str, Any] = {"iat": now - 60, "exp": now + 600, "scope": None}
    if described == "forged":
        return token(key=private_key("ES256", 1), **usual)
    return token(**usual | json.loads(described))


def facts_of(response: CheckResponse, wanted: Mapping[str, str]) -> dict[str, str]:
    """Return what the response has of each fact that the page names; `-` for what is removed."""
    kind = response.WhichOneof("http_response")
    # OPA answers a boolean with a gRPC status alone, which Envoy turns into 403 (Envoy: check_response).
    bare = "200" if not response.status.code else "403"
    status = str(response.denied_response.status.code) if kind == "denied_response" else bare
    return {name: status if name == "status" else _fact(response, name) for name in wanted}


def _fact(response: CheckResponse, name: str) -> str:
    place, _, key = name.partition(".")
    ok, denied = response.ok_response, response.denied_response
    match place:
        case "upstream":
            return _header(ok.headers, key)
        case "response":
            return _header(denied.headers if denied.status.code else ok.response_headers_to_add, key)
        case "query":
            found = {one.key: one.value for one in ok.query_parameters_to_set}
            return found.get(key, "-" if key in ok.query_parameters_to_remove else "")
        case "metadata":
            metadata: dict[str, Any] = MessageToDict(response.dynamic_metadata)
            return str(metadata.get("claims", metadata).get(key, ""))
        case _:
            return str(json.loads(denied.body)["detail"] if denied.body.startswith("{") else denied.body)


def _header(headers: Any, name: str) -> str:
    return next((one.header.value for one in headers if one.header.key == name), "")
