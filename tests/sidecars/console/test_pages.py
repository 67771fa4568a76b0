"""The pages as a browser without JavaScript has them."""

import json
import re
from pathlib import Path

import pytest

from sidecars.console.app import POLICY
from tests.support.console import KEY, TAKEN, Suite
from tests.support.console import POLICY as SUITE_POLICY

PAGES = ("", "decisions", "limits", "logs", "sessions", "configuration", "playground")


@pytest.mark.parametrize("path", PAGES)
def test_each_page_is_whole_and_has_nothing_inline(suite: Suite, path: str) -> None:
    status, text, headers = suite.ask(f"/console/{path}")
    assert status == 200, text
    page = suite.page(path)
    assert headers["Content-Security-Policy"] == POLICY
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in POLICY
    assert "unsafe" not in POLICY
    assert not page.handlers
    assert "style" not in page.tags
    for script in page.scripts:
        assert str(script["src"]).startswith("/console/static/")
    assert page.tags.count("h1") == page.tags.count("main") == 1
    assert 'lang="en"' in text
    assert text.count('aria-current="page"') == 1


def test_every_static_file_that_a_page_names_is_there(suite: Suite) -> None:
    for path in set(re.findall(r'(?:src|href)="(/console/static/[^"]+)"', suite.page().html)):
        status, _, headers = suite.ask(path)
        assert status == 200
        assert "max-age" in headers["Cache-Control"]
    assert suite.ask("/console/static/../render.py")[0] == 404
    assert suite.ask("/console/static/%2e%2e%2frender.py")[0] == 404


def test_an_unknown_page_says_so(suite: Suite) -> None:
    status, text, headers = suite.ask(f"/console/{TAKEN.replace(' ', '')}".replace("<", "%3C"))
    assert status == 404
    assert "script>alert" not in text.replace("&lt;", "").replace("script&gt;", "")
    assert headers["Content-Security-Policy"] == POLICY


def test_the_overview_shows_what_each_sidecar_did(suite: Suite) -> None:
    page = suite.page()
    assert "authz" in page.text
    assert re.search(r"deny \S+ 2", page.text)
    assert re.search(r"over limit \S+ 2", page.text)
    assert re.search(r"written \S+ 2", page.text)
    assert "credentials_insufficient 1" in page.text
    assert "/console/decisions?reason=credentials_insufficient" in page.links


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", ["public", "api_key_unknown", "credentials_insufficient", "reports"]),
        ("outcome=deny", ["api_key_unknown", "credentials_insufficient"]),
        ("rule=orders", ["credentials_insufficient"]),
        ("reason=api_key_unknown", ["api_key_unknown"]),
        ("subject=reports&outcome=allow", ["reports"]),
        ("request_id=11111111-aaaa-4000-8000-000000000000", ["credentials_insufficient"]),
        ("id=none", []),
        ("subject=someone-else", []),
    ],
)
def test_decisions_are_found_by_each_filter(suite: Suite, query: str, shown: list[str]) -> None:
    page = suite.page(f"decisions?{query}")
    rows = page.html.partition("<tbody>")[2]
    for text in ("public", "api_key_unknown", "credentials_insufficient"):
        assert (f">{text}<" in rows) is (text in shown), text
    assert ("No decision" in page.text) is (not shown)


def test_a_decision_is_found_by_its_id(suite: Suite) -> None:
    wanted = suite.decisions()[0]["decision_id"]
    page = suite.page(f"decisions?id={wanted}")
    assert [link for link in page.links if "/decision?" in link] == [f"/console/decision?id={wanted}"]


def test_a_wrong_filter_is_explained(suite: Suite) -> None:
    assert "outcome must be one of allow" in suite.page("decisions?outcome=maybe").text


def test_why_shows_the_tree_of_policy_explain(suite: Suite) -> None:
    [denied] = [one for one in suite.decisions() if one["reason"] == "credentials_insufficient"]
    page = suite.page(f"decision?id={denied['decision_id']}")
    assert "deny 403 credentials_insufficient by rule orders" in page.text
    assert "credential : api_key: reports" in page.text
    assert "orders:read" in page.text
    assert "reports:read" in page.text
    assert "This differs" not in page.text


def test_why_explains_a_refused_credential(suite: Suite) -> None:
    [refused] = [one for one in suite.decisions() if one["reason"] == "api_key_unknown"]
    page = suite.page(f"decision?id={refused['decision_id']}")
    assert "refused: api_key_unknown" in page.text
    assert "no such key" in page.text


def test_a_decision_that_is_gone_says_so(suite: Suite) -> None:
    status, text, _ = suite.ask("/console/decision?id=0")
    assert status == 404
    assert "is kept any more" in text


