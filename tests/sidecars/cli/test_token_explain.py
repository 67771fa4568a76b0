"""`sidecars token explain`, as a person runs it."""

import contextlib
import io
import json
from pathlib import Path
from unittest import mock

import pytest
import yaml

from sidecars.cli import main
from tests.support.signing import AUDIENCE, ISSUER, jwk, key_set, private_key, token

AT = "2027-01-15T08:00:00Z"
"""NOW of the tests of credentials."""

GOOD, EXPIRED = token(), token(exp=1_700_000_000)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / "keys.json").write_bytes(key_set(jwk(private_key("ES256"))))
    issuer = {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": {"file": "keys.json"}}
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump({"credentials": {"issuers": [issuer]}}))
    return file


def run(*arguments: str | Path, stdin: str = "") -> tuple[int, str, str]:
    """`sidecars token explain ARGUMENTS`: exit code, stdout, stderr."""
    out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()))),
        pytest.raises(SystemExit) as ended,
    ):
        main(["token", "explain", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()


@pytest.mark.parametrize("text", [GOOD, f"{GOOD}\n", f"Bearer {GOOD}", f"  bearer {GOOD} \n"])
def test_a_good_token_passes_each_check(policy: Path, text: str) -> None:
    code, out, err = run("--policy", policy, "--at", AT, stdin=text)
    assert (code, err) == (0, "")
    assert "FAIL" not in out
    assert out.splitlines()[-1] == "accepted: subject alice; scopes: read write; roles: none"


def test_a_bad_one_names_the_check_that_failed(policy: Path) -> None:
    code, out, _ = run("--policy", policy, "--at", AT, stdin=EXPIRED)
    assert code == 1
    assert [line.split()[1] for line in out.splitlines() if line.startswith("FAIL")] == ["exp"]
    assert [line for line in out.splitlines() if "it expired" in line and "refused" not in line] == [
        line for line in out.splitlines() if line.startswith("FAIL")
    ]
    assert out.splitlines()[-1].startswith(
        "refused: token_expired: it expired 100000000 s ago (issuer https://"
    )


def test_a_file_may_hold_it(policy: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(GOOD + "\n")
    code, out, _ = run("--policy", policy, "--at", AT, "--token-file", tmp_path / "token", "--json")
    result = json.loads(out)
    assert (code, result["accepted"], result["subject"]) == (0, True, "alice")
    assert {check["title"] for check in result["checks"]} >= {
        "form",
        "issuer",
        "signature",
        "exp",
        "audience",
    }


@pytest.mark.parametrize("text", [GOOD, EXPIRED, GOOD + ".x", GOOD[:-6]])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_token_is_never_printed(policy: Path, text: str, options: tuple[str, ...]) -> None:
    _, out, err = run("--policy", policy, "--at", AT, *options, stdin=text)
    for part in text.split("."):
        assert len(part) < 2 or part not in out + err


def test_it_is_never_an_argument(policy: Path) -> None:
    code, out, err = run("--policy", policy, GOOD)
    assert (code, out) == (2, "")
    assert "all users of the machine can see arguments" in err
    assert GOOD not in err


OPAQUE = "mF_9.B5f-4.1JqM8s0Vx2kQ7tZ"


@pytest.mark.parametrize("text", [GOOD, GOOD[:-40], OPAQUE])
@pytest.mark.parametrize(
    "before", [("--token-file",), ("--at",), ("--policy",), ("--token",), ("--json",), ("-t",), ("--",)]
)
def test_nor_is_it_repeated_where_it_was_one(policy: Path, before: tuple[str, ...], text: str) -> None:
    code, out, err = run("--policy", policy, *before, text, stdin=GOOD)
    assert (code, out) == (2, "")
    assert text not in err
    assert all(part not in err for part in text.split(".") if len(part) > 10)
    code, _, err = run("--policy", policy, f"{before[0]}={text}", stdin=GOOD)
    assert code == 2
    assert text not in err


@pytest.mark.parametrize("text", [GOOD, OPAQUE])
def test_nor_where_it_was_taken_for_a_command(text: str) -> None:
    out = io.StringIO()
    with contextlib.redirect_stderr(out), pytest.raises(SystemExit):
        main(["token", text])
    assert "No such command '[redacted]'" in out.getvalue()


def test_without_a_token_the_usage_is_wrong(policy: Path) -> None:
    code, _, err = run("--policy", policy, stdin="\n")
    assert code == 2
    assert "--token-file" in err


def test_control_characters_of_a_token_reach_no_terminal(policy: Path) -> None:
    code, out, _ = run("--policy", policy, "--at", AT, stdin=token(iss="https://x\x1b[31m"))
    assert code == 1
    assert "\x1b" not in out


def test_a_bad_policy_is_reported_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("credentials: {issuers: [{issuer: a}]}\n")
    code, _, err = run("--policy", file, stdin=GOOD)
    assert code == 2
    assert "policy.yaml:1: credentials.issuers[0]" in err
