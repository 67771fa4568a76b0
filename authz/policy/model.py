"""Pydantic models of a policy file."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from authz.credentials import CredentialsConfig
from authz.policy.conditions.caller_conditions import WhoConfig, Whos
from authz.policy.conditions.networks import Network, parse_client_network
from authz.policy.conditions.share import OrPercent, ShareConfig
from authz.policy.conditions.time_window import TimeConfig
from authz.policy.conditions.values import Comparison, HeaderComparison, TextComparison
from authz.policy.expression.expression import Expression
from authz.policy.templates import ValueTemplate, parse_text, parse_value
from authz.policy.types.names import (
    AT_LEAST_ONE,
    DottedName,
    HeaderName,
    Host,
    Method,
    Name,
    OneOrMany,
    PathOddity,
    PathTemplate,
    PolicyBlock,
    Revision,
    Text,
    Texts,
)
from authz.policy.types.paths import PathsConfig
from authz.policy.types.pattern import EVERY_HOST, EVERY_PATH
from common.configfile import Spelled

MAX_HYPHENS: Final = 4
"""The most hyphens in the name of an identity header. Each doubles the number of spellings to remove."""

_RESERVED_HEADERS: Final = frozenset({
    "connection", "content-length", "content-type", "cookie", "expect", "host", "keep-alive", "te", "trailer",
    "proxy-connection", "transfer-encoding", "upgrade", "via", "x-forwarded-for", "x-forwarded-host",
    "x-forwarded-proto", "x-request-id",
})  # fmt: skip
_URL: Final = re.compile(r"[!$%&'()*+,\-./:;=?@\[\]_~0-9A-Za-z]+")
_RESERVED_FOR_CLIENTS: Final = _RESERVED_HEADERS - {"cookie"} | {"set-cookie", "location", "www-authenticate"}


def _identity_header(name: str) -> str:
    if name in _RESERVED_HEADERS or name.startswith("x-envoy-"):
        raise ValueError(f"{name!r} has a meaning of its own and cannot carry an identity")
    if name.count("-") > MAX_HYPHENS:
        raise ValueError(f"{name!r} has more than {MAX_HYPHENS} hyphens")
    return name


def _response_header(name: str) -> str:
    if name in _RESERVED_FOR_CLIENTS or name.startswith(("x-envoy-", "access-control-")):
        raise ValueError(f"{name!r} has a meaning of its own and cannot be set here")
    return name


def _denial_status(status: int) -> int:
    if not 400 <= status <= 499 and status != 503:
        raise ValueError(f"{status} is not an answer of a deny rule: expected one of 400 to 499, or 503")
    return status


def _origin(value: str) -> str:
    if "*" in value:
        raise ValueError(f"{value!r}: wildcards are not supported; list each origin")
    scheme, _, rest = value.partition("://")
    if rest and "/" in rest:
        raise ValueError(f"{value!r}: an origin has no path: write {scheme}://{rest.partition('/')[0]}")
    return value


def _login_url(url: str) -> str:
    local = url.startswith("/") and not url.startswith("//")
    if not (local or url.startswith(("https://", "http://"))) or not _URL.fullmatch(url):
        raise ValueError(f"{url!r}: expected a URL or a path of the same host, without a fragment")
    return url


def _expression(value: Any) -> Expression:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r}: expected a CEL expression, as in claims.tenant == vars.tenant")
    return Expression(value)


IdentityHeader = Annotated[
    str, Spelled(r"[a-z0-9-]{1,64}", "x-auth-tenant"), AfterValidator(_identity_header)
]
DenialStatus = Annotated[
    int,
    AfterValidator(_denial_status),
    WithJsonSchema({"type": "integer", "anyOf": [{"minimum": 400, "maximum": 499}, {"const": 503}]}),
]
ResponseHeader = Annotated[
    str, Spelled(r"[a-z0-9-]{1,64}", "x-frame-options"), AfterValidator(_response_header)
]
Value = Annotated[
    ValueTemplate, PlainValidator(parse_value), PlainSerializer(str), WithJsonSchema({"type": "string"})
]
"""An attribute of the caller, as a word (`subject`) or within a text (`{claims.email}`)."""
TextValue = Annotated[
    ValueTemplate, PlainValidator(parse_text), PlainSerializer(str), WithJsonSchema({"type": "string"})
]
"""A fixed text, or one with placeholders for attributes of the caller."""
When = Annotated[
    Expression,
    PlainValidator(_expression),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["claims.tenant == vars.tenant"]}),
]
NetworkText = Annotated[
    Network,
    PlainValidator(parse_client_network),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8", "2001:db8::/32"]}),
]
Networks = Annotated[tuple[NetworkText, ...], AT_LEAST_ONE, OneOrMany]
Origin = Annotated[
    str,
    Field(max_length=300),
    AfterValidator(_origin),
    Spelled(r"(https?://[a-z0-9.\[\]:-]+|null)", "https://app.example.com"),
]


class ConditionConfig(PolicyBlock):
    """Conditions in addition to host, method and path. Every key that is present must hold."""

    caller: WhoConfig | None = None
    """The caller matches this description."""
    headers: Annotated[dict[HeaderName, HeaderComparison], AT_LEAST_ONE] = Field(default_factory=dict)
    """Comparisons by lower-case header name. A plain value means equality, a list any of its values."""
    query: Annotated[dict[Text, TextComparison], AT_LEAST_ONE] = Field(default_factory=dict)
    """Query parameters by name. A value alone means equality."""
    client: Networks | None = None
    """The client's address is in one of these networks."""
    client_not: Networks | None = None
    """The client's address is in none of these networks."""
    time: TimeConfig | None = None
    """The request comes within this time window."""
    context_extensions: Annotated[dict[Text, TextComparison], AT_LEAST_ONE] = Field(default_factory=dict)
    """Comparisons of the route's `context_extensions` for the ext_authz filter, which no client can set."""
    share: Annotated[ShareConfig, OrPercent] | None = None
    """The caller is in this percentage of callers, as in `5%`, which are always the same ones."""
    body: Annotated[dict[DottedName, Comparison], AT_LEAST_ONE] = Field(default_factory=dict)
    """Comparisons of fields of a JSON body or a form, if Envoy sends the body."""
    when: When | None = None
    """A CEL expression that must be true."""


