"""The report in a real browser: it draws, light and dark, without a request and without scrolling sideways.

Needs Debian's chromium, and Playwright (`pip install '.[browser]'`).
"""

from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from bench.report.page import page as report_page
from bench.tools.budget import load_budget
from tests.bench.results_of_every_kind import documents
from tests.support.colours import contrast, luminance

CHROMIUM = which("chromium")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (extra `browser`)"
)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.timeout(120),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        # Root has no sandbox, and the page is ours.
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(report_page(documents(), load_budget(), written="Written on a day"), encoding="utf-8")
    return file


COLOURS = """() => {
  const style = (selector, name) => getComputedStyle(document.querySelector(selector))[name];
  return {
    ground: style('body', 'backgroundColor'),
    card: style('svg', 'backgroundColor'),
    text: style('body', 'color'),
    met: style('.met .verdict', 'color'),
    missed: style('.missed .verdict', 'color'),
    faint: style('th', 'color'),
    lines: [...document.querySelectorAll('.line')].map((line) => getComputedStyle(line).stroke),
    bars: [...document.querySelectorAll('.bar')].map((bar) => getComputedStyle(bar).fill),
  };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read_in_light_and_dark(browser: Any, file: Path, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme)
    page.goto(file.as_uri())
    colours = page.evaluate(COLOURS)
    assert (luminance(colours["ground"]) > 0.5) is (scheme == "light")
    for name in ("text", "met", "missed", "faint"):
        assert contrast(colours[name], colours["ground"]) >= 4.5, name
    for drawn in (*colours["lines"], *colours["bars"]):
        assert contrast(drawn, colours["card"]) >= 3, drawn
    page.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_as_wide_as_the_screen(browser: Any, file: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_the_page_asks_for_nothing_and_runs_no_text_of_a_result(browser: Any, file: Path) -> None:
    page = browser.new_page()
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(file.as_uri())
    assert asked == [file.as_uri()]
    assert not errors
    assert page.title() == "edge-sidecars: benchmarks"
    assert page.evaluate("JSON.parse(document.getElementById('results').textContent).probe.bench") == "probe"
    assert page.locator("#budget tr").count() == 8
    page.close()


def test_lines_and_bars_are_inside_their_charts(browser: Any, file: Path) -> None:
    page = browser.new_page()
    page.goto(file.as_uri())
    outside = page.evaluate("""() => {
    const marks = [...document.querySelectorAll('.line, .bar, .dot, svg text')];
    return marks.filter((mark) => {
      const box = mark.getBoundingClientRect(), chart = mark.closest('svg').getBoundingClientRect();
      return box.left < chart.left - 1 || box.right > chart.right + 1
        || box.top < chart.top - 1 || box.bottom > chart.bottom + 1;
    }).map((mark) => mark.outerHTML);
    }""")
    assert outside == []
    page.close()
