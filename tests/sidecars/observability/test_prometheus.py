"""Prometheus reads the page of a real suite in both formats, from one process and from workers."""

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from protos.ratelimit_pb2 import RateLimitRequest
from sidecars.observability.metric_facts import METRIC_FACTS
from tests.support.checks import check_request
from tests.support.prometheus import promtool
from tests.support.running import SIDECARS, Running, call, connect
from tests.support.scraping import scraping

CHECK = "/envoy.service.auth.v3.Authorization/Check"
LIMIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
CLASSIC = "text/plain;version=0.0.4"
POLICY = "rules: [{name: all, paths: [/], allow: anyone}]\n"
LIMITS = "domain: edge\ndescriptors: [{key: path, rate_limit: {unit: minute, requests_per_unit: 3}}]\n"
ADDED_BY_PROMETHEUS = {"__name__", "instance", "job"}


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"], scope="module")
def suite(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("suite")
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "limits.yaml").write_text(LIMITS)
    numbered = "{worker}." if request.param > 1 else ""
    listen = {name: [f"unix:{folder}/{numbered}{name}"] for name in ("authz", "ratelimit", "accesslog")}
    settings = {
        "workers": request.param,
        "authz": {"listen": listen["authz"], "policy": ["policy.yaml"]},
        "ratelimit": {"listen": listen["ratelimit"], "limits": ["limits.yaml"], "store": "memory"},
        "accesslog": {
            "listen": listen["accesslog"],
            "sinks": [{"type": "file", "path": str(folder / f"{numbered}access.jsonl")}],
        },
    }
    with Running(folder, settings, program=SIDECARS) as running:
        running.wait_until_ready()
        limit = RateLimitRequest(domain="edge")
        limit.descriptors.add().entries.add(key="path", value="/")
        for worker in range(request.param):
            number = numbered.format(worker=worker)
            for _ in range(5):
                with connect(f"unix:{folder}/{number}authz") as channel:
                    call(channel, CHECK, check_request().SerializeToString())
                with connect(f"unix:{folder}/{number}ratelimit") as channel:
                    call(channel, LIMIT, limit.SerializeToString())
        yield running


def page(suite: Running, accept: str) -> tuple[str, str]:
    """The content type and the text of the page for this Accept header."""
    url = f"http://{target(suite)}/metrics"
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept})) as response:
        return response.headers["Content-Type"], response.read().decode()


def target(suite: Running) -> str:
    return f"127.0.0.1:{(suite.folder / 'admin.port').read_text().strip()}"


def test_promtool_takes_the_classic_page(suite: Running) -> None:
    content_type, text = page(suite, CLASSIC)
    assert content_type.startswith("text/plain; version=0.0.4")
    assert "# {" not in text
    command = [promtool(), "check", "metrics"]
    checked = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_openmetrics_has_the_decision_id_of_a_call_in_the_bucket_of_its_duration(suite: Running) -> None:
    content_type, text = page(suite, OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    found = re.findall(
        r'^grpc_server_handling_seconds_bucket\{.*"Check".*\} \S+ # \{decision_id="(\w+)"\} ',
        text,
        re.MULTILINE,
    )
    decisions = json.loads(suite.get("/decisions?limit=100")[1])["decisions"]
    assert found
    assert set(found) <= {decision["decision_id"] for decision in decisions}


def test_prometheus_scrapes_the_page_and_its_exemplars(suite: Running, tmp_path: Path) -> None:
    with scraping(tmp_path, target(suite)) as server:
        exemplars = server.wait_for(
            "query_exemplars", query="grpc_server_handling_seconds_bucket", start="0", end="4e9"
        )
        assert {name for series in exemplars for one in series["exemplars"] for name in one["labels"]} == {
            "decision_id"
        }
        [up] = server.wait_for("query", query='up{job="sidecars"}')
        assert up["value"][1] == "1", (tmp_path / "prometheus.log").read_text()
        series = server.wait_for("series", **{"match[]": '{job="sidecars"}'})
    seen = 0
    for labels in series:
        name = labels["__name__"]
        if name == "up" or name.startswith("scrape_"):
            continue
        facts = METRIC_FACTS.get(name) or METRIC_FACTS[re.sub("_(bucket|count|sum)$", "", name)]
        assert labels.keys() - ADDED_BY_PROMETHEUS <= {*facts.labels, "le", "worker"}, name
        seen += 1
    assert seen > 100
