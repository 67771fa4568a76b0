"""The console in a real browser: each page, each filter, the playground, live refresh, and accessibility.

Needs Debian's chromium, and Playwright (`pip install '.[browser]'`).
"""

import re
from collections.abc import Iterator
from importlib.resources import files
from shutil import which
from typing import Any

import pytest

from tests.support.colours import contrast
from tests.support.console import TAKEN, Suite

CHROMIUM = which("chromium")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (extra `browser`)"
)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.timeout(240),
]

PAGES = ("", "decisions", "limits", "logs", "sessions", "configuration", "playground")
TIMEOUT_MS = 90_000
"""The console gives way to all else, so on a busy machine its first evaluation takes long."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        # Root has no sandbox, and the pages are ours.
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A page that fails the test if it logs an error, a violated policy included, or opens a dialog."""

    def __init__(self, browser: Any, suite: Suite, **options: Any) -> None:
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(TIMEOUT_MS)
        self.errors: list[str] = []
        self.base = f"http://127.0.0.1:{suite.port}/console/"
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", self._dialog)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.page.close()
        assert self.errors == []

    def _dialog(self, dialog: Any) -> None:
        self.errors.append("a dialog")
        dialog.dismiss()

    def open(self, path: str = "") -> Any:
        self.page.goto(self.base + path)
        return self.page


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1280, "dark")])
def test_each_page_fits_and_loads_without_an_error(
    browser: Any, suite: Suite, path: str, width: int, scheme: str
) -> None:
    with Tab(browser, suite, viewport={"width": width, "height": 800}, color_scheme=scheme) as tab:
        page = tab.open(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("h1").is_visible()
        assert page.locator("nav a[aria-current]").count() == 1
        assert tab.page.evaluate("[...document.styleSheets].length") == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_violates_a_rule_of_accessibility(browser: Any, suite: Suite, scheme: str) -> None:
    """axe-core, rules of WCAG 2.2 AA: names, roles, contrast, order of headings."""
    pytest.importorskip(
        "axe_playwright_python", reason="axe-playwright-python is not installed (extra `browser`)"
    )
    axe = (files("axe_playwright_python") / "axe.min.js").read_text()
    denied = next(one["decision_id"] for one in suite.decisions() if one["outcome"] == "deny")
    more = (
        f"decision?id={denied}",
        "limits?domain=edge&descriptor=client%3D192.0.2.7",
        "decisions?outcome=x",
    )
    context = browser.new_context(bypass_csp=True, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    found: list[str] = []
    for path in (*PAGES, *more):
        page.goto(f"http://127.0.0.1:{suite.port}/console/{path}")
        page.evaluate(axe)
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
        answer = page.evaluate(f"axe.run({{runOnly: {tags}}})")
        found += [
            f"{path}: {rule['id']}: {node['html'][:160]}: {node['failureSummary']}"
            for rule in answer["violations"]
            for node in rule["nodes"]
        ]
    context.close()
    assert found == []


def test_the_colours_of_badges_can_be_read(browser: Any, suite: Suite) -> None:
    for scheme in ("light", "dark"):
        with Tab(browser, suite, color_scheme=scheme) as tab:
            page = tab.open("decisions")
            pairs = page.evaluate(
                "[...document.querySelectorAll('.badge')].map((one) => getComputedStyle(one))"
                ".map((style) => [style.color, style.backgroundColor])"
            )
            assert all(contrast(text, ground) >= 4.5 for text, ground in pairs)


@pytest.mark.parametrize(
    ("field", "value", "rows"),
    [
        ("request_id", "11111111-aaaa-4000-8000-000000000000", 1),
        ("subject", "reports", 2),
        ("rule", "orders", 1),
        ("reason", "api_key_unknown", 1),
        ("id", "none", 0),
    ],
)
def test_a_filter_is_typed_and_sent_with_the_keyboard(
    browser: Any, suite: Suite, field: str, value: str, rows: int
) -> None:
    with Tab(browser, suite) as tab:
        page = tab.open("decisions")
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.name") == "id"
        page.focus(f"[name={field}]")
        page.keyboard.type(value)
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile(f"{field}="))
        assert page.locator("tbody tr").count() == rows
        assert page.input_value(f"[name={field}]") == value


def test_an_outcome_is_chosen_and_why_is_one_click_away(browser: Any, suite: Suite) -> None:
    with Tab(browser, suite) as tab:
        page = tab.open("decisions")
        page.select_option("[name=outcome]", "deny")
        page.click("text=Find")
        page.wait_for_url(re.compile("outcome=deny"))
        assert page.locator("tbody tr").count() == 2
        page.click("a.why >> nth=0")
        assert "Why?" in page.inner_text("h1")
        page.click("text=Try it in the playground")
        page.click("button[type=submit]")
        assert "deny" in page.inner_text("section .answer")


def test_the_playground_explains_and_tests(browser: Any, suite: Suite) -> None:
    with Tab(browser, suite) as tab:
        page = tab.open("playground")
        page.check("[name=use][value=pasted]")
        page.fill("[name=suite]", page.get_attribute("[name=suite]", "placeholder"))
        page.click("button[type=submit]")
        assert "allow 200 allowed by rule orders-read" in page.inner_text("section .answer >> nth=0")
        assert "1 of 1 passed" in page.inner_text("main")
        page.fill("[name=policy]", f"rules: {TAKEN}")
        page.click("button[type=submit]")
        assert page.locator("[role=alert]").count() >= 1
        assert page.input_value("[name=policy]") == f"rules: {TAKEN}"


def test_what_clients_write_is_shown_as_text(browser: Any, suite: Suite) -> None:
    suite.limit(TAKEN)  # hot keys are forgotten after two minutes
    with Tab(browser, suite) as tab:
        for path in ("decisions", "limits", "logs"):
            page = tab.open(path)
            assert TAKEN in page.inner_text("main"), path
            assert page.locator("main script, main img, main iframe").count() == 0
        hostile = next(one for one in suite.decisions() if "alert" in one["path"])
        assert TAKEN in tab.open(f"decision?id={hostile['decision_id']}").inner_text("main")


def test_the_overview_refreshes_itself_until_it_is_stopped(browser: Any, suite: Suite) -> None:
    with Tab(browser, suite) as tab:
        page = tab.open()
        page.locator("svg.spark").first.wait_for()  # three samples, without a reload of the page
        assert "/s" in page.inner_text(".big >> nth=0")
        button = page.locator("[data-live-button]")
        button.click()
        assert button.get_attribute("aria-pressed") == "false"


def test_pages_work_without_javascript(browser: Any, suite: Suite) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{suite.port}/console/decisions?outcome=deny")
    assert page.locator("tbody tr").count() == 2
    assert not page.locator("[data-live-button]").is_visible()
    page.goto(f"http://127.0.0.1:{suite.port}/console/playground")
    page.click("button[type=submit]")
    assert "by rule orders" in page.inner_text("main")
    context.close()


def test_another_site_can_neither_frame_nor_post(browser: Any, suite: Suite) -> None:
    page = browser.new_page()
    page.route(
        "http://other.example/",
        lambda route: route.fulfill(
            content_type="text/html",
            body=f"<iframe src='http://127.0.0.1:{suite.port}/console/'></iframe>"
            f"<form method=post action='http://127.0.0.1:{suite.port}/console/playground'>"
            "<input name=use value=loaded><button>go</button></form>",
        ),
    )
    page.goto("http://other.example/")
    frame = page.frames[1]
    assert "Overview" not in frame.content()
    page.click("text=go")
    assert "is sent by a page of the console" in page.inner_text("body")
    page.close()
