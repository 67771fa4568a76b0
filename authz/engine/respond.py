"""Builds the response to Envoy: a decision as the bytes of a CheckResponse.

Two responses with the same verdict for the same caller differ only in the decision id, whose length is fixed.
So each response is built once around a placeholder and split at it; later responses are the pieces joined by
an id. What depends on the request itself (the cookie header without its session, the return URL of a login)
is never cached.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

from authz.credentials.throttle.throttle import BAD
from authz.engine.cors import Script, script_of
from authz.engine.decide import Decision
from authz.engine.denial import BodyFormat, denial, for_script, form_of, preflight_answer, varying
from authz.engine.login import Login
from authz.policy.compile.compile import Policy
from authz.policy.rule import Mutations, Outcome, Verdict
from authz.policy.templates import ValueTemplate
from authz.request.field_names import WantedNames
from authz.request.header_names import NamesAlike
from authz.request.identity import Identity
from authz.request.plain_text import plain
from authz.request.request import Request
from authz.wire import (
    DeniedHttpResponse,
    allow_response,
    header_set,
    headers_removed,
    overwriting,
    parameters_removed,
    refusal_headers_added,
    refusal_response,
    response_headers_added,
)

MAX_ANSWERS: Final = 10_000
"""The most responses cached, about 1.5 KB each: one Envoy usually has fewer active callers within minutes."""

MAX_IDENTITY_BYTES: Final = 6_144
"""The most bytes of all identity headers, names included. Many upstreams refuse more than 8 KiB of headers,
and the client's own headers count too. The longest are omitted until the rest fits (oauth2-proxy#1902)."""

_PERMISSION_DENIED: Final = 7
_RPC_CODES: Final = {401: 16, 429: 8, 503: 14}
"""The gRPC status in the CheckResponse by HTTP status. Envoy only tests it for 0; access logs show it."""


class Responder:
    """Builds the responses to the decisions of one policy."""

    __slots__ = ("_alike", "_answers", "_login", "_metadata", "_placeholder", "_policy", "_removed_headers")

    def __init__(self, policy: Policy, placeholder: str) -> None:
        """`placeholder` must be as long as a decision id and impossible to guess.

        Wherever it occurs in a response, for example in a subject, the decision id replaces it.
        """
        self._policy = policy
        self._removed_headers = policy.removed_headers
        self._alike = NamesAlike(policy.removed_headers)
        self._metadata = policy.metadata
        self._login = None if policy.login is None else Login(policy.login, policy.credential_cookies)
        self._placeholder = placeholder
        # By identity of the objects, which the values keep alive, so that no address is used again.
        self._answers: dict[tuple[int, int, int, str, str], tuple[Decision, list[bytes]]] = {}

    def respond(self, decision: Decision) -> bytes:
        """Return the serialised CheckResponse."""
        verdict, request = decision.verdict, decision.request
        script = script_of(self._policy, request) if self._policy.cors and request is not None else None
        if verdict.outcome is Outcome.ALLOW:
            answer = self._kept(decision, "")
            if script is not None:
                vary = () if verdict.mutations.cors is not None else (varying(),)
                answer += response_headers_added((*for_script(script), *vary))
            # Two messages in a row are read as one, merged (protobuf encoding, "last one wins").
            if request is None:
                return answer
            mutations = verdict.mutations
            alike = self._alike.among(request.header_names)
            if alike or mutations.strip_cookies or mutations.query_set or mutations.query_remove:
                answer += _of_request(request, decision, alike)
            return answer
        if verdict.outcome is Outcome.PREFLIGHT:
            return self._build(decision, BodyFormat.TEXT)
        form = form_of(request)
        if self._login is not None and self._login.redirect(decision, form) is not None:
            return self._build(decision, form)
        answer = self._kept(decision, form)
        return answer if script is None else answer + _readable_by(script, verdict)

    def parts(self) -> Iterable[object]:
        """Return the cached responses (`common.background.release`)."""
        return list(self._answers.values())

    def _kept(self, decision: Decision, variant: str) -> bytes:
        key = (id(decision.verdict), id(decision.identity), id(decision.shadow), decision.credential, variant)
        known = self._answers.get(key)
        if known is not None:
            return decision.id.encode().join(known[1])
        marked = decision._replace(id=self._placeholder)
        pieces = self._build(marked, variant).split(self._placeholder.encode())
        if len(self._answers) >= MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]
        self._answers[key] = (decision._replace(request=None, detail=""), pieces)
        return decision.id.encode().join(pieces)

    def _build(self, decision: Decision, variant: str) -> bytes:
        """Build the response to a decision. `variant` is the format of the body, empty for an allow."""
        verdict = decision.verdict
        about = metadata(decision, self._metadata)
        if verdict.outcome is Outcome.ALLOW:
            return self._allow(verdict, decision.identity, about)
        return refusal_response(
            self._for_client(decision, BodyFormat(variant)),
            about,
            code=_RPC_CODES.get(verdict.status, _PERMISSION_DENIED),
            reason=verdict.reason,
            error=verdict.outcome is Outcome.ERROR,
        )

    def _for_client(self, decision: Decision, form: BodyFormat) -> DeniedHttpResponse:
        if decision.verdict.outcome is Outcome.PREFLIGHT:
            return preflight_answer(decision)
        redirect = None if self._login is None else self._login.redirect(decision, form)
        return denial(decision, form) if redirect is None else redirect

    def _allow(self, verdict: Verdict, identity: Identity, about: Mapping[str, Any]) -> bytes:
        mutations = verdict.mutations
        headers = _within_bounds(_filled(mutations.identity_headers, identity))
        query = _filled(mutations.query_set, identity)
        for_client = [overwriting(*pair) for pair in _filled(mutations.response_headers, identity).items()]
        if mutations.cors is not None:
            # Also without an origin: a cache must learn that the response varies by origin (Fetch, CORS).
            for_client.append(varying())
        # A name is either set or removed, never both: the order in which Envoy applies them is undefined.
        return allow_response(
            about,
            headers=headers,
            removed_headers=sorted(self._removed_headers.difference(headers)),
            response_headers=for_client,
            query_set={_escaped(name): _escaped(value) for name, value in query.items()},
        )


