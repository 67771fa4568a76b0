"""Names of fields, as the most lenient upstreams read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.request.field_names import (
    MAX_REMEMBERED_CHARACTERS,
    WantedNames,
    _remembered,
    fold_name,
    members,
    pairs_of,
)
from common.redaction.names import folded


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("role", "role"),
        ("ROLE", "role"),
        ("role[]", "role"),
        ("role[0]", "role"),
        ("role[x]", "role"),
        ("role.x", "role"),
        (" role", "role"),
        ("role\0", "role"),
        ("role\0x", "role"),
        ("role ", "role"),
        ("[role]", "role"),
        ("rol\ufffde", "role"),
        ("user[role]", "user.role"),
        ("user.role", "user.role"),
        ("user[0][role][]", "user.role"),
        ("user_role", "user.role"),
        ("user role", "user_role"),
        ("user.role", "user_role"),
        ("user[role", "user_role"),
        ("userRole", "user_role"),
        ("\N{KELVIN SIGN}ind", "kind"),
        ("7", "7"),
        ("$", "$"),
    ],
)
def test_a_name_is_found_in_every_spelling(name: str, wanted: str) -> None:
    assert WantedNames((wanted, "other")).mean(name)
    assert not WantedNames(("other",)).mean(name)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("roles", "role"),
        ("rol", "role"),
        ("user[role]", "role"),
        ("x.role", "role"),
        ("", "role"),
        ("7", "8"),
    ],
)
def test_another_name_is_another(name: str, wanted: str) -> None:
    assert not WantedNames((wanted,)).mean(name)


def test_two_spellings_of_a_name_are_kept_together() -> None:
    assert WantedNames(("role", "Role")).by_folded == {"role": ("role", "Role")}


def test_indexes_of_lists_are_not_members() -> None:
    assert members("a[0][b][]") == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a=1&b=2;c=3", [("a", "1"), ("b", "2;c=3"), ("b", "2"), ("c", "3")]),
        ("a", [("a", "")]),
        ("%61+b=c+d%2B", [("a b", "c d+")]),
        ("%u0061=1", [("a", "1")]),
        ("%ud800=1", [("?", "1")]),
        ("a=%ff", [("a", None)]),
        ("a=%zz", [("a", None)]),
        ("a=%u0061", [("a", None)]),
        ("a=x%00", [("a", None)]),
        ("a=x!", [("a", "x!")]),
    ],
)
def test_a_query_is_read_as_the_most_lenient_read_it(text: str, found: list[object]) -> None:
    assert pairs_of(text) == found


def test_a_masked_value_cannot_be_known() -> None:
    assert pairs_of("a=x!&b=y", masked=True) == [("a", None), ("b", "y")]


def test_names_of_any_length_take_time_that_grows_with_it() -> None:
    """With its square these would take minutes."""
    wanted = WantedNames(("role", "user.role"))
    assert not wanted.mean("a." * 500_000)
    assert wanted.mean("user[role]" + "[a]" * 500_000)


def test_a_long_name_is_not_remembered() -> None:
    before = _remembered.cache_info().currsize
    assert fold_name("A-" * MAX_REMEMBERED_CHARACTERS) == "a" * MAX_REMEMBERED_CHARACTERS
    assert _remembered.cache_info().currsize == before


@given(st.text())
def test_every_text_is_read(text: str) -> None:
    for name, _ in pairs_of(text):
        assert WantedNames((name,)).mean(name)


@given(st.text(max_size=8))
def test_names_of_secrets_fold_alike(name: str) -> None:
    """What a rule takes for `password`, a log has to take for it, too."""
    assert fold_name(name) == (folded(name) or name)


def test_go_folds_letters_that_lower_case_keeps_apart() -> None:
    assert fold_name("pa\u017f\u017fword") == folded("pa\u017f\u017fword") == "password"