class NamedConditionConfig(ConditionConfig):
    """A condition that rules refer to by name under `if`."""

    @model_validator(mode="after")
    def _refuse_empty(self) -> "NamedConditionConfig":
        if not self.model_fields_set:
            known = ", ".join(ConditionConfig.model_fields)
            raise ValueError(f"name at least one condition: {known}")
        return self


class CorsConfig(PolicyBlock):
    """Which cross-origin requests scripts may send (the Fetch standard's CORS protocol)."""

    origins: Annotated[tuple[Origin, ...], AT_LEAST_ONE, OneOrMany]
    """Exact origins, as in https://app.example.com, without wildcards: responses may be to credentials."""
    headers: Texts = ("authorization", "content-type")
    """Request headers that scripts may set."""
    expose: Texts | None = None
    """Response headers that scripts may read."""
    credentials: bool = False
    """Whether cookies may be sent along."""
    max_age_seconds: Annotated[int, Field(ge=0, le=86400)] = 600
    """How long a browser caches the preflight response."""


class DenialConfig(PolicyBlock):
    """The response of a deny rule, instead of 403 with its default text."""

    status: DenialStatus = 403
    """One of 400 to 499, or 503 for maintenance."""
    detail: Text | None = None
    """A text for the client."""
    retry_after_seconds: Annotated[int, Field(ge=1, le=604_800)] | None = None
    """Seconds until the client may retry, sent as `Retry-After` with status 429 or 503."""

    @model_validator(mode="after")
    def _comes_back_to_something(self) -> "DenialConfig":
        if self.retry_after_seconds is not None and self.status not in {429, 503}:
            raise ValueError("retry_after_seconds belongs to status 429 or 503")
        return self


class SharedConfig(ConditionConfig):
    """Keys that a rule may have itself or inherit from `defaults`."""

    named: Annotated[tuple[Name, ...], AT_LEAST_ONE, OneOrMany] | None = Field(None, alias="if")
    """Names of conditions that must all hold."""
    hosts: Annotated[
        tuple[Host, ...], AT_LEAST_ONE, Field(json_schema_extra={"default": [str(EVERY_HOST)]})
    ] = (EVERY_HOST,)
    """Host names the rule covers: exact, `*.example.com`, or `*` for all."""
    methods: Annotated[tuple[Method, ...], AT_LEAST_ONE] | None = None
    """The methods covered; every method if omitted. GET does not include HEAD."""
    identity_headers: dict[IdentityHeader, Value] = Field(default_factory=dict)
    """Identity headers in addition to those of the policy."""
    identify: Literal["optional", "never"] | None = None
    """Whether a rule that allows anyone authenticates the caller. `optional`: it does, and the upstream gets
    the identity if the credential is valid. `never`, the default: only a deny rule may require it."""
    response_headers: dict[ResponseHeader, TextValue] = Field(default_factory=dict)
    """Headers added to the response for the client if the rule allows."""
    query_set: dict[Text, TextValue] = Field(default_factory=dict)
    """Query parameters for the upstream, which replace those of the client."""
    query_remove: Annotated[tuple[Text, ...], AT_LEAST_ONE, OneOrMany] | None = None
    """Query parameters that the upstream does not get."""
    strip_session_cookie: bool | None = None
    """Whether the session cookie is removed from the upstream request (oauth2-proxy#644); true by default."""
    cors: CorsConfig | None = None
    """Lets scripts of other origins call what the rule allows."""
    accept_in_path: tuple[PathOddity, ...] = ()
    """Path anomalies that this rule tolerates although different readers parse them differently."""
    mode: Literal["enforce", "shadow"] = "enforce"
    """`shadow`: the rule does not decide; metadata and logs show what it would have changed."""
    owner: Text | None = None
    """The person or team responsible for the rule."""
    ticket: Text | None = None
    """A reference to the request for the rule."""


