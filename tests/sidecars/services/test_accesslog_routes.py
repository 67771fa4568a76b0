"""accesslog applies the rules of single routes, and follows their files."""

from pathlib import Path

import pytest

from common.configfile import ConfigError
from tests.sidecars.services.test_accesslog import Start, lines_of, start
from tests.support.entries import http_entry, message

__all__ = ["start"]


async def test_rules_of_routes_apply_and_follow_their_file(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "routes.json"
    file.write_text('{"revision": "one", "routes": {"orders-read": {"fields": ["path"]}}}')
    running = await start(route_rules=[str(file)])
    assert file in running.sidecar.watched_files
    assert running.sidecar.describe()["route_rules_revision"] == "one"
    call = running.open()
    await call.write(message(http_entry()).SerializeToString())
    await running.received(1)
    file.write_text('{"revision": "two", "redact": [{"action": "drop", "query_parameters": ["expand"]}]}')
    running.sidecar.prepare()()
    await call.write(message(http_entry()).SerializeToString())
    await running.received(2)
    file.write_text('{"routes": {"orders-read": {"fields": ["nothing"]}}}')
    with pytest.raises(ConfigError, match="'nothing' is not a field"):
        running.sidecar.prepare()
    assert running.sidecar.describe()["route_rules_revision"] == "two"
    await running.close()
    first, second = lines_of(tmp_path / "access.jsonl")
    assert "cluster" not in first
    assert second["cluster"] == "orders"
    assert not second.get("query")
