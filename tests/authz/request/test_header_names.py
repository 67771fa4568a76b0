import tracemalloc

from authz.policy.compile.load import parse_policy
from authz.request.header_names import MAX_NAME_CHARACTERS, MAX_REMEMBERED, NamesAlike, fold
from tests.support.checks import request

TOKEN_SIGNS = "!#$%&'*+-.^_`|~"
"""What a header name may hold besides letters and digits (RFC 9110 section 5.6.2)."""


def test_every_sign_folds_into_one() -> None:
    assert {fold(f"x{sign}Auth{sign}1") for sign in TOKEN_SIGNS} == {"x_auth_1"}


def test_letters_and_digits_stay_apart() -> None:
    assert fold("x-user1") != fold("x-user2")
    assert fold("xuser") != fold("x-user")


def test_the_other_spellings_are_found_and_nothing_else() -> None:
    alike = NamesAlike(["x-auth-roles", "x-user"])
    names = ["accept", "x-auth-roles", "x.auth.roles", "x_user", "x-user-agent", "xuser"]
    for _ in range(2):
        assert alike.among(names) == ["x.auth.roles", "x_user"]


def test_all_rules_that_ask_for_a_header_remember_together() -> None:
    rules = "".join(f"  - {{name: r{one}, deny: anyone, headers: {{x-role: r{one}}}}}\n" for one in range(20))
    policy = parse_policy(f"rules:\n  - {{name: open, allow: anyone}}\n{rules}")
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for rule in policy.rules[1:]:
            for number in range(20):
                asked = request(headers=[(f"n{number * 100 + one}", "v") for one in range(100)])
                assert not rule.covers(asked, 0.0)
        assert tracemalloc.get_traced_memory()[0] - before < 500_000
    finally:
        tracemalloc.stop()


def test_names_remembered_are_bounded_in_number_and_length() -> None:
    alike = NamesAlike(["x-user"])
    long = "a" * (MAX_NAME_CHARACTERS + 1)
    assert alike.among([long]) == ()
    assert long not in alike._unlike
    for number in range(MAX_REMEMBERED * 2):
        assert alike.among([f"n{number}"]) == ()
        assert len(alike._unlike) <= MAX_REMEMBERED + 1
    assert alike.among(["x.user", "n1"]) == ["x.user"]
