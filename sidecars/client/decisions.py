"""Asks the admin port of a running authz for one of its recent decisions."""

from typing import Any, Final

import aiohttp
import orjson

from common.http_body import read_at_most
from sidecars.settings.root import Settings
from sidecars.transport.api.address import TcpAddress

_TIMEOUT_SECONDS: Final = 2.0
_MAX_PAGE_BYTES: Final = 4 * 1024 * 1024


async def recent_decision(settings: Settings, decision_id: str) -> dict[str, Any] | None:
    """Return the decision if the process still keeps it; None also if it does not answer."""
    address = settings.admin.listen
    if isinstance(address, TcpAddress):
        port = address.port
        file = settings.admin.port_file
        if not port and file is not None and file.exists():
            port = int(file.read_text(encoding="utf-8"))
        connector: aiohttp.BaseConnector = aiohttp.TCPConnector()
        origin = f"http://{TcpAddress(address.host, port)}"
    else:
        path = "\0" + address.path[1:] if address.abstract else address.path
        connector, origin = aiohttp.UnixConnector(path=path), "http://admin"
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(
                origin, connector=connector, timeout=timeout, headers=settings.admin.client_headers
            ) as client,
            client.get("/decisions", params={"id": decision_id}, raise_for_status=True) as response,
        ):
            page = orjson.loads(await read_at_most(response.content, _MAX_PAGE_BYTES))
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None
    decisions = page.get("decisions", ()) if isinstance(page, dict) else page
    return next((one for one in decisions if one.get("decision_id") == decision_id), None)
