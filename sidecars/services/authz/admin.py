"""The admin pages of authz: back-channel logout and, if configured, sessions and revocations."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

import structlog

from authz.credentials import Credentials
from authz.credentials.admin import MAX_LISTED, CredentialAdmin, CredentialAdminError
from authz.credentials.backchannel_logout import OUTAGES
from authz.credentials.core.store_errors import StoreUnavailableError
from authz.credentials.jwt.refusals import RefusedError
from authz.credentials.revocation.revocation_list import RevocationsFullError
from sidecars.admin.routes import AdminAnswer, AdminRequest, AdminRoute
from sidecars.services.authz.json_calls import NO_STORE, answered, failed, text, texts, with_json

LOGOUT_PATH: Final = "/authz/backchannel-logout"

_log = structlog.get_logger("sidecars.authz")


def admin_routes(credentials: Credentials, *, session_admin: bool) -> Sequence[AdminRoute]:
    """The routes, which always use the configuration in service."""
    routes = [AdminRoute("POST", LOGOUT_PATH, lambda request: _logout(credentials, request))]
    if session_admin:
        pages = _Pages(lambda: credentials.credential_admin)
        routes += [
            AdminRoute("GET", "/authz/sessions", pages.sessions),
            AdminRoute("POST", "/authz/sessions", pages.create),
            AdminRoute("POST", "/authz/sessions/show", pages.show),
            AdminRoute("POST", "/authz/sessions/revoke", pages.revoke_sessions),
            AdminRoute("GET", "/authz/revocations", pages.revocations),
            AdminRoute("POST", "/authz/revocations", pages.revoke_tokens),
        ]
    return routes


async def _logout(credentials: Credentials, request: AdminRequest) -> AdminAnswer:
    """OpenID Connect Back-Channel Logout 1.0, sections 2.5 and 2.8."""
    if credentials.logout is None:
        return failed(404, "invalid_request", "no issuer is configured with logout")
    if request.content_type != "application/x-www-form-urlencoded":
        return failed(400, "invalid_request", "expected a form")
    try:
        form = parse_qsl(request.body.decode("ascii"), max_num_fields=16)
    except ValueError:
        return failed(400, "invalid_request", "not a form")
    tokens = [value for name, value in form if name == "logout_token"]
    if len(tokens) != 1:
        return failed(400, "invalid_request", "expected one logout_token")
    try:
        logout = await credentials.logout.receive(tokens[0])
    except RefusedError as error:
        refusal = error.refusal
        _log.warning("logout refused", reason=refusal.reason, detail=refusal.detail)
        return failed(503 if refusal.reason in OUTAGES else 400, "invalid_request", refusal.detail)
    except (StoreUnavailableError, RevocationsFullError) as error:
        _log.error("logout not kept", problem=str(error))
        return failed(503, "temporarily_unavailable", str(error))
    _log.info(
        "logged out by the issuer", issuer=logout.issuer, subject=logout.subject, session=logout.session
    )
    return AdminAnswer(200, headers=NO_STORE)


class _Pages:
    def __init__(self, credential_admin: Callable[[], CredentialAdmin]) -> None:
        self._desk = credential_admin

    async def sessions(self, request: AdminRequest) -> AdminAnswer:
        limit = request.query.get("limit", str(MAX_LISTED))
        if not (limit.isascii() and limit.isdigit()):
            return failed(400, "bad_request", "limit is a number")
        return await answered(self._desk().list_sessions(request.query.get("subject"), int(limit)))

    async def create(self, request: AdminRequest) -> AdminAnswer:
        return await with_json(request, self._create)

    async def show(self, request: AdminRequest) -> AdminAnswer:
        return await with_json(request, lambda asked: self._desk().show_session(text(asked, "name")))

    async def revoke_sessions(self, request: AdminRequest) -> AdminAnswer:
        return await with_json(
            request, lambda asked: self._desk().revoke_sessions(text(asked, "target"), asked.get("value"))
        )

    async def revocations(self, _request: AdminRequest) -> AdminAnswer:
        return await answered(self._desk().list_revocations())

    async def revoke_tokens(self, request: AdminRequest) -> AdminAnswer:
        return await with_json(
            request,
            lambda asked: self._desk().revoke_tokens(
                text(asked, "target"), asked.get("value"), text(asked, "issuer", "")
            ),
        )

    def _create(self, asked: Mapping[str, Any]) -> Awaitable[Any]:
        claims = asked.get("claims", {})
        if not isinstance(claims, dict):
            raise CredentialAdminError("claims is an object")
        return self._desk().create_session(
            text(asked, "subject"), texts(asked, "scopes"), texts(asked, "roles"), claims
        )