@pytest.mark.parametrize("path", PAGES)
def test_hostile_values_are_text(suite: Suite, path: str) -> None:
    page = suite.page(path)
    assert "<script>alert" not in page.html
    assert not page.handlers
    assert len(page.scripts) == 1
    [hostile] = [one for one in suite.decisions() if "alert" in one["path"]]
    page = suite.page(f"decision?id={hostile['decision_id']}")
    assert "<script>alert" not in page.html
    assert "<script>alert(1)</script>" in page.text


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", 2),
        ("find=11111111-aaaa-4000-8000-000000000000", 1),
        ("code=200", 2),
        ("code=2xx", 2),
        ("code=5xx", 0),
        ("path=/orders", 1),
        ("subject=someone", 0),
    ],
)
def test_log_records_are_found_by_each_filter(suite: Suite, query: str, found: int) -> None:
    page = suite.page(f"logs?{query}")
    assert page.html.count('data-label="Request"') == found
    assert ("No record" in page.text) is (found == 0)
    assert "received 2" in page.text
    assert "file writes" in page.text


def test_sessions_and_revocations_are_listed(tmp_path: Path) -> None:
    suite = Suite(tmp_path)
    with suite.running as running:
        running.wait_until_ready()
        assert "There are no sessions" in suite.page("sessions").text
        session = json.dumps({"subject": "dave", "scopes": ["orders:read"]})
        headers = {"Content-Type": "application/json"}
        assert suite.ask("/authz/sessions", "POST", session, headers)[0] == 200
        revocation = json.dumps({"target": "jti", "value": "a-token"})
        assert suite.ask("/authz/revocations", "POST", revocation, headers)[0] == 200
        text = suite.page("sessions").text
        assert "dave" in text
        assert "a-token" in text
        assert "dave" in suite.page("sessions?subject=dave").text
        assert "There are no sessions" in suite.page("sessions?subject=erin").text


def test_each_reload_is_listed_with_its_outcome(tmp_path: Path) -> None:
    suite = Suite(tmp_path)
    policy = tmp_path / "policy.yaml"
    with suite.running as running:
        running.wait_until_ready()
        assert "Nothing was reloaded" in suite.page("configuration").text
        policy.write_text(SUITE_POLICY.replace("orders:read", "orders:list"))
        running.wait_until(lambda: running.config()["sidecars"]["authz"]["reloads"])
        policy.write_text("rules: [{nmae: a}]\n")  # codespell:ignore
        running.wait_until(lambda: len(running.config()["sidecars"]["authz"]["reloads"]) == 2)
        page = suite.page("configuration")
        assert page.text.index("refused") < page.text.index("done")
        assert "policy.yaml:1" in page.text
        suite.check("/orders", KEY)
        page = suite.page(f"decision?id={suite.decisions()[0]['decision_id']}")
        assert "policy.yaml:1" in page.text  # the files on disk cannot be explained
        page = suite.page()
        assert "refused" in page.text


def test_the_configuration_has_secrets_masked(suite: Suite) -> None:
    page = suite.page("configuration")
    assert "session_admin" in page.text
    assert suite.decisions()[0]["policy_revision"] in page.text


def test_the_keys_asked_for_and_refused_most_often_are_listed(suite: Suite) -> None:
    for client in (*["192.0.2.9"] * 5, TAKEN):  # now, because hot keys are forgotten after two minutes
        suite.limit(client)
    page = suite.page("limits")
    assert re.search(r"client=192.0.2.9 edge.client 5 2", page.text)
    hottest, _, limited = page.html.partition("Refused most often")
    assert TAKEN not in page.html
    assert "alert(1)" in hottest
    assert "alert(1)" not in limited.partition("One key")[0]
    assert "3 per hour" in page.text


def test_the_state_of_a_key_is_looked_up(suite: Suite) -> None:
    for _ in range(3):
        suite.limit("192.0.2.10")
    [link] = {link for link in suite.page("limits").links if "192.0.2.10" in link}
    page = suite.page(link.removeprefix("/console/"))
    assert "left now 0" in page.text
    assert "edge.client" in page.text
    page = suite.page("limits?domain=edge&descriptor=client%3D192.0.2.8")
    assert "left now 3" in page.text
    assert "unknown domain" in suite.page("limits?domain=none&descriptor=client%3Da").text
    assert "expected KEY=VALUE" in suite.page("limits?domain=edge&descriptor=client").text
    assert "no descriptor with the key" in suite.page("limits?domain=edge&descriptor=other%3Da").text


def test_a_hostile_subject_is_text_and_can_be_asked_for(suite: Suite) -> None:
    [hostile] = [one for one in suite.decisions() if one.get("subject") == TAKEN]
    page = suite.page(f"decision?id={hostile['decision_id']}")
    assert "<script>alert" not in page.html
    assert f"api_key: {TAKEN}" in page.text
    [link] = [link for link in page.links if "subject=" in link]
    found = suite.page(link.removeprefix("/console/"))
    assert "Decisions: 1," in found.text
    question = suite.page(f"playground?decision={hostile['decision_id']}")
    assert "<script>alert" not in question.html


def test_a_hostile_user_agent_is_text(suite: Suite) -> None:
    page = suite.page("logs")
    assert page.text.count("<script>alert(1)</script>") >= 2
    assert "<script>alert" not in page.html
