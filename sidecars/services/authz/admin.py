"""The admin pages of authz: back-channel logout and, if configured, sessions and revocations."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson
import structlog

from authz.credentials import Credentials
from authz.credentials.admin import MAX_LISTED, CredentialAdmin, CredentialAdminError
from authz.credentials.backchannel_logout import OUTAGES
from authz.credentials.core.store_errors import StoreUnavailableError
from authz.credentials.jwt.refusals import RefusedError
from authz.credentials.revocation.revocation_list import RevocationsFullError
from authz.credentials.session.model import StoreFullError
from common.configfile import json_place
from sidecars.admin.routes import AdminAnswer, AdminRequest, AdminRoute

LOGOUT_PATH: Final = "/authz/backchannel-logout"

_NO_STORE: Final = {"cache-control": "no-store"}

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
        return _failed(404, "invalid_request", "no issuer is configured with logout")
    if request.content_type != "application/x-www-form-urlencoded":
        return _failed(400, "invalid_request", "expected a form")
    try:
        form = parse_qsl(request.body.decode("ascii"), max_num_fields=16)
    except ValueError:
        return _failed(400, "invalid_request", "not a form")
    tokens = [value for name, value in form if name == "logout_token"]
    if len(tokens) != 1:
        return _failed(400, "invalid_request", "expected one logout_token")
    try:
        logout = await credentials.logout.receive(tokens[0])
    except RefusedError as error:
        refusal = error.refusal
        _log.warning("logout refused", reason=refusal.reason, detail=refusal.detail)
        return _failed(503 if refusal.reason in OUTAGES else 400, "invalid_request", refusal.detail)
    except (StoreUnavailableError, RevocationsFullError) as error:
        _log.error("logout not kept", problem=str(error))
        return _failed(503, "temporarily_unavailable", str(error))
    _log.info(
        "logged out by the issuer", issuer=logout.issuer, subject=logout.subject, session=logout.session
    )
    return AdminAnswer(200, headers=_NO_STORE)


class _Pages:
    def __init__(self, credential_admin: Callable[[], CredentialAdmin]) -> None:
        self._desk = credential_admin

    async def sessions(self, request: AdminRequest) -> AdminAnswer:
        limit = request.query.get("limit", str(MAX_LISTED))
        if not (limit.isascii() and limit.isdigit()):
            return _failed(400, "bad_request", "limit is a number")
        return await _answered(self._desk().list_sessions(request.query.get("subject"), int(limit)))

    async def create(self, request: AdminRequest) -> AdminAnswer:
        return await _with_json(request, self._create)

    async def show(self, request: AdminRequest) -> AdminAnswer:
        return await _with_json(request, lambda asked: self._desk().show_session(_text(asked, "name")))

    async def revoke_sessions(self, request: AdminRequest) -> AdminAnswer:
        return await _with_json(
            request, lambda asked: self._desk().revoke_sessions(_text(asked, "target"), asked.get("value"))
        )

    async def revocations(self, _request: AdminRequest) -> AdminAnswer:
        return await _answered(self._desk().list_revocations())

    async def revoke_tokens(self, request: AdminRequest) -> AdminAnswer:
        return await _with_json(
            request,
            lambda asked: self._desk().revoke_tokens(
                _text(asked, "target"), asked.get("value"), _text(asked, "issuer", "")
            ),
        )

    def _create(self, asked: Mapping[str, Any]) -> Awaitable[Any]:
        claims = asked.get("claims", {})
        if not isinstance(claims, dict):
            raise CredentialAdminError("claims is an object")
        return self._desk().create_session(
            _text(asked, "subject"), _texts(asked, "scopes"), _texts(asked, "roles"), claims
        )


async def _with_json(
    request: AdminRequest, work: Callable[[Mapping[str, Any]], Awaitable[Any]]
) -> AdminAnswer:
    # A page of another site can send a form to this port from a browser, but no JSON.
    if request.content_type != "application/json":
        return _failed(415, "bad_request", "expected application/json")
    try:
        asked = orjson.loads(request.body)
        if not isinstance(asked, dict):
            return _failed(400, "bad_request", "expected a JSON object")
        return await _answered(work(asked))
    except orjson.JSONDecodeError as error:
        return _failed(400, "bad_request", f"no JSON from {json_place(error)} on")
    except CredentialAdminError as error:
        return _failed(400, "bad_request", str(error))


async def _answered(work: Awaitable[Any]) -> AdminAnswer:
    try:
        return AdminAnswer(200, orjson.dumps(await work), headers=_NO_STORE)
    except (CredentialAdminError, ValueError) as error:
        return _failed(400, "bad_request", str(error))
    except (StoreFullError, RevocationsFullError) as error:
        return _failed(507, "full", str(error))
    except StoreUnavailableError as error:
        return _failed(503, "unavailable", str(error))


def _failed(status: int, error: str, description: str) -> AdminAnswer:
    body = orjson.dumps({"error": error, "error_description": description})
    return AdminAnswer(status, body, headers=_NO_STORE)


def _text(asked: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = asked.get(name, default)
    if not isinstance(value, str):
        raise CredentialAdminError(f"{name} is a text")
    return value


def _texts(asked: Mapping[str, Any], name: str) -> list[str]:
    value = asked.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise CredentialAdminError(f"{name} is a list of texts")
    return value
