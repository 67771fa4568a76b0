"""A limit by a value that lets its client in counts, and only its hash is in logs, metrics and pages."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from common.configfile import read
from sidecars.demo.ask import ask
from sidecars.demo.configuration import http_manager
from sidecars.demo.demo import log_lines
from sidecars.demo.edge import Edge
from sidecars.demo.until import until

PATH = "/public/by-key"
SECRET, OTHER = "s3cr3t-of-one-client", "s3cr3t-of-another"
LIMIT = 2
HITS = "ratelimit_service_rate_limit_total_hits"


def change_envoy(configuration: dict[str, Any], _folder: Path) -> None:
    """One route is limited by a header with a key of the client."""
    edge = configuration["static_resources"]["listeners"][0]
    [host] = http_manager(edge)["route_config"]["virtual_hosts"]
    action = {"request_headers": {"header_name": "x-partner-token", "descriptor_key": "partner_token"}}
    limited = {"cluster": "upstream", "rate_limits": [{"actions": [action]}]}
    host["routes"].insert(0, {"match": {"path": PATH}, "route": limited})
    host["rate_limits"] = []


async def scenario(edge: Edge) -> None:
    await _limit_clients(edge)
    statuses = [(await _asked(edge, key)).status for key in (SECRET, SECRET, SECRET, OTHER)]
    assert statuses == [200, 200, 429, 200]

    hashed = f"partner_token=sha256:{sha256(SECRET.encode()).hexdigest()[:16]}"
    lines = await log_lines(
        edge.places.access_log, lambda lines: sum(hashed in str(line) for line in lines) >= 3
    )
    assert [line["code"] for line in lines if hashed in str(line)] == [200, 200, 429]
    assert "s3cr3t" not in edge.places.access_log.read_text()
    for page in ("/metrics", "/config", "/rlconfig"):
        assert "s3cr3t" not in await edge.admin.page(page), page


async def _asked(edge: Edge, key: str) -> Any:
    return await ask(edge.url, PATH, headers={"x-partner-token": key})


async def _limit_clients(edge: Edge) -> None:
    """A limit whose metric has the value, for every client, and one for OTHER alone."""
    file = edge.places.folder / "limits" / "edge.yaml"
    limit = {"unit": "day", "requests_per_unit": LIMIT}
    every = {"key": "partner_token", "detailed_metric": True, "rate_limit": limit}
    descriptors = [every, {**every, "value": OTHER}]
    file.write_text(yaml.safe_dump({"domain": read(file).data["domain"], "descriptors": descriptors}))

    async def limited() -> bool:
        await _asked(edge, "first")
        return await edge.admin.metric(HITS) > 0

    await until(limited, "the changed limit holds")
