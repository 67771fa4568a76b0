"""Sessions for login applications over HTTP: create one, show one, revoke one or all of a subject.

docs/sessions.md is the description for those who write such an application.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Counter

from authz.credentials.admin import CredentialAdmin, CredentialAdminError
from authz.credentials.session.model import key_of
from sidecars.admin.routes import AdminAnswer, AdminRequest, AdminRoute
from sidecars.services.authz.json_calls import failed, text, texts, with_json
from sidecars.services.authz.sessions_api_guard import SessionsApiGuard
from sidecars.settings.sessions_api import Granted, Operation, SessionsApiClient, SessionsApiSettings

CREATE_PATH: Final = "/v1/sessions"
SHOW_PATH: Final = "/v1/sessions/show"
REVOKE_PATH: Final = "/v1/sessions/revoke"

MAX_NAME_CHARACTERS: Final = 1024
"""The longest subject, scope or role. OpenID Connect allows 255 characters for `sub`."""

MAX_NAMES: Final = 256
"""The most scopes, and the most roles, of a session."""

_ID: Final = re.compile(r"[0-9a-f]{64}")

_log = structlog.get_logger("sidecars.authz.sessions")

_Work = Callable[[SessionsApiClient, Mapping[str, Any]], Awaitable[Any]]


class NotPermittedError(Exception):
    """A request that the settings of its client do not allow."""


class SessionsApi:
    """The calls of login applications. Every change is a line of the log, which contains no token."""

    def __init__(
        self,
        settings: SessionsApiSettings,
        credential_admin: Callable[[], CredentialAdmin],
        registry: CollectorRegistry,
        monotonic_clock: Callable[[], float],
    ) -> None:
        self.address = settings.listen
        self._desk = credential_admin
        self._clients = {client.name: client for client in settings.clients}
        requests = Counter(
            "authz_sessions_api_requests",
            "Requests of login applications by client and HTTP status; (unknown): without a valid token.",
            ["client", "code"],
            registry=registry,
        )
        self.guard = SessionsApiGuard(
            settings.clients,
            settings.hosts,
            monotonic_clock,
            lambda client, status: requests.labels(client, str(status)).inc(),
        )

    @property
    def routes(self) -> Sequence[AdminRoute]:
        """The calls. Each expects a request that `guard` has admitted."""
        return (
            AdminRoute("POST", CREATE_PATH, self.create),
            AdminRoute("POST", SHOW_PATH, self.show),
            AdminRoute("POST", REVOKE_PATH, self.revoke),
        )

    async def create(self, request: AdminRequest) -> AdminAnswer:
        """Create a session: 201 with its token, which is shown only here."""
        answer = await self._answer(request, self._created)
        return replace(answer, status=201) if answer.status == 200 else answer

    async def show(self, request: AdminRequest) -> AdminAnswer:
        """Show a session by its token or id; 404 if there is none."""
        answer = await self._answer(request, self._shown)
        return failed(404, "not_found", "no such session") if answer.body == b"null" else answer

    async def revoke(self, request: AdminRequest) -> AdminAnswer:
        """End the session of a token or id, or all sessions of a subject."""
        return await self._answer(request, self._revoked)

    async def _answer(self, request: AdminRequest, work: _Work) -> AdminAnswer:
        client = self._clients[request.caller]
        try:
            answer = await with_json(request, lambda asked: work(client, asked))
        except NotPermittedError as error:
            _log.warning("sessions api refused a request", client=client.name, problem=str(error))
            return failed(403, "forbidden", str(error))
        # An outage ends at the next test of the circuit breaker, a second later.
        return (
            replace(answer, headers={**answer.headers, "retry-after": "1"})
            if answer.status == 503
            else answer
        )

    async def _created(self, client: SessionsApiClient, asked: Mapping[str, Any]) -> dict[str, Any]:
        _permit(client, "create")
        _check_fields(asked, {"subject", "scopes", "roles", "claims"})
        subject, scopes, roles = text(asked, "subject"), texts(asked, "scopes"), texts(asked, "roles")
        claims = asked.get("claims", {})
        if not isinstance(claims, dict):
            raise CredentialAdminError("claims is an object")
        for names in ([subject], scopes, roles):
            if len(names) > MAX_NAMES or any(len(name) > MAX_NAME_CHARACTERS for name in names):
                limits = f"{MAX_NAME_CHARACTERS} characters a name, {MAX_NAMES} scopes and {MAX_NAMES} roles"
                raise CredentialAdminError(f"a session has at most {limits}")
        _permit_names(client, "scopes", scopes, client.scopes)
        _permit_names(client, "roles", roles, client.roles)
        made = await self._desk().create_session(subject, scopes, roles, claims)
        _log.info(
            "session created",
            client=client.name,
            session=made["id"],
            subject=subject,
            scopes=scopes,
            roles=roles,
        )
        return made

    async def _shown(self, client: SessionsApiClient, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        _permit(client, "show")
        _, session = _named(asked, {"token", "id"})
        return await self._desk().show_session(session)

    async def _revoked(self, client: SessionsApiClient, asked: Mapping[str, Any]) -> dict[str, int]:
        kind, value = _named(asked, {"token", "id", "subject"})
        _permit(client, "revoke_subject" if kind == "subject" else "revoke")
        ended = await self._desk().revoke_sessions(kind, value)
        _log.info(
            "sessions revoked",
            client=client.name,
            ended=ended,
            **{"session" if kind == "id" else kind: value},
        )
        return {"revoked": ended}


def _permit(client: SessionsApiClient, operation: Operation) -> None:
    if operation not in client.may:
        raise NotPermittedError(f"the client {client.name} may not {operation}: its `may` does not list it")


def _permit_names(client: SessionsApiClient, kind: str, names: Sequence[str], granted: Granted) -> None:
    beyond = [] if granted == "any" else [name for name in names if name not in granted]
    if beyond:
        raise NotPermittedError(f"the client {client.name} may not grant the {kind} {beyond[:3]}")


def _check_fields(asked: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(asked.keys() - known):
        raise CredentialAdminError(
            f"unknown field {unknown[0][:100]!r}; there are {', '.join(sorted(known))}"
        )


def _named(asked: Mapping[str, Any], kinds: set[str]) -> tuple[str, str]:
    """Return `id` and the id of the session that `asked` names, or `subject` and the subject."""
    _check_fields(asked, kinds)
    if len(asked) != 1:
        raise CredentialAdminError(f"name exactly one of {', '.join(sorted(kinds))}")
    [kind] = asked
    value = text(asked, kind)
    if not value or len(value) > MAX_NAME_CHARACTERS:
        raise CredentialAdminError(f"{kind} has 1 to {MAX_NAME_CHARACTERS} characters")
    if kind == "token":
        return "id", key_of(value)
    if kind == "id" and _ID.fullmatch(value) is None:
        raise CredentialAdminError("id has 64 hexadecimal digits, the SHA-256 of a token")
    return kind, value
