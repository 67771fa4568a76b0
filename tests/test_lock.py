"""constraints.txt has a version of everything that `make demo` and `make test` install."""

import re

from packaging.utils import canonicalize_name

from release.dependencies import PROJECT, ROOT, closure

LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def test_everything_that_is_installed_is_locked() -> None:
    locked = {canonicalize_name(line.partition("==")[0]) for line in LINES}
    asked = set(closure(PROJECT["name"], {"dev"})) - {PROJECT["name"]}
    # Part of every environment, so `make lock` omits them.
    assert asked - locked <= {"setuptools", "pip"}


def test_the_lock_names_versions_and_no_address() -> None:
    assert [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
