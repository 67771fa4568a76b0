"""`diff` shows every change of a policy.

This is tested with every field of every model of a policy file: a field without an example here fails the
first test, and one whose change is not shown fails the second.
"""

import copy
import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from authz.policy.compile.compile import compile_policy
from authz.policy.compile.contents import contents_of
from authz.policy.model import PolicyFile
from authz.policy.source import Source
from authz.tools.diff import Loaded, diff
from common.configfile import ConfigError, Document, KeyPart, key_path_text

HASH = "0f1d3c5a9b8e7f6a5d4c3b2a190807060504030201f0e1d2c3b4a5968778695a"

EVERYTHING = """
credentials:
  tokens: {locations: [{header: x-token, scheme: Token}], max_bytes: 4096}
  issuers:
    - issuer: https://a.example
      audiences: [api]
      algorithms: [RS256]
      leeway_seconds: 1
      types: [JWT]
      type_required: true
      required_claims: [{claim: email, values: [x]}]
      forbidden_claims: [cnf]
      max_lifetime_seconds: 60
      logout: {audiences: [client], max_age_seconds: 60}
      subject_claim: uid
      scope_claims: [scp]
      roles_claim: [realm, roles]
      jwks:
        url: https://127.0.0.1/keys
        refresh_seconds: 60
        max_stale_seconds: 600
        cooldown_seconds: 10
        unknown_key_seconds: 20
        timeout_seconds: 2
        allow_http: true
        allow_addresses: [127.0.0.0/8]
        ca_file: ca.pem
        proxy: http://127.0.0.1:3128
    - issuer: https://b.example
      audiences: any
      max_lifetime_seconds: 60
      jwks: {discovery: "https://b.example/x", allow_hosts: [keys.b.example]}
    - {issuer: https://c.example, audiences: any, max_lifetime_seconds: 60, jwks: {file: keys.json}}
    - issuer: https://d.example/{tenantid}
      tenants: [t1, t2]
      audiences: any
      max_lifetime_seconds: 60
      jwks: {file: keys.json}
  sessions:
    locations: [{cookie: sid}]
    store: redis
    prefix: "s:"
    idle_timeout_seconds: 60
    absolute_timeout_seconds: 600
    max_sessions: 10
    cache_max_entries: 10
    cache_ttl_seconds: 1
    ended_retention_seconds: 1
  api_keys:
    locations: [{query: key}, {websocket_protocol: key}]
    keys:
      - {id: k1, sha256: HASH, subject: s, scopes: [a], roles: [b], expires: 2030-01-01}
    file: more.yaml
  introspection:
    locations: [{header: authorization, scheme: Opaque}]
    url: https://127.0.0.1/introspect
    client_id: me
    client_secret_file: secret
    client_auth: post
    audiences: [api]
    issuer: https://a.example
    required_claims: [a]
    forbidden_claims: [b]
    subject_claim: uid
    scope_claims: [scp]
    roles_claim: [r]
    leeway_seconds: 1
    max_bytes: 64
    cache_ttl_seconds: 5
    negative_cache_ttl_seconds: 5
    cache_max_entries: 10
    negative_cache_max_entries: 10
    timeout_seconds: 1
    max_concurrent_requests: 3
    allow_http: true
    allow_addresses: [127.0.0.0/8]
    ca_file: ca.pem
    proxy: http://127.0.0.1:3128
  mtls:
    principals: ["spiffe://a/*"]
    forwarded: {trusted_peers: [spiffe://proxy], trusted_networks: [10.0.0.0/8], depth: 2, names: [dns]}
  revocations:
    store: redis
    prefix: "r:"
    retention_seconds: 9000
    leeway_seconds: 40
    max_entries: 10
    max_stale_seconds: 10
  throttle: {address_failures: 5, subject_failures: 6, per_seconds: 7, cache_max_entries: 8}
  cache: {max_entries: 5, ttl_seconds: 6, negative_max_entries: 7, negative_ttl_seconds: 8}
  lookup_timeout_seconds: 0.1
identity_headers: {x-user: subject}
metadata: {tenant: "{claims.tenant}"}
login: {url: /login, return_parameter: back}
strip_session_cookie: false
paths: {case: ignore, trailing_slash: ignore}
conditions:
  office: {client: [10.0.0.0/8], client_not: [10.1.0.0/16]}
  staff: {caller: {roles: [staff]}}
defaults:
  team:
    if: [office]
    hosts: [team.example.com]
    headers: {x-team: a}
    owner: team-a
rules:
  - name: allows
    hosts: [api.example.com]
    methods: [GET]
    paths: ["/a/{id}"]
    headers:
      h-equals: {equals: x}
      h-one-of: {one_of: [x, y]}
      h-not-one-of: {not_one_of: [x, y]}
      h-prefix: {prefix: x}
      h-suffix: {suffix: x}
      h-matches: {matches: x.*}
      h-present: {present: true}
    query: {q: a}
    body:
      b.equals: {equals: 1}
      b.one_of: {one_of: [1, x]}
      b.not_one_of: {not_one_of: [1, x]}
      b.contains: {contains: 1}
      b.prefix: {prefix: x}
      b.suffix: {suffix: x}
      b.matches: {matches: x.*}
      b.range: {at_least: 1, at_most: 5}
      b.present: {present: true}
    time:
      zone: UTC
      days: [mon-fri]
      from: "08:00"
      until: "17:00"
      after: 2026-01-01
      before: 2027-01-01
    when: claims.a == 'x  y'
    context_extensions: {audience: internal}
    share: {percent: 25, by: subject, seed: s}
    allow:
      scopes: [s1, s2]
      any_scope: [s3]
      roles: [r1]
      all_roles: [r2]
      subjects: [u1]
      issuers: [i1]
      audiences: [a1]
      kinds: [jwt]
      claims: {tenant: acme}
    identity_headers: {x-more: issuer}
    response_headers: {x-answer: hello}
    query_set: {from: edge}
    query_remove: [debug]
    strip_session_cookie: true
    cors:
      origins: [https://app.example.com]
      headers: [x-asked]
      expose: [x-answer]
      credentials: true
      max_age_seconds: 5
    accept_in_path: [parameters]
    mode: shadow
    owner: me
    ticket: T-1
  - {name: inherits, paths: [/i], allow: authenticated, inherit: team, if: [staff]}
  - {name: denies, deny: {roles: [bad]}, answer: {status: 404, detail: Nothing here.}}
  - {name: pauses, paths: [/p], deny: anyone, answer: {status: 503, retry_after_seconds: 5}}
  - name: closed
    deny: {roles: [late]}
    answer: {status: 503, detail: Later., retry_after_seconds: 5}
  - {name: open, paths: [/open], allow: anyone, identify: optional}
  - {name: second, paths: [/s], allow: anyone, client: 192.0.2.0/24, client_not: [192.0.2.1]}
  - {name: third, paths: [/t], allow: anyone, caller: {subjects: [u1]}}
""".replace("HASH", HASH)

