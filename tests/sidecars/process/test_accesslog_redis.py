from pathlib import Path

import pytest

from tests.sidecars.process.test_accesslog_spool import send
from tests.support.redis_server import RedisServer, redis_server
from tests.support.running import SIDECARS, Running

__all__ = ["redis_server"]


@pytest.mark.redis
def test_a_process_writes_to_a_stream_of_the_redis_that_its_settings_name(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    settings = {
        "redis": {"url": redis_server.url},
        "accesslog": {"listen": [f"unix:{tmp_path}/a"], "sinks": [{"type": "redis", "stream": "log"}]},
    }
    with Running(tmp_path, settings, program=SIDECARS) as process:
        process.wait_until_ready()
        send(tmp_path, 0, 100)
        with redis_server.client() as client:
            process.wait_until(lambda: client.xlen("log") == 100)
