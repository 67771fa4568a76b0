"""Random estates: the files say which route decides, and no team changes what another says."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.configfile import ConfigError
from edge.intent.estate import EstateReader
from edge.intent.find import most_specific, service_of
from edge.intent.model import Estate
from tests.edge.estates import TODAY
from tests.edge.oracle import Oracle
from tests.edge.random_estates import TEAMS, Question, estates, questions


def read(texts: dict[str, str]) -> Estate:
    return EstateReader().read(texts, TODAY)


def route_of(estate: Estate, question: Question) -> str | None:
    service = service_of(estate, question.host, question.segments)
    found = most_specific(service.routes, question.method, question.segments) if service else None
    return found[0].name if found else None


@given(estates(), st.lists(questions(), min_size=1, max_size=8))
def test_the_route_that_decides_is_that_of_the_files(texts: dict[str, str], asked: list[Question]) -> None:
    estate, oracle = read(texts), Oracle(texts)
    assert [route_of(estate, one) for one in asked] == [oracle.answer(one).route for one in asked]


@given(estates(), estates(), st.sampled_from(TEAMS), st.lists(questions(), min_size=1, max_size=8))
def test_the_files_of_a_team_change_nothing_of_another(
    texts: dict[str, str], others: dict[str, str], team: str, asked: list[Question]
) -> None:
    theirs = {name: text for name, text in texts.items() if not name.startswith(f"services/{team}-")}
    changed = theirs | {name: text for name, text in others.items() if name.startswith(f"services/{team}-")}
    before, after = read(texts), read(changed)
    assert _of_others(before, team) == _of_others(after, team)
    for one in asked:
        answers = [Oracle(version).answer(one) for version in (texts, changed)]
        if any(answer.route is not None and not answer.route.startswith(f"{team}-") for answer in answers):
            assert answers[0] == answers[1]


def _of_others(estate: Estate, team: str) -> list[Any]:
    return [service for service in estate.services if service.owner != team]


@given(estates(), st.permutations(TEAMS))
def test_a_team_does_not_take_the_hosts_of_another(texts: dict[str, str], teams: list[str]) -> None:
    team, other, _ = teams
    name = f"services/{team}-0.yaml"
    with pytest.raises(ConfigError) as refused:
        read(texts | {name: texts[name].replace(f'"owner": "{team}"', f'"owner": "{other}"')})
    assert any("does not own" in problem.message for problem in refused.value.problems)
