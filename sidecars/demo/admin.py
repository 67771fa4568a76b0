"""Reads the admin port of the sidecars, as an operator would."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

ANSWER_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class SidecarsAdmin:
    """The admin server on a unix socket. Every method raises aiohttp.ClientError if it is down."""

    socket: Path

    async def ready(self) -> bool:
        """Return whether the sidecars serve; False also if they do not run."""
        try:
            async with self._client() as client, client.get("/readyz") as response:
                return response.ok
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def metric(self, name: str) -> float:
        """Return the sum over all labels of a metric; 0 if there is no such metric."""
        async with self._client() as client, client.get("/metrics", raise_for_status=True) as response:
            families = text_string_to_metric_families(await response.text())
            return sum(
                sample.value for family in families for sample in family.samples if sample.name == name
            )

    async def page(self, path: str) -> str:
        """Return the text of a page."""
        async with self._client() as client, client.get(path, raise_for_status=True) as response:
            return await response.text()

    async def policy_revision(self) -> str:
        """Return the revision of the current policy."""
        async with self._client() as client, client.get("/config", raise_for_status=True) as response:
            return str((await response.json())["sidecars"]["authz"]["state"]["revision"])

    async def log_out(self, logout_token: str) -> int:
        """Send a logout token (OpenID Connect Back-Channel Logout 1.0) and return the HTTP status."""
        form = {"logout_token": logout_token}
        async with self._client() as client, client.post("/authz/backchannel-logout", data=form) as response:
            return response.status

    async def create_session(self, subject: str, scopes: Sequence[str]) -> str:
        """Create a session and return its token."""
        created = await self._ask("/authz/sessions", {"subject": subject, "scopes": list(scopes)})
        return str(created["token"])

    async def revoke_session(self, token: str) -> None:
        """End the session of `token`."""
        await self._ask("/authz/sessions/revoke", {"target": "token", "value": token})

    async def _ask(self, path: str, question: Mapping[str, Any]) -> Any:
        async with (
            self._client() as client,
            client.post(path, json=question, raise_for_status=True) as response,
        ):
            return await response.json()

    def _client(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            "http://sidecars",
            connector=aiohttp.UnixConnector(path=str(self.socket)),
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
        )
