"""The playground: what is pasted is evaluated in a process with caps, and changes nothing."""

from urllib.parse import quote, urlencode

import pytest

from sidecars.console.examples import EXAMPLE_POLICY, EXAMPLE_QUESTION, EXAMPLE_SUITE
from sidecars.console.sandbox import MAX_TEXT_BYTES
from tests.support.console import KEY, TAKEN, Page, Suite

QUESTION = "request: {url: /orders}\ncaller: {subject: bob, scopes: ['orders:write']}\n"


def evaluated(running: Suite, /, **form: str) -> Page:
    return running.post("playground", urlencode(form, quote_via=quote))


def test_the_loaded_policy_explains_a_request(suite: Suite) -> None:
    page = evaluated(suite, use="loaded", question=QUESTION, policy="ignored: [")
    assert "deny 403 credentials_insufficient by rule orders" in page.text
    assert suite.decisions()[0]["policy_revision"] in page.text
    assert "ignored: [" in page.html  # what was written is still there


def test_a_pasted_policy_explains_a_request_and_runs_a_suite(suite: Suite) -> None:
    before = suite.running.config()["sidecars"]["authz"]["state"]["revision"]
    page = evaluated(
        suite, use="pasted", policy=EXAMPLE_POLICY, question=EXAMPLE_QUESTION, suite=EXAMPLE_SUITE
    )
    assert "allow 200 allowed by rule orders-read" in page.text
    assert "1 of 1 passed" in page.text
    failing = EXAMPLE_SUITE.replace("allow,", "deny,")
    page = evaluated(suite, use="pasted", policy=EXAMPLE_POLICY, question="", suite=failing)
    assert "0 of 1 passed" in page.text
    assert "outcome: expected deny , got allow" in page.text
    assert suite.running.config()["sidecars"]["authz"]["state"]["revision"] == before
    suite.check("/reports", KEY)
    assert suite.decisions()[0]["outcome"] == "allow"


def test_a_recorded_decision_becomes_a_request(suite: Suite) -> None:
    [denied] = [one for one in suite.decisions() if one["reason"] == "credentials_insufficient"]
    page = suite.page(f"playground?decision={denied['decision_id']}")
    question = page.html.partition('name="question"')[2].partition(">")[2].partition("</textarea>")[0]
    assert "path: /orders" in question
    assert "reports:read" in question
    again = evaluated(suite, use="loaded", question=question.strip())
    assert "deny 403 credentials_insufficient by rule orders" in again.text


def test_the_loaded_policy_can_be_copied_without_its_credentials(suite: Suite) -> None:
    page = suite.page("playground?copy=1")
    assert "name: orders" in page.html
    assert "sha256" not in page.html
    assert "sessions" not in page.html.partition("<textarea")[2]


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ({"policy": "rules: [{nmae: a}]"}, "policy.yaml:1"),  # codespell:ignore
        ({"policy": "include: [/etc/passwd]\nrules: []"}, "include is not available here"),
        ({"policy": "rules: &a [*a, *a]"}, "policy.yaml:1"),
        ({"policy": EXAMPLE_POLICY, "question": "request: {verb: GET}"}, "request.yaml:1"),
        ({"policy": EXAMPLE_POLICY, "suite": "tests: 1"}, "suite.yaml:1"),
        ({"policy": "a" * (MAX_TEXT_BYTES + 1)}, "the policy has more than 256 KiB"),
        ({"policy": "[" * 20_000}, "policy"),
    ],
)
def test_what_is_wrong_is_said(suite: Suite, form: dict[str, str], shown: str) -> None:
    page = evaluated(suite, use="pasted", **form)
    assert shown in page.text
    assert 'role="alert"' in page.html


def test_hostile_text_is_text(suite: Suite) -> None:
    hostile = f"</textarea>{TAKEN}"
    page = evaluated(suite, use="pasted", policy=hostile, question=hostile, suite=hostile)
    assert "<script>alert" not in page.html
    assert page.tags.count("textarea") == 3


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("\xff=%ff%00&policy=%ed%a0%80&use=pasted", 200),
        ("&".join(f"f{number}=1" for number in range(20)), 400),
        ("{}", 200),
        ("", 200),
    ],
)
def test_any_form_gets_a_page(suite: Suite, body: str, status: int) -> None:
    headers = {"Sec-Fetch-Site": "same-origin", "Content-Type": "application/x-www-form-urlencoded"}
    answered, text, _ = suite.ask("/console/playground", "POST", body, headers)
    assert answered == status
    assert "<h1>" in text


@pytest.mark.parametrize(
    "path",
    [
        *(
            "decision?id=%ff%00",
            "logs?code=xx&path=%00",
            "decisions?limit=99999",
            "playground?decision=%3Cb%3E",
        ),
        *("limits?domain=%ff&descriptor=,=,", "sessions?subject=%0d%0a", "static/", "static/x", "/config"),
    ],
)
def test_odd_parameters_get_a_page(suite: Suite, path: str) -> None:
    status, text, headers = suite.ask(f"/console/{path}")
    assert status in {200, 400, 404}
    assert "<h1>" in text
    assert headers["Content-Security-Policy"]
