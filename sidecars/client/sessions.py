"""A client of the sessions API for login applications, which needs the standard library only.

Import it, or copy this file into the application: it imports nothing else of this package. Its methods block
for at most `timeout_seconds`; an application on asyncio calls them with `asyncio.to_thread`.
"""

import http.client
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

TIMEOUT_SECONDS: Final = 5.0
MAX_ANSWER_BYTES: Final = 1024 * 1024
"""A session has at most 64 KiB."""


class SessionsError(Exception):
    """A request failed. `status` is the HTTP status; 0 if there was no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class SessionsUnavailableError(SessionsError):
    """authz or its store does not answer, or the client sends too many requests: try again later.

    The login should fail. A failed `revoke` must be repeated until it succeeds.
    """


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session that was just created."""

    token: str = field(repr=False)
    """The value of the session cookie. It is a secret, and cannot be read again."""
    id: str
    """The SHA-256 of the token, which names the session in logs and calls."""
    ends_at: float
    """When the session ends even if it is used, in unix seconds."""


@dataclass(frozen=True, slots=True)
class SessionContent:
    """A session in the store. Times are in unix seconds."""

    id: str
    subject: str
    created_at: float
    idle_until: float
    ends_at: float
    scopes: Sequence[str]
    roles: Sequence[str]
    claims: Mapping[str, Any]


class SessionsClient:
    """Creates, shows and revokes sessions.

    `address` is `unix:/run/sidecars/sessions.sock` or `http://127.0.0.1:9091`. The token is the first line of
    `token_file`, which is read for each request, so that it can be replaced at any time. Each method opens a
    connection of its own, so threads may share a client. All raise SessionsError, which is a
    SessionsUnavailableError if trying again may help.
    """

    def __init__(self, address: str, token_file: Path, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._socket_path = address.removeprefix("unix:") if address.startswith("unix:") else ""
        parts = urlsplit(address)
        if not self._socket_path and (parts.scheme != "http" or not parts.hostname or not parts.port):
            raise ValueError(f"{address!r}: expected unix:/PATH or http://HOST:PORT")
        self._host, self._port = parts.hostname or "localhost", parts.port or 80
        self._token_file = token_file
        self._timeout_seconds = timeout_seconds

    def create(
        self,
        subject: str,
        *,
        scopes: Sequence[str] = (),
        roles: Sequence[str] = (),
        claims: Mapping[str, Any] | None = None,
    ) -> NewSession:
        """Create a session and return it with its token."""
        wish = {
            "subject": subject,
            "scopes": list(scopes),
            "roles": list(roles),
            "claims": dict(claims or {}),
        }
        made = self._ask("/v1/sessions", wish)
        return NewSession(made["token"], made["id"], made["ends_at"])

    def show(self, token: str) -> SessionContent | None:
        """Return the session of `token`; None if there is none."""
        try:
            return SessionContent(**self._ask("/v1/sessions/show", {"token": token}))
        except SessionsError as error:
            if error.status == http.HTTPStatus.NOT_FOUND:
                return None
            raise

    def revoke(self, token: str) -> bool:
        """End the session of `token` at every sidecar. Returns whether there was one."""
        return bool(self._ask("/v1/sessions/revoke", {"token": token})["revoked"])

    def revoke_subject(self, subject: str) -> int:
        """End every session of `subject` at every sidecar, and return how many there were."""
        return int(self._ask("/v1/sessions/revoke", {"subject": subject})["revoked"])

    def _ask(self, path: str, wish: Mapping[str, Any]) -> dict[str, Any]:
        try:
            status, body = self._post(path, json.dumps(wish))
        except (OSError, http.client.HTTPException) as error:
            raise SessionsUnavailableError(f"the sessions API does not answer: {error}") from error
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise SessionsError(f"the answer with status {status} is not a JSON object", status)
        if status in {200, 201}:
            return answer
        kind = SessionsUnavailableError if status in {408, 429, 503, 507} else SessionsError
        raise kind(str(answer.get("error_description", f"status {status}")), status)

    def _post(self, path: str, body: str) -> tuple[int, bytes]:
        with self._token_file.open(encoding="ascii") as file:
            token = file.readline().strip()
        connection = self._connection()
        try:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            return response.status, response.read(MAX_ANSWER_BYTES)
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_seconds)
        if self._socket_path:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(self._timeout_seconds)
            try:
                connection.sock.connect(self._socket_path)
            except OSError:
                connection.close()
                raise
        return connection
