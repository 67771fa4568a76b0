import sys
from pathlib import Path
from typing import Any

import pytest

from common.configfile import ConfigError
from sidecars.services.accesslog import build
from tests.sidecars.services.test_accesslog import dependencies, settings


def test_a_redis_sink_without_a_redis_says_so_where_it_is_asked_for() -> None:
    with pytest.raises(ConfigError) as caught:
        build(settings(sinks=[{"type": "redis"}]), dependencies())
    [problem] = caught.value.problems
    assert (problem.key_path, problem.message) == (
        "accesslog.sinks[0].type",
        "type: redis needs the section redis with the url or the Sentinels of a Redis",
    )


@pytest.mark.parametrize(
    ("module", "sink", "place", "extra"),
    [
        ("google_crc32c", {"type": "stdout", "spool": {"folder": "/tmp/s"}}, "spool", "spool"),
        (
            "zstandard",
            {"type": "file", "name": "b", "path": "/tmp/b", "rotate": {"every_seconds": 60}},
            *("rotate.compression", "zstd"),
        ),
    ],
)
def test_what_needs_an_extra_says_so_where_it_is_asked_for(
    module: str, sink: dict[str, Any], place: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError) as caught:
        build(settings(sinks=[{"type": "file", "path": Path("/tmp/a")}, sink]), dependencies())
    [problem] = caught.value.problems
    assert problem.key_path == f"accesslog.sinks[1]{place and '.' + place}"
    assert problem.message.startswith(f"needs the extra {extra} (in a clone: pip install '.[{extra}]')")
