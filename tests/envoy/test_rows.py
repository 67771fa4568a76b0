"""The demo can fail: each check says what is wrong."""

from http import HTTPStatus

import orjson
import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from sidecars.demo.ask import EdgeResponse
from sidecars.demo.scenario import (
    USER_AGENT,
    Check,
    Row,
    RowResult,
    challenge,
    check_log,
    limited_after,
    status,
    upstream_sees,
)


def answer(status: int = 200, headers: dict[str, str] | None = None, **seen: str) -> EdgeResponse:
    body = {"headers": [[name.replace("_", "-"), value] for name, value in seen.items()]}
    return EdgeResponse(status, CIMultiDictProxy(CIMultiDict(headers or {})), orjson.dumps(body))


LIMITED = {"X-RateLimit-Limit": "1, 1;w=60", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "60"}


@pytest.mark.parametrize(
    ("check", "answers", "problem"),
    [
        (status(HTTPStatus.OK), [answer(200)], ""),
        (status(HTTPStatus.OK), [answer(503)], "status 503, not 200"),
        (challenge("Bearer"), [answer(401, {"WWW-Authenticate": "Bearer"})], ""),
        (challenge("Bearer"), [answer(401)], "WWW-Authenticate is '', without Bearer"),
        (upstream_sees("x-user", "alice"), [answer(x_user="alice")], ""),
        (
            upstream_sees("x-user", "alice"),
            [answer(x_user="admin")],
            "the upstream saw x-user ['admin'], not ['alice']",
        ),
        (upstream_sees("x-user"), [answer(x_user="admin")], "the upstream saw x-user ['admin'], not []"),
        (upstream_sees("x-user", "alice"), [answer(401)], "the upstream was not reached"),
        (limited_after(1), [answer(200), answer(429, LIMITED)], ""),
        (limited_after(1), [answer(200), answer(200)], "statuses [200, 200], not [200, 429]"),
        (limited_after(1), [answer(200), answer(429)], "no X-RateLimit-* headers of a reached limit in []"),
    ],
)
def test_each_check_finds_what_it_is_for(check: Check, answers: list[EdgeResponse], problem: str) -> None:
    assert check(answers) == problem


def result(**logged: str) -> RowResult:
    return RowResult(Row("a request", "200", "/", (), logged), [answer()], [])


def test_a_line_of_the_access_log_belongs_to_the_row_that_its_user_agent_names() -> None:
    first, second = result(authz_rule="public"), result(authz_rule="login")
    lines = [
        {"user_agent": f"{USER_AGENT}2", "authz_rule": "login"},
        {"user_agent": f"{USER_AGENT}1", "authz_rule": "public"},
    ]
    check_log([first, second], lines)
    assert (first.problems, second.problems) == ([], [])


def test_another_rule_in_the_access_log_is_a_problem() -> None:
    one = result(authz_rule="public")
    check_log([one], [{"user_agent": f"{USER_AGENT}1", "authz_rule": "login"}])
    assert one.problems == ["the access log has authz_rule 'login', not 'public'"]


def test_a_missing_line_of_the_access_log_is_a_problem() -> None:
    one = result()
    check_log([one], [])
    assert one.problems == ["0 lines in the access log, not 1"]
