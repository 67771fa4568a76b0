from authz.header_names import MAX_NAME_CHARACTERS, MAX_REMEMBERED, NamesAlike, fold

TOKEN_SIGNS = "!#$%&'*+-.^_`|~"
"""What a header name may hold beside letters and digits (RFC 9110 section 5.6.2)."""


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


def test_spellings_passed_over_are_not_told() -> None:
    assert NamesAlike(["x-user"], ["x_user"]).among(["x_user", "x~user"]) == ["x~user"]


def test_names_remembered_are_bounded_in_number_and_length() -> None:
    alike = NamesAlike(["x-user"])
    long = "a" * (MAX_NAME_CHARACTERS + 1)
    assert alike.among([long]) == ()
    assert long not in alike._unlike
    for number in range(MAX_REMEMBERED * 2):
        assert alike.among([f"n{number}"]) == ()
        assert len(alike._unlike) <= MAX_REMEMBERED + 1
    assert alike.among(["x.user", "n1"]) == ["x.user"]
