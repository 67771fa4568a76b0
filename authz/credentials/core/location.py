"""Where requests carry credentials: the configuration, and the places that it names.

Credentials of several kinds may share a place. There the number of dots tells them apart: two in a
JWT, one in an API key (`id.secret`), none in a session token. Opaque access tokens, which may have any
form, share a place with JWTs only, and there everything that is not a JWT is an opaque token.
"""

from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import Annotated, Final

from pydantic import Field, model_validator

from authz.credentials.core.find import SCHEME, Place
from authz.credentials.core.verifier import ThrottleCheck, Verified, Verifier, no_throttle
from authz.request.identity import CredentialKind, Refusal, RefusalReason
from authz.request.request import MAX_QUERY_PARAMETERS, Request
from common.configfile import Block, Spelled

DOTS: Final[Mapping[CredentialKind, int]] = {
    CredentialKind.JWT: 2,
    CredentialKind.API_KEY: 1,
    CredentialKind.SESSION: 0,
}

_UNREAD: Final = ("one", "another")
"""Values for a query that is not read in full: ambiguous, since the upstream may read more of it."""

QUOTED_NOTHING: Final = '""'
"""An empty cookie as Python's http.cookies and others write it (RFC 6265 section 4.1.1)."""

_ENCODED: Final = "base64url."
"""The prefix of a WebSocket protocol name whose credential is in base64url."""
_SHAPELESS: Final = Refusal(RefusalReason.TOKEN_MALFORMED, "no credential of a known shape")


class LocationError(ValueError):
    """Two kinds of credential share a place where nothing tells them apart."""


class LocationConfig(Block):
    """Where a request carries a credential: one of `header`, `cookie`, `query`, `websocket_protocol`."""

    header: Annotated[str, Field(max_length=128), Spelled(r"[a-z0-9][a-z0-9-]*", "x-api-key")] | None = None
    """The request header that holds the credential, in lower case."""
    scheme: Annotated[str, Field(max_length=64), Spelled(SCHEME.pattern, "Bearer")] | None = None
    """The authentication scheme in front of the credential, compared without case (RFC 9110 section 11.1)."""
    cookie: Annotated[str, Field(max_length=128), Spelled(SCHEME.pattern, "session")] | None = None
    """The cookie that holds the credential."""
    query: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """The query parameter that holds the credential. URLs end up in logs: prefer a header."""
    websocket_protocol: Annotated[str, Field(max_length=128), Spelled(SCHEME.pattern, "bearer")] | None = None
    """The name in front of the credential in Sec-WebSocket-Protocol, as `NAME.CREDENTIAL` or
    `NAME, CREDENTIAL`: scripts in browsers can set no other header of a WebSocket."""

    @model_validator(mode="after")
    def _one_place(self) -> "LocationConfig":
        places = (self.header, self.cookie, self.query, self.websocket_protocol)
        if sum(place is not None for place in places) != 1:
            raise ValueError("name exactly one of header, cookie, query and websocket_protocol")
        if self.scheme is not None and self.header is None:
            raise ValueError("a scheme belongs to a header")
        if self.header == "authorization" and self.scheme is None:
            raise ValueError("the authorization header needs a scheme, such as Bearer")
        return self


def places(
    locations: Mapping[CredentialKind, Sequence[LocationConfig]], verifiers: Mapping[CredentialKind, Verifier]
) -> tuple[Place, ...]:
    """Return every place to look at. Raises LocationError if two kinds cannot be told apart."""
    wanted: dict[tuple[str, str], dict[str, dict[CredentialKind, Verifier]]] = {}
    for kind, where in locations.items():
        for location in where:
            schemes = wanted.setdefault(_name(location), {})
            schemes.setdefault((location.scheme or "").lower(), {})[kind] = verifiers[kind]
    return tuple(_place(place, name, schemes) for (place, name), schemes in wanted.items())


def check_apart(locations: Mapping[CredentialKind, Sequence[LocationConfig]]) -> None:
    """Raise LocationError if two kinds of credential cannot be told apart."""
    places(locations, dict.fromkeys(locations, _NOTHING))


def _name(location: LocationConfig) -> tuple[str, str]:
    if location.header is not None:
        return "header", location.header
    if location.cookie is not None:
        return "cookie", location.cookie
    if location.websocket_protocol is not None:
        return "websocket_protocol", location.websocket_protocol
    return "query", location.query or ""