class DefaultsConfig(SharedConfig):
    """Keys shared by the rules that name this block under `inherit`."""


class RuleConfig(SharedConfig):
    """A rule that allows or denies callers on these hosts, with these methods, at these paths."""

    name: Name
    """Names the rule in decisions, logs and metrics. Unique within the policy."""
    inherit: Name | None = None
    """The `defaults` whose conditions must hold too, and whose other keys apply unless the rule has them."""
    paths: Annotated[
        tuple[PathTemplate, ...], AT_LEAST_ONE, Field(json_schema_extra={"default": [str(EVERY_PATH)]})
    ] = (EVERY_PATH,)
    """Path templates the rule covers, such as `/users/{id}` or `/files/{rest=**}`."""
    allow: Whos | None = None
    """Who is allowed: `anyone`, `authenticated`, or descriptions of callers, one of which matches."""
    deny: Whos | None = None
    """Who is denied, written as for `allow`. Any matching deny rule wins over every allow rule."""
    answer: DenialConfig | None = None
    """The response of a deny rule to the client."""

    @model_validator(mode="after")
    def _one_effect(self, info: ValidationInfo) -> "RuleConfig":
        if info.context is not None:
            # One call of pydantic checks all the rules of a file.
            info.context["breathe"]()
        if (self.allow is None) == (self.deny is None):
            raise ValueError("write either allow or deny, with the callers")
        misplaced = sorted(ONLY_FOR_ALLOW & self.model_fields_set) if self.deny is not None else ()
        if misplaced:
            belongs = "belongs" if len(misplaced) == 1 else "belong"
            raise ValueError(
                f"{' and '.join(misplaced)} {belongs} to allow rules: "
                "a deny rule sends nothing upstream and always covers paths with anomalies"
            )
        if self.identify is not None and "anyone" not in (self.allow or ()):
            raise ValueError("identify belongs to allow: anyone; other callers are always authenticated")
        if self.allow is not None and self.answer is not None:
            raise ValueError("answer belongs to deny rules")
        return self


ONLY_FOR_ALLOW: Final = frozenset({
    "identify", "identity_headers", "response_headers", "query_set", "query_remove", "strip_session_cookie",
    "cors", "accept_in_path",
})  # fmt: skip


class LoginConfig(PolicyBlock):
    """Where a browser without a credential is redirected."""

    url: Annotated[str, Field(max_length=2048), AfterValidator(_login_url)]
    """An absolute URL, or a path on the same host."""
    return_parameter: Annotated[str, Spelled(r"[A-Za-z0-9_.-]{1,64}", "return_to")] = "return_to"
    """The query parameter with the return URL, which is always a path on the same host."""


class PolicyFile(PolicyBlock):
    """A policy file. A policy may consist of several files.

    Only one of them may have revision, credentials, identity_headers, metadata, login, paths or
    strip_session_cookie. Rules in all files may use the conditions and defaults of any file.
    """

    include: Annotated[tuple[Text, ...], AT_LEAST_ONE, OneOrMany] | None = None
    """Further files and folders, relative to the folder of this file."""
    revision: Revision | None = None
    """The name of the release that the policy belongs to. Default: a hash of the content of its files."""
    credentials: CredentialsConfig | None = None
    """The kinds of credential that callers may present, and how each is verified."""
    identity_headers: dict[IdentityHeader, Value] | None = None
    """Request headers that tell the upstream who the caller is, by name. Clients cannot set them."""
    metadata: dict[Annotated[str, Spelled(r"[a-z0-9_]{1,64}", "tenant")], Value] | None = None
    """Values of the caller that the dynamic metadata has under `claims`."""
    login: LoginConfig | None = None
    """Where a browser without a credential is sent. Without it, it gets 401."""
    paths: PathsConfig | None = None
    """How deny rules compare paths."""
    strip_session_cookie: bool | None = None
    """Whether authz removes the session cookie before the upstream. Default: true; a rule may differ."""
    conditions: dict[Name, NamedConditionConfig] = Field(default_factory=dict)
    """Named conditions, which rules use under `if`."""
    defaults: dict[Name, DefaultsConfig] = Field(default_factory=dict)
    """Named sets of rule keys, which rules use under `inherit`."""
    rules: tuple[RuleConfig, ...] = ()
    """The rules. Their order does not matter: any matching deny rule wins."""


ONCE: Final = (
    "revision", "credentials", "identity_headers", "metadata", "login", "paths", "strip_session_cookie",
)  # fmt: skip
"""The keys that only one file of a policy may hold."""

DEFAULT_IDENTITY_HEADERS: Final = {
    "x-auth-subject": parse_value("subject"),
    "x-auth-issuer": parse_value("issuer"),
    "x-auth-scopes": parse_value("scopes"),
    "x-auth-roles": parse_value("roles"),
}