NOT_OF_RULES = {("PolicyFile", "include"), ("PolicyFile", "revision")}
"""Names of policy files and of releases do not count; their contents do."""


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in {Union, types.UnionType, Annotated, tuple, dict}:
        for one in get_args(annotation):
            yield from models_in(one)


def every_field() -> set[tuple[str, str]]:
    """(model, field) of every model that a policy file is made of."""
    known: set[type[BaseModel]] = set()
    waiting: list[type[BaseModel]] = [PolicyFile]
    while waiting:
        model = waiting.pop()
        if model not in known:
            known.add(model)
            waiting += [one for field in model.model_fields.values() for one in models_in(field.annotation)]
    return {(model.__name__, name) for model in known for name in model.model_fields}


def set_fields(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, BaseModel):
        for name in value.model_fields_set:
            yield type(value).__name__, name
            yield from set_fields(getattr(value, name))
    elif isinstance(value, dict):
        for one in value.values():
            yield from set_fields(one)
    elif isinstance(value, tuple):
        for one in value:
            yield from set_fields(one)


def test_every_field_of_every_model_has_an_example() -> None:
    policy = PolicyFile.model_validate(yaml.safe_load(EVERYTHING))
    # What defaults can have, rules have too: it is the rule that a default counts for.
    inherited = {("DefaultsConfig", name) for model, name in every_field() if model == "RuleConfig"}
    conditions = {("NamedConditionConfig", name) for model, name in every_field() if model == "RuleConfig"}
    assert every_field() - set(set_fields(policy)) - inherited - conditions - NOT_OF_RULES == set()


def leaves(value: Any, path: tuple[KeyPart, ...] = ()) -> Iterator[tuple[tuple[KeyPart, ...], Any]]:
    """Every value below, blocks and lists too."""
    if path:
        yield path, value
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        yield from leaves(child, (*path, key))


def others(value: Any) -> Iterator[Any]:
    """Values of the same kind that are not this one."""
    match value:
        case bool():
            yield not value
        case int() | float():
            yield from (value + 1, value - 1, value / 2, 429)
        case str():
            yield from (f"{value}x", f"x{value}", value[:-1], value.replace("  ", " "), "/other", "anyone")
            yield from (
                "jwt",
                "mtls",
                "shadow",
                "enforce",
                "memory",
                "basic",
                "client",
                "never",
                "exact",
                "uri",
                "slash",
                "backslash",
            )
            yield from (
                "PUT",
                "ES256",
                "tue",
                "Europe/Berlin",
                "09:00",
                "10.9.0.0/16",
                HASH.replace("0", "1"),
            )
            yield from (
                ["other"],
                ["anyone", "authenticated"],
                "authenticated",
                "staff",
                "https://other.example",
                "http://127.0.0.1/other",
                "issuer",
                "office",
                "team",
                "any",
                "client",
            )
        case list():
            yield value[1:]
        case _ if hasattr(value, "replace"):
            yield value.replace(year=value.year + 1)


def edited(content: Any, path: tuple[KeyPart, ...], value: Any = None, *, drop: bool = False) -> Any:
    new = copy.deepcopy(content)
    place = new
    for part in path[:-1]:
        place = place[part]
    if drop:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return new


CONTENT = yaml.safe_load(EVERYTHING)


def loaded(content: Any) -> Loaded:
    document = Document("policy.yaml", content, None)
    source = Source(document, PolicyFile.model_validate(content))
    return compile_policy([source]), contents_of([source])


PRESENT = loaded(CONTENT)
ENOUGH = 3


@pytest.mark.parametrize(
    ("path", "value"),
    [*leaves(CONTENT)],
    ids=lambda one: key_path_text(one) if isinstance(one, tuple) else "",
)
def test_a_change_of_any_value_is_shown(path: tuple[KeyPart, ...], value: Any) -> None:
    """Each value is left out, and replaced by others, where the models accept it."""
    asked = 0
    for new in (edited(CONTENT, path, drop=True), *(edited(CONTENT, path, one) for one in others(value))):
        if json.dumps(new, default=str) == json.dumps(CONTENT, default=str):
            continue
        try:
            found = diff(PRESENT, loaded(new))
        except (ConfigError, ValidationError):
            continue
        asked += 1
        assert found, new
        if asked == ENOUGH:
            break
    # A block that can neither go nor be another is described by its contents.
    assert asked or isinstance(value, dict | list)
