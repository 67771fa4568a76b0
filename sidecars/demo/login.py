"""Runs the sample login application (examples/login) in a process of its own."""

import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Final

import aiohttp

from sidecars.demo.configuration import FILES, LOGIN_SCOPE, CredentialLocations
from sidecars.demo.idp import IdentityProvider
from sidecars.demo.idp_code_flow import Client
from sidecars.demo.process import ChildProcess, spawn

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 5.0
CLIENT_ID: Final = "demo-login"
MODULES: Final = ("authlib", "httpx2", "itsdangerous", "starlette", "uvicorn")
"""What the application and its server import."""

NO_LOGIN: Final = (
    "The login application needs the extra `login` (in a clone: .venv/bin/pip install -c constraints.txt "
    "-e '.[demo,login]'), so the demo skips it."
)


def can_run() -> bool:
    """Whether the packages of the login application are installed."""
    return all(find_spec(module) is not None for module in MODULES)


@asynccontextmanager
async def serve_login(
    places: CredentialLocations, provider: IdentityProvider, public_url: str, environment: Mapping[str, str]
) -> AsyncIterator[ChildProcess]:
    """Run the application during the block, registered at `provider`, for browsers that reach `public_url`.

    Raises ProcessError with the end of its log.
    """
    secret = places.folder / "login.secret"
    secret.touch(mode=0o600)
    secret.write_text(secrets.token_urlsafe(32), encoding="ascii")
    provider.code_flow.register(
        Client(CLIENT_ID, secret.read_text(encoding="ascii"), f"{public_url}/auth/callback")
    )
    settings = {
        "LOGIN_PUBLIC_URL": public_url,
        "LOGIN_METADATA_URL": f"http://127.0.0.1:{places.idp_port}/.well-known/openid-configuration",
        "LOGIN_CLIENT_ID": CLIENT_ID,
        "LOGIN_CLIENT_SECRET_FILE": str(secret),
        "LOGIN_SCOPES": LOGIN_SCOPE,
        "LOGIN_SESSIONS": f"unix:{places.sessions_socket}",
        "LOGIN_SESSIONS_TOKEN_FILE": str(places.sessions_token),
    }
    # No access log: the URLs of the callback contain codes.
    arguments = ("--factory", "app:application", "--app-dir", str(FILES / "login"), "--no-access-log")
    command = (sys.executable, "-m", "uvicorn", *arguments, "--uds", str(places.login_socket))
    async with spawn(
        "the login application",
        command,
        places.folder / "login.log",
        stop_seconds=STOP_SECONDS,
        environment={**environment, **settings},
    ) as process:
        await process.until_ready(lambda: _answers(places), READY_SECONDS)
        yield process


async def _answers(places: CredentialLocations) -> bool:
    connector = aiohttp.UnixConnector(path=str(places.login_socket))
    try:
        async with aiohttp.ClientSession(connector=connector) as client, client.get("http://login/auth/me"):
            return True
    except (aiohttp.ClientError, OSError):
        return False
