"""`metrics: envoyproxy`: the series that a running envoyproxy/ratelimit shows, recorded from one."""

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from common.configfile import parse
from ratelimit.config import compile_limits
from ratelimit.limiter import Limiter
from ratelimit.metric_names import Path, Series, by_dots, by_level
from ratelimit.request import Descriptor, LimitRequest
from ratelimit.rules import Options
from ratelimit.stats import Stats
from ratelimit.stores.memory import MemoryStore
from sidecars.observability.exposition import metrics_page

FILES = (
    """
domain: a.b
descriptors:
  - {key: lim, rate_limit: {unit: day, requests_per_unit: 3}}
""",
    """
domain: "d|1"
descriptors:
  - {key: ip, value: 10.0.0.1, rate_limit: {unit: day, requests_per_unit: 3}}
  - {key: hp, value: "h:80|x", rate_limit: {unit: day, requests_per_unit: 3}}
  - {key: det, detailed_metric: true, rate_limit: {unit: day, requests_per_unit: 3}}
  - {key: path, value: "/a b/*", rate_limit: {unit: day, requests_per_unit: 3}}
  - key: x
    descriptors:
      - key: y
        descriptors:
          - {key: z, rate_limit: {unit: day, requests_per_unit: 3}}
          - {key: w, rate_limit: {unit: day, requests_per_unit: 3}}
""",
)
ASKED: tuple[tuple[str, dict[str, str]], ...] = (
    *((("a.b", {"lim": "1"}),) * 2),
    ("d|1", {"ip": "10.0.0.1"}),
    ("d|1", {"hp": "h:80|x"}),
    ("d|1", {"det": "a.b.c"}),
    ("d|1", {"det": "10.2.3.4"}),
    ("d|1", {"det": 'é"\\\n'}),
    ("d|1", {"det": ""}),
    ("d|1", {"path": "/a b/c"}),
    ("d|1", {"x": "1", "y": "2", "z": "3"}),
    ("d|1", {"x": "1", "y": "2", "w": "3"}),
    ("zz", {"a": "1"}),
    ("z.z", {"a": "1"}),
    ("z:z", {"a": "1"}),
)
THEIRS = {
    'total_hits{domain="a",key1="b",key2="lim"} 2',
    'total_hits{domain="d_1",key1="ip_10_0_0_1"} 1',
    'total_hits{domain="d_1",key1="hp_h_80_x"} 1',
    'total_hits{domain="d_1",key1="det_"} 1',
    'total_hits{domain="d_1",key1="det_a",key2="b"} 1',
    'total_hits{domain="d_1",key1="det_10_2_3_4"} 1',
    'total_hits{domain="d_1",key1="det_é\\"\\\\\\n"} 1',
    'total_hits{domain="d_1",key1="path_/a b/*"} 1',
    'total_hits{domain="d_1",key1="x",key2="y"} 2',
    "zz_domain_not_found 1",
    "z_z_domain_not_found 2",
}


@pytest.fixture
def page() -> str:
    limits = compile_limits([parse(text) for text in FILES], Options())
    memory = MemoryStore(lambda: 1_790_000_040_000_000)
    limiter = Limiter(limits, memory, memory, Stats(envoyproxy_names=True))
    for domain, entries in ASKED:
        limiter.decide(limiter.plan(LimitRequest(domain, (Descriptor(tuple(entries.items())),))))
    registry = CollectorRegistry()
    registry.register(limiter.stats)
    return metrics_page(registry, "", plain_counters=True)[0].decode()


def test_the_series_are_theirs(page: str) -> None:
    prefix = "ratelimit_service_rate_limit_"
    found = {line.removeprefix(prefix).removesuffix(".0") for line in page.splitlines() if line[0] != "#"}
    shown = {line for line in found if line.startswith("total_hits") or "not_found" in line}
    assert {line for line in shown if not line.endswith(" 0")} == THEIRS


def test_they_are_counters(page: str) -> None:
    assert "# TYPE ratelimit_service_rate_limit_total_hits counter\n" in page
    assert "# TYPE ratelimit_service_rate_limit_zz_domain_not_found counter\n" in page
    assert " untyped" not in page


def test_other_formats_and_other_metrics_keep_their_types(page: str) -> None:
    registry = CollectorRegistry()
    registry.register(Stats())
    assert b" counter" not in metrics_page(registry, "")[0]
    openmetrics, content_type = metrics_page(
        registry, "application/openmetrics-text; version=1.0.0", plain_counters=True
    )
    assert "openmetrics" in content_type
    assert b" counter" not in openmetrics
    assert list(text_string_to_metric_families(page))


@pytest.mark.parametrize(
    ("path", "ours", "theirs"),
    [
        (("d",), ("d", "", ""), ("d", "", "")),
        (("d", "a"), ("d", "a", ""), ("d", "a", "")),
        (("d", "a", "b", "c"), ("d", "a", "b.c"), ("d", "a", "b")),
        (("d.e", "a"), ("d.e", "a", ""), ("d", "e", "a")),
        (("d", "a_1.2.3.4.5"), ("d", "a_1.2.3.4.5", ""), ("d", "a_1_2_3_4", "5")),
        (("d", "(other)"), ("d", "(other)", ""), ("d", "(other)", "")),
    ],
)
def test_labels(path: Path, ours: Series, theirs: Series) -> None:
    assert (by_level(path), by_dots(path)) == (ours, theirs)
