"""Asks a running ratelimit on its admin port, for `sidecars limits`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson
import typer

from common.configfile import ConfigError
from common.os_errors import in_words
from sidecars.client.admin_client import admin_session
from sidecars.settings.load import ENVIRONMENT, load_settings, read_compat
from sidecars.settings.root import Settings

BAD_REQUEST: Final = 400
FORBIDDEN: Final = 403


class NotRunningError(Exception):
    """The process does not answer, or has no limits. The message says so."""


def settings_in(config: Path, environ: Mapping[str, str]) -> Settings:
    """Return the settings in the file `config`; with ENVIRONMENT, those that `run --compat` would have.

    Raises ConfigError.
    """
    if config is not ENVIRONMENT:
        return load_settings(config, environ)
    reading, _ = read_compat(environ)
    if reading.problems or reading.settings is None:
        raise ConfigError(reading.problems)
    return reading.settings


async def ask_running(settings: Settings, method: str, path: str, worker: int = 0, **options: Any) -> Any:
    """Return the JSON that the process of `settings` answers.

    With workers it is that of `worker`: all read the same files and count in the same store.

    Raises NotRunningError, and BadParameter for what it cannot answer.
    """
    import aiohttp

    if settings.workers > 1:
        options["params"] = {**options.get("params", {}), "worker": str(worker)}
    try:
        async with (
            admin_session(settings.admin) as (client, base),
            client.request(method, f"{base}{path}", **options) as response,
        ):
            body = await response.read()
            if response.status == FORBIDDEN:
                raise NotRunningError(body.decode(errors="replace").strip())
            if response.status == BAD_REQUEST:
                raise typer.BadParameter(body.decode().strip())
            if response.status != 200:
                what = (
                    body.decode(errors="replace").strip()
                    if response.status == 503
                    else "does it run ratelimit?"
                )
                raise NotRunningError(f"the admin port answers {response.status}: {what}")
            return orjson.loads(body)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        why = in_words(error) if isinstance(error, OSError) else str(error) or type(error).__name__
        raise NotRunningError(f"the admin port {settings.admin.listen} does not answer: {why}") from None