def _place(place: str, name: str, schemes: Mapping[str, Mapping[CredentialKind, Verifier]]) -> Place:
    compiled = {scheme: _by_shape(f"{place} {name}", kinds) for scheme, kinds in schemes.items()}
    whole = compiled.pop("", None)
    if whole is not None and compiled:
        raise LocationError(f"{place} {name} is read both with a scheme and without")
    return Place(f"{place} {name}", _values_of(place, name), compiled, whole)


def _values_of(place: str, name: str) -> Callable[[Request], Sequence[str]]:
    if place == "header":
        of_authorization: Callable[[Request], Sequence[str]] = attrgetter("authorization")
        return of_authorization if name == "authorization" else lambda request: request.header_values(name)
    if place == "cookie":
        return lambda request: _cookie_values(request, name)
    if place == "websocket_protocol":
        return lambda request: _offered_values(request, name)
    return lambda request: _query_values(request, name)


def _cookie_values(request: Request, name: str) -> Sequence[str]:
    values = request.cookie_values(name)
    return (
        ["" if value == QUOTED_NOTHING else value for value in values] if QUOTED_NOTHING in values else values
    )


def _query_values(request: Request, name: str) -> Sequence[str]:
    # Parameters beyond the limit are not read, and one of them might be another credential.
    if request.query.count("&") >= MAX_QUERY_PARAMETERS:
        return _UNREAD
    return request.query_values(name)


def _offered_values(request: Request, name: str) -> Sequence[str]:
    """Return the credentials that a client offers as WebSocket protocols (RFC 6455 section 11.3.4)."""
    lines = request.header_values("sec-websocket-protocol")
    if not lines:
        return lines
    offered = [entry.strip(" \t") for line in lines for entry in line.split(",")]
    values = [entry[len(name) + 1 :] for entry in offered if entry.startswith(f"{name}.")]
    values += [value for mark, value in pairwise(offered) if mark == name]
    # As in Kubernetes: a protocol name cannot hold every character, so it holds base64url.
    return [_decoded(value) for value in values] if name.startswith(_ENCODED) else values


def _decoded(value: str) -> str:
    """Decode base64url. Other text is returned unchanged, and its verifier refuses it."""
    try:
        padded = value + "=" * (-len(value) % 4)
        return b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except ValueError:
        return value


def _by_shape(place: str, kinds: Mapping[CredentialKind, Verifier]) -> Verifier:
    if len(kinds) == 1:
        return next(iter(kinds.values()))
    opaque = kinds.get(CredentialKind.INTROSPECTION)
    if opaque is not None and kinds.keys() != {CredentialKind.INTROSPECTION, CredentialKind.JWT}:
        raise LocationError(f"{place} cannot hold {' and '.join(kinds)}: nothing tells them apart")
    by_dots = {DOTS[kind]: verifier for kind, verifier in kinds.items() if kind in DOTS}
    return TokenShapeRouter(by_dots, _NOTHING if opaque is None else opaque)


class TokenShapeRouter:
    """Passes a credential to the verifier of its kind, which the number of its dots tells."""

    def __init__(self, by_dots: Mapping[int, Verifier], otherwise: Verifier) -> None:
        self._by_dots = by_dots
        self._otherwise = otherwise

    def cached(self, credential: str, now: float) -> Verified | None:
        """Return what the verifier of this kind has cached."""
        return self._by_dots.get(credential.count("."), self._otherwise).cached(credential, now)

    def verify(
        self, credential: str, now: float, throttle_check: ThrottleCheck = no_throttle
    ) -> Verified | Awaitable[Verified]:
        """Verify with the verifier of this kind."""
        return self._by_dots.get(credential.count("."), self._otherwise).verify(
            credential, now, throttle_check
        )

    def unverified_subject(self, credential: str) -> str:
        """Return the subject that the credential claims, as its verifier reads it."""
        return self._by_dots.get(credential.count("."), self._otherwise).unverified_subject(credential)


class _Nothing:
    """Refuses credentials of no known shape."""

    def cached(self, _credential: str, _now: float) -> Verified | None:
        return _SHAPELESS

    def verify(
        self, _credential: str, _now: float, _throttle_check: ThrottleCheck = no_throttle
    ) -> Verified | Awaitable[Verified]:
        return _SHAPELESS

    def unverified_subject(self, _credential: str) -> str:
        return ""


_NOTHING: Final = _Nothing()
