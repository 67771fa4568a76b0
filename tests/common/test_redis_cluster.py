"""The slot of a key, as a real node computes it."""

from typing import Any

import pytest

from common.redis_cluster import key_slot
from tests.support.redis_server import RedisServer

KEYS = [
    "",
    "a",
    "ratelimit:edge|remote_address=10.0.0.1|60",
    "{a}b",
    "x{a}b{c}",
    "{}b",
    "{",
    "}{a",
    "{{a}}",
    "é{ü}",
]


@pytest.mark.redis
@pytest.mark.parametrize("key", KEYS)
def test_a_key_has_the_slot_that_redis_gives_it(redis_node: Any, key: str) -> None:
    assert key_slot(key.encode()) == redis_node.execute_command("CLUSTER", "KEYSLOT", key)


@pytest.fixture(scope="module")
def redis_node() -> Any:
    node = RedisServer(tcp=True, arguments=("--cluster-enabled", "yes"))
    with node as server, server.client() as client:
        yield client
