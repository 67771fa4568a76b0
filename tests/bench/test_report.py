"""The report: what is in the page and in the Markdown."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from bench.__main__ import app
from bench.report.markdown import markdown
from bench.report.page import page
from bench.report.svg import bars, lines, log_axis, percentile_axis, stack
from bench.report.units import shown, spread
from bench.tools.budget import load_budget
from bench.tools.document import write_document
from tests.bench.results_of_every_kind import NASTY, documents

VOID = {"meta"}


class Nesting(HTMLParser):
    """Notes elements that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.fixture(scope="module")
def html() -> str:
    return page(documents(), load_budget(), written="Written on a day")


def test_the_page_is_well_formed_and_needs_nothing_else(html: str) -> None:
    nesting = Nesting()
    nesting.feed(html)
    assert not nesting.wrong
    assert not nesting.open
    assert not re.search(r"""(?:src|href)=|@import|url\(""", html)
    for svg in re.findall(r"<svg.*?</svg>", html):
        ET.fromstring(svg)


def test_the_budget_says_what_is_met_missed_and_not_measured(html: str) -> None:
    rows = dict(re.findall(r"<td>([a-z]+\.\w+)</td>.*?<span class=\"verdict\">. ([a-z ]+)</span>", html))
    assert rows["envoy.ratio_floor_rps"] == "met"
    assert rows["envoy.ratio_grpcio_rps"] == "missed"
    assert rows["envoy.cpu_ratio"] == "not measured"
    assert rows["scale.ratio_rules"] == "met"
    assert "1 of 7 goals are missed, 1 were not measured" in html


def test_the_page_has_every_chart(html: str) -> None:
    for title in (
        "Throughput at saturation",
        "CPU time of a request",
        "Latency: authz at 50 % of its saturation",
        "Latency: load",
        "Rules",
    ):
        assert f'aria-label="{title}"' in html


def test_the_raw_results_are_in_the_page_and_no_text_of_theirs_is_code(html: str) -> None:
    assert NASTY not in html
    (raw,) = re.findall(r'<script type="application/json" id="results">(.*?)</script>', html)
    assert json.loads(raw) == json.loads(json.dumps(documents()))
    assert html.count("<script") == 1


def test_markdown_has_the_budget_and_the_figures() -> None:
    text = markdown(documents(), load_budget())
    assert "| envoy.ratio_grpcio_rps | 2.000 | >= 2.5 | ❌ missed |" in text
    assert "| envoy.cpu_ratio | not measured | <= 0.4 |" in text
    assert "| none_rps | 20,000 | 19,000 to 21,000 |" in text
    assert text.count("<details>") == text.count("</details>") == 3


def test_axes_place_values_between_0_and_1() -> None:
    axis = log_axis("t", [3.0, 700.0], str)
    assert [value for value, _ in axis.ticks] == [1.0, 10.0, 100.0, 1000.0]
    assert axis.place(1.0) == 0
    assert axis.place(1000.0) == 1
    assert axis.place(0.0) == 0
    percentiles = percentile_axis(99.9)
    assert [label for _, label in percentiles.ticks] == ["0", "90", "99", "99.9"]
    assert percentiles.place(90) == pytest.approx(1 / 3)
    assert percentiles.place(99) == pytest.approx(2 / 3)
    assert percentiles.place(100) == 1


def test_charts_of_nothing_are_no_error() -> None:
    assert "<svg" in bars("x", {}, "u")
    assert "<svg" in stack("x", {}, "u")
    assert "<svg" in lines("x", {}, percentile_axis(99), log_axis("t", [], str))


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("a_us", 950.0, "950 µs"),
        ("a_us", 1234.0, "1.23 ms"),
        ("a_us", -2_500_000.0, "-2.5 s"),
        ("a_ms", 0.5, "500 µs"),
        ("a_seconds", 2, "2 s"),
        ("ratio_x", 0.9, "0.900"),
        ("a_rps", 12345.6, "12,346"),
        ("a", None, "not measured"),
        ("tool", "wrk", "wrk"),
    ],
)
def test_figures_have_the_unit_of_their_key(key: str, value: object, text: str) -> None:
    assert shown(key, value) == text
    assert spread(key, [1.0]) == spread(key, None) == ""


def test_the_report_is_written_next_to_its_results(tmp_path: Path) -> None:
    for name, content in documents().items():
        write_document(tmp_path / f"{name}.json", content)
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 0
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "report.md").read_text().startswith("# Benchmarks")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert CliRunner().invoke(app, ["report", str(empty)]).exit_code == 2


def test_a_run_adds_its_result_to_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.transport.run", lambda *, quick, say: {"ratio_grpcio": 2.0})
    result = CliRunner().invoke(app, ["transport", "--report", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "transport.ratio_grpcio" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "transport.json").read_text())["missed"] == ["ratio_grpcio"]
