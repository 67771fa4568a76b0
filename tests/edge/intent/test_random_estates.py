"""Random estates: the files say which route decides, and no team changes what another says."""

import json
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.configfile import ConfigError
from edge.intent.diff.change import Kind
from edge.intent.diff.estates import diff
from edge.intent.diff.within import is_within
from edge.intent.estate import EstateReader
from edge.intent.find import most_specific, service_of
from edge.intent.model import Estate
from tests.edge.estates import TODAY
from tests.edge.oracle import Oracle
from tests.edge.random_estates import TEAMS, Question, access_blocks, estates, questions

FEWER: Final = settings(max_examples=settings().max_examples // 2)
"""Half of what the profile says: an estate takes a tenth of a second."""

SERVICE: Final = {"service": "one-0", "owner": "one", "hosts": ["*"], "upstream": {"address": "up:80"}}
PLATFORM_WITH_CONDITION: Final = json.dumps(
    {
        "domain": "edge",
        "policy": {"conditions": {"named": {"client": ["192.0.2.0/24"]}}},
        "teams": {"one": {"owns": ["*"]}},
        "overrides": {"rules": []},
    }
)


def read(texts: dict[str, str]) -> Estate:
    return EstateReader().read(texts, TODAY)


def route_of(estate: Estate, question: Question) -> str | None:
    service = service_of(estate, question.host, question.segments)
    found = most_specific(service.routes, question.method, question.segments) if service else None
    return found[0].name if found else None


@FEWER
@given(estates(), st.lists(questions(), min_size=1, max_size=8))
def test_the_route_that_decides_is_that_of_the_files(texts: dict[str, str], asked: list[Question]) -> None:
    estate, oracle = read(texts), Oracle(texts)
    assert [route_of(estate, one) for one in asked] == [oracle.answer(one).route for one in asked]


@FEWER
@given(estates(), estates(), st.sampled_from(TEAMS), st.lists(questions(), min_size=1, max_size=8))
def test_the_files_of_a_team_change_nothing_of_another(
    texts: dict[str, str], others: dict[str, str], team: str, asked: list[Question]
) -> None:
    theirs = {name: text for name, text in texts.items() if not name.startswith(f"services/{team}-")}
    changed = theirs | {name: text for name, text in others.items() if name.startswith(f"services/{team}-")}
    before, after = read(texts), read(changed)
    assert _of_others(before, team) == _of_others(after, team)
    oracles = [Oracle(version) for version in (texts, changed)]
    for one in asked:
        answers = [oracle.answer(one) for oracle in oracles]
        if any(answer.route is not None and not answer.route.startswith(f"{team}-") for answer in answers):
            assert answers[0] == answers[1]


def _of_others(estate: Estate, team: str) -> list[Any]:
    return [service for service in estate.services if service.owner != team]


@FEWER
@given(estates(), st.permutations(TEAMS))
def test_a_team_does_not_take_the_hosts_of_another(texts: dict[str, str], teams: list[str]) -> None:
    team, other, _ = teams
    name = f"services/{team}-0.yaml"
    with pytest.raises(ConfigError) as refused:
        read(texts | {name: texts[name].replace(f'"owner": "{team}"', f'"owner": "{other}"')})
    assert any("does not own" in problem.message for problem in refused.value.problems)


@FEWER
@given(estates(), estates(), st.sampled_from(TEAMS), st.lists(questions(), min_size=1, max_size=8))
def test_no_request_is_allowed_now_without_a_change_that_says_so(
    texts: dict[str, str], others: dict[str, str], team: str, asked: list[Question]
) -> None:
    changed = texts | {name: text for name, text in others.items() if name == f"services/{team}-0.yaml"}
    found = diff(read(texts), read(changed))
    assert found == diff(read(dict(reversed(texts.items()))), read(changed))
    old, new = Oracle(texts), Oracle(changed)
    allowed = [one for one in asked if new.answer(one).allowed and not old.answer(one).allowed]
    if allowed:
        assert any(change.kind is Kind.ACCESS_WIDER for change in found)


@FEWER
@given(access_blocks(), access_blocks(), st.lists(questions(), min_size=1, max_size=8))
def test_access_within_another_allows_no_one_else(
    one: dict[str, Any], other: dict[str, Any], asked: list[Question]
) -> None:
    platform = json.loads(PLATFORM_WITH_CONDITION)
    texts = [
        {"platform.yaml": json.dumps(platform), "services/one-0.yaml": json.dumps({**SERVICE, "routes": [
            {"id": "r", "paths": ["/**"], "who": who},
        ]})} for who in (one, other)
    ]  # fmt: skip
    narrow, wide = (read(version).services[0].routes[0].access for version in texts)
    if is_within(narrow, wide):
        oracles = [Oracle(version) for version in texts]
        answers = [[oracle.answer(one).allowed for oracle in oracles] for one in asked]
        assert all(by_wide or not by_narrow for by_narrow, by_wide in answers)
