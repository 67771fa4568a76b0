"""Requests and callers written by hand, for test suites of policies and for explanations."""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from authz.policy.types.names import PolicyBlock, Text
from authz.request.identity import (
    ANONYMOUS,
    Authentication,
    CredentialKind,
    Identity,
    Refusal,
    RefusalReason,
    named,
)
from authz.wire import CheckRequest, write_request
from common.configfile import Spelled

DEFAULT_HOST: Final = "api.example.com"

_URL: Final = re.compile(r"(?:(?P<scheme>https?)://(?P<host>[^/?#]+))?(?P<path>/.*)?")


def _header_name(name: str) -> str:
    if name != name.lower():
        raise ValueError(f"{name!r}: Envoy sends header names in lower case")
    return name


Header = Annotated[str, Spelled(r":?[!#$%&'*+.^_`|~0-9A-Za-z-]+", "x-tenant"), AfterValidator(_header_name)]


def _address(value: Any) -> IPv4Address | IPv6Address:
    try:
        return ip_address(value if isinstance(value, str) else "")
    except ValueError:
        message = f"{value!r}: expected an IP address, as in 192.0.2.1 or 2001:db8::1"
        raise ValueError(message) from None


ClientAddress = Annotated[
    IPv4Address | IPv6Address,
    PlainValidator(_address),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
]


class RequestExample(PolicyBlock):
    """A request as Envoy would send it to authz."""

    method: str = "GET"
    """The HTTP method."""
    url: str | None = None
    """`https://host/path?query` or only the path, instead of host and path."""
    host: str | None = None
    """The host that the client asked for."""
    path: str | None = None
    """The path with the query."""
    headers: dict[Header, str | tuple[str, ...]] = Field(default_factory=dict)
    """Header values; a list for a header that is sent several times."""
    client: ClientAddress | None = None
    """The address at the other end of the connection."""
    principal: str = ""
    """The name in the certificate of the TLS peer."""
    context_extensions: dict[Text, str] = Field(default_factory=dict)
    """The route's `context_extensions` for the ext_authz filter."""
    body: Any = None
    """A text is sent as it is, any other value as JSON."""

    @model_validator(mode="after")
    def _one_place(self) -> "RequestExample":
        if self.url is None:
            return self
        if self.host is not None or self.path is not None:
            raise ValueError("write either url, or host and path")
        if _URL.fullmatch(self.url) is None:
            raise ValueError(f"{self.url!r}: expected https://host/path, or a path that begins with /")
        return self

    def message(self) -> CheckRequest:
        """Return the CheckRequest. Nothing is normalised, so the request is judged as written."""
        host, path = self.host or DEFAULT_HOST, "/" if self.path is None else self.path
        scheme = "https"
        if self.url is not None and (found := _URL.fullmatch(self.url)):
            host, path = found["host"] or DEFAULT_HOST, found["path"] or "/"
            scheme = found["scheme"] or scheme
        headers, body = self._headers_and_body()
        lines = [
            (name, line)
            for name, value in headers.items()
            for line in ((value,) if isinstance(value, str) else value)
        ]
        # As with encode_raw_headers, so that a ! is literal.
        raw = len(lines) > len(headers) or any("!" in text for text in (path, *(line for _, line in lines)))
        return write_request(
            self.method,
            host,
            path,
            scheme=scheme,
            client="" if self.client is None else str(self.client),
            principal=self.principal,
            context_extensions=self.context_extensions,
            headers={} if raw else dict(lines),
            lines=[(name, line.encode()) for name, line in ((":path", path), *lines)] if raw else (),
            body=body,
        )

    def _headers_and_body(self) -> tuple[dict[str, str | tuple[str, ...]], bytes]:
        headers: dict[str, str | tuple[str, ...]] = {**self.headers}
        if self.body is None:
            return headers, b""
        # Envoy sends this with a complete body.
        headers.setdefault("x-envoy-auth-partial-body", "false")
        if isinstance(self.body, str):
            return headers, self.body.encode()
        headers.setdefault("content-type", "application/json")
        return headers, orjson.dumps(self.body)


class CallerExample(PolicyBlock):
    """A caller with the attributes of a verified credential, or with a refused credential."""

    kind: CredentialKind = CredentialKind.JWT
    """The kind of credential."""
    subject: str = ""
    """The subject of the credential."""
    issuer: str = ""
    """The `iss` of a JWT."""
    scopes: frozenset[str] = frozenset()
    """The scopes of the caller."""
    roles: frozenset[str] = frozenset()
    """The roles of the caller."""
    audiences: frozenset[str] = frozenset()
    """The audiences that the token was issued for."""
    claims: dict[str, Any] = Field(default_factory=dict)
    """The claims of the token."""
    refused: RefusalReason | None = None
    """The reason why the credential was refused; excludes all other keys but `kind`."""

    @model_validator(mode="after")
    def _one_outcome(self) -> "CallerExample":
        if self.refused is not None and not self.model_fields_set <= {"refused", "kind"}:
            raise ValueError(
                "a refused credential has no attributes: of the other keys, only kind may be set with refused"
            )
        if self.kind is CredentialKind.ANONYMOUS and self.model_fields_set != {"kind"}:
            raise ValueError("an anonymous caller has no attributes; write anonymous instead of this block")
        return self

    def outcome(self) -> Authentication:
        """Return the outcome of authentication."""
        if self.refused is not None:
            return Refusal(self.refused, kind=self.kind if "kind" in self.model_fields_set else None)
        if self.kind is CredentialKind.ANONYMOUS:
            return None
        return named(
            Identity(
                self.kind, self.subject, self.issuer, self.scopes, self.roles, self.audiences, self.claims
            )
        )


class Question(PolicyBlock):
    """A request and its caller."""

    request: RequestExample
    """The HTTP request."""
    caller: CallerExample | None = None
    """The caller; anonymous if omitted."""


Caller = Literal["anonymous"] | CallerExample


def outcome_of(caller: Caller) -> Authentication:
    """Return the outcome of authentication for this caller; None for an anonymous one."""
    return caller.outcome() if isinstance(caller, CallerExample) else None


def identity_of(outcome: Authentication) -> Identity:
    """Return the identity that rules see for this outcome."""
    return outcome if isinstance(outcome, Identity) else ANONYMOUS


class Given:
    """An authenticator that returns a fixed outcome."""

    __slots__ = ("_outcome",)

    def __init__(self, outcome: Authentication) -> None:
        self._outcome = outcome

    def authenticate(self, _request: object, _now: float) -> Authentication:
        """Return the fixed outcome."""
        return self._outcome
