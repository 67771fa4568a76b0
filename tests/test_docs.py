"""docs/ratelimit.md and docs/accesslog.md agree with the code."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from accesslog.metrics import AccesslogCollector, RequestCollector, SinkMetrics
from accesslog.pipeline import Pipeline
from accesslog.records.counters import DropReason, EntryCounters
from accesslog.records.fields import FIELDS
from accesslog.records.requests import RequestCounters
from accesslog.sinks.queue import Bounds, SinkQueue
from accesslog.sinks.stdout import StdoutSink
from common.circuit_breaker import CircuitBreaker
from common.configfile import parse
from common.redaction import DEFAULT_HEADERS, DEFAULT_QUERY_PARAMETERS, LONGEST_TEXT
from common.redaction.names import SECRET_ENDINGS
from common.redaction.secrets import MOST_VALUES
from ratelimit.bans import Bans
from ratelimit.config import compile_limits
from ratelimit.deny_cache import DenyCache
from ratelimit.in_flight import InFlight
from ratelimit.leases.leases import Leases
from ratelimit.rules import Options
from ratelimit.stats import Stats
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.metrics import StoreCollector
from ratelimit.stores.redis import RedisStore
from sidecars.services.envoy_stats import EnvoyStats
from sidecars.services.ratelimit_bans import BanCollector
from sidecars.services.xds.client import XdsClient
from sidecars.services.xds.source import XdsCollector
from sidecars.settings.accesslog import AccesslogSettings
from sidecars.settings.load import load_settings
from sidecars.settings.ratelimit import RatelimitSettings
from sidecars.settings.xds import XdsSettings
from sidecars.transport.api.address import TcpAddress

DOCS = Path(__file__).parent.parent / "docs"
RATELIMIT = (DOCS / "ratelimit.md").read_text(encoding="utf-8")
ACCESSLOG = (DOCS / "accesslog.md").read_text(encoding="utf-8")


def blocks(text: str, kind: str) -> list[str]:
    found: list[str] = re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return found


def tables(text: str) -> Iterator[list[list[str]]]:
    """Yield the rows of each table below its head, as cells without backquotes."""
    for table in re.findall(r"^\|-.*\n((?:\|.*\n)+)", text, re.MULTILINE):
        yield [
            [cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in table.splitlines()
        ]


def first_cells(text: str, like: str) -> set[str]:
    """Return the first cells of the table that has the row `like`."""
    [cells] = [cells for rows in tables(text) if like in (cells := {row[0] for row in rows})]
    return cells


def names_of(registry: CollectorRegistry) -> set[str]:
    """Return the metric names as queries spell them, counters with `_total`."""
    return {
        f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in registry.collect()
    }


class Streams:
    open_streams = 0


def accesslog_metrics() -> set[str]:
    registry = CollectorRegistry()
    observer = SinkMetrics(registry, ["stdout"])
    pipeline = Pipeline([SinkQueue(StdoutSink(), Bounds(), lambda: 0.0, observer)])
    registry.register(AccesslogCollector(EntryCounters(), pipeline, Streams()))
    registry.register(EnvoyStats(TcpAddress("127.0.0.1", 1), lambda: 0))
    registry.register(RequestCollector(RequestCounters(), lambda: 0.0))
    return names_of(registry)


def ratelimit_metrics() -> set[str]:
    registry = CollectorRegistry()
    stats = Stats()
    registry.register(stats)
    registry.register(InFlight(stats, lambda: 0.0))
    registry.register(BanCollector(Bans(lambda: 0.0, lambda _take, _then: None), stats))
    redis = RedisStore(None, CircuitBreaker(lambda: 0.0, lambda: 0.0))  # type: ignore[arg-type]  # no call
    memory, leases = MemoryStore(lambda: 0), Leases(lambda: 0.0)
    registry.register(StoreCollector(memory, redis, redis, DenyCache(lambda: 0.0), leases))
    registry.register(XdsCollector(xds_client()))
    return names_of(registry)


def xds_client() -> XdsClient:
    settings = XdsSettings(server="control-plane:18000")
    use: Any = None  # no call
    return XdsClient(settings, use, agent="", headers=dict, random=lambda: 0.0)


@pytest.mark.parametrize("text", [text for text in blocks(RATELIMIT, "yaml") if text.startswith("domain")])
def test_the_limits_of_the_page_are_taken(text: str) -> None:
    assert compile_limits([parse(text)], Options()).rules


@pytest.mark.parametrize("page", [RATELIMIT, ACCESSLOG], ids=["ratelimit", "accesslog"])
def test_the_settings_of_the_page_are_taken_and_complete(page: str, tmp_path: Path) -> None:
    # The other blocks are limits, and parts of Envoy's configuration.
    [text] = [text for text in blocks(page, "yaml") if not text.startswith(("domain", "# in "))]
    file = tmp_path / "sidecars.yaml"
    file.write_text(text)
    settings = load_settings(file, {})
    section = settings.ratelimit or settings.accesslog
    assert isinstance(section, RatelimitSettings | AccesslogSettings)
    shown = yaml.safe_load(text)["ratelimit" if settings.ratelimit else "accesslog"]
    assert shown.keys() == type(section).model_fields.keys()


def test_the_metrics_of_ratelimit_are_all_there() -> None:
    assert first_cells(RATELIMIT, "ratelimit_redis_queue_length") == ratelimit_metrics()


def test_the_metrics_of_accesslog_are_all_there() -> None:
    shown = first_cells(ACCESSLOG, "accesslog_queue_entries")
    assert shown | first_cells(ACCESSLOG, "accesslog_request_errors_total") == accesslog_metrics()


def test_queries_ask_for_metrics_that_exist() -> None:
    known = accesslog_metrics()
    found = re.findall(r"accesslog_\w+", " ".join(blocks(ACCESSLOG, "promql")))
    asked = {name.removesuffix("_count") for name in found}
    assert asked
    assert asked <= known


def test_the_reasons_of_a_drop_are_all_there() -> None:
    assert first_cells(ACCESSLOG, "queue_full") == set(DropReason)


def test_what_envoy_needs_for_the_duration_is_what_its_shipped_configuration_has() -> None:
    shipped = (DOCS.parent / "envoy-test" / "envoy.yaml").read_text(encoding="utf-8")
    listener = yaml.safe_load(shipped)["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    common = manager["access_log"][0]["typed_config"]["common_config"]
    authz = manager["http_filters"][0]["typed_config"]
    result = [yaml.safe_load(text) for text in blocks(ACCESSLOG, "yaml") if text.startswith("# in ")]
    assert result == [
        {"emit_filter_state_stats": authz["emit_filter_state_stats"]},
        {"custom_tags": common["custom_tags"]},
    ]


def test_the_fields_of_a_record_are_all_there_with_their_meaning() -> None:
    [rows] = [rows for rows in tables(ACCESSLOG) if rows[0][0] == "time"]
    assert rows == [[name, kind, meaning] for name, (kind, meaning) in FIELDS.items()]


def test_the_page_lists_what_is_redacted_by_default() -> None:
    result = set(re.findall(r"`([^`]+)`", ACCESSLOG.partition("## Redaction")[2].partition("## Sampling")[0]))
    assert result >= DEFAULT_HEADERS | DEFAULT_QUERY_PARAMETERS | set(SECRET_ENDINGS)
    assert f"{MOST_VALUES} values" in ACCESSLOG
    assert f"{LONGEST_TEXT:,} characters" in ACCESSLOG