def metadata(decision: Decision, claims: Iterable[tuple[str, ValueTemplate]] = ()) -> dict[str, Any]:
    """Return the dynamic metadata for later filters and the access log (`envoy.filters.http.ext_authz`).

    Envoy emits it for denials and errors too. It goes into the CheckResponse itself, because the deprecated
    field of OkHttpResponse would override it. `claims` are the values of the caller that the policy selects.
    `bad_credentials` is 1 for a credential that was never issued: Envoy can charge it to a rate limit.
    """
    verdict, shadow = decision.verdict, decision.shadow
    fields: dict[str, Any] = {
        "decision_id": decision.id,
        "outcome": verdict.outcome.value,
        "reason": verdict.reason,
        "rule": verdict.rule,
        "policy_revision": decision.revision,
        "subject": plain(decision.identity.subject),
        "credential": decision.credential,
        "bad_credentials": float(verdict.outcome is Outcome.DENY and verdict.reason in BAD),
    }
    if shadow is not None:
        fields |= {"shadow_outcome": shadow.outcome.value, "shadow_rule": shadow.rule}
    fields["claims"] = _filled(claims, decision.identity)
    return {name: value for name, value in fields.items() if value}


def _filled(templates: Iterable[tuple[str, ValueTemplate]], identity: Identity) -> dict[str, str]:
    """Return the values for this caller; a name whose value is empty is omitted."""
    values = {name: template.fill(identity) for name, template in templates}
    return {name: value for name, value in values.items() if value}


def _within_bounds(headers: dict[str, str]) -> dict[str, str]:
    sizes = {name: len(name) + len(value.encode()) for name, value in headers.items()}
    while sum(sizes.values()) > MAX_IDENTITY_BYTES:
        del sizes[max(sizes, key=sizes.__getitem__)]
    return headers if len(sizes) == len(headers) else {name: headers[name] for name in sizes}


def _of_request(request: Request, decision: Decision, alike: Sequence[str]) -> bytes:
    """Return what an allow adds for this request only.

    `alike` are the request's headers that an upstream could mistake for identity headers.
    """
    mutations = decision.verdict.mutations
    parts = headers_removed(alike) if alike else b""
    if mutations.strip_cookies:
        parts += _without_cookies(request, mutations.strip_cookies)
    if (mutations.query_set or mutations.query_remove) and request.query:
        parts += _without_parameters(request, mutations, decision.identity)
    return parts


def _without_parameters(request: Request, mutations: Mutations, identity: Identity) -> bytes:
    """Return the mutation that removes parameters which the rule sets or removes, as the request spells them.

    Envoy compares names without decoding them while upstreams decode: `%64ebug` would get through. Names that
    the request lacks are not listed, because for any listed name Envoy sorts and re-encodes the whole query.
    """
    names = frozenset((*mutations.query_remove, *(name for name, _ in mutations.query_set)))
    present = request.query_spellings(_wanted(names))
    if not present:
        return b""
    # Envoy removes after it sets: a parameter that is set must not be removed too.
    present -= set(map(_escaped, _filled(mutations.query_set, identity)))
    return parameters_removed(sorted(present))


@lru_cache(maxsize=MAX_ANSWERS)
def _wanted(names: frozenset[str]) -> WantedNames:
    return WantedNames(names)


def _escaped(text: str) -> str:
    return quote(text, safe="")


def _without_cookies(request: Request, names: frozenset[str]) -> bytes:
    """Return the mutation that removes these cookies from the upstream request; empty if it has none of them.

    The other cookies are sent on in one header. A cookie with non-ASCII bytes, which RFC 6265 section 4.1.1
    forbids, is removed too, because a response to Envoy holds text.
    """
    pairs = [pair.strip(" \t") for line in request.header_values("cookie") for pair in line.split(";")]
    kept = [pair for pair in pairs if pair and pair.partition("=")[0].rstrip(" \t") not in names]
    if len(kept) == len([pair for pair in pairs if pair]):
        return b""
    value = "; ".join(pair for pair in kept if pair.isascii())
    if not value:
        return headers_removed(["cookie"])
    return header_set("cookie", value)


def _readable_by(script: Script, verdict: Verdict) -> bytes:
    """Return the CORS headers that let the script read a denial or an error."""
    headers = (*for_script(script), varying(denied=True))
    return refusal_headers_added(headers, error=verdict.outcome is Outcome.ERROR)
