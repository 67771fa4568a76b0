"""Each dependency has a licence that is allowed."""

import pytest

from release.dependencies import (
    FEATURES,
    PROJECT,
    Dependency,
    UnknownLicenceError,
    dependencies,
    licence_of,
)


def test_the_licence_of_each_dependency_is_allowed() -> None:
    found = dependencies()
    assert len(found) > 50
    assert [f"{one.name}: {one.licence}" for one in found if not one.allowed] == []


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("GPL-3.0-only", False),
        ("MIT AND AGPL-3.0-or-later", False),
        ("Apache-2.0 WITH LLVM-exception", False),
    ],
)
def test_every_licence_of_an_expression_must_be_allowed(expression: str, allowed: bool) -> None:
    assert Dependency("a", expression, ()).allowed is allowed


def test_a_distribution_that_is_not_installed_has_no_known_licence() -> None:
    with pytest.raises(UnknownLicenceError, match="no-such-distribution"):
        licence_of("no-such-distribution")


def test_each_extra_is_for_users_or_for_work_on_the_project() -> None:
    work = {"bench", "broker", "browser", "dashboards", "dev", "fuzz", "release"}
    assert set(PROJECT["optional-dependencies"]) == {*FEATURES, *work}


def test_an_extra_says_what_it_adds() -> None:
    by_name = {one.name: one.wanted_by for one in dependencies()}
    assert by_name["uvloop"] == ()
    assert by_name["duckdb"] == ("logs",)
