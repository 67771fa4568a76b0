"""OPA and this library accept each other's bundles. Builds OPA with Go once, or skips."""

import json
import subprocess
from pathlib import Path

import pytest

from edge.bundle.bundle import Trust, read_bundle
from edge.bundle.keys import public_keys
from tests.support.bundles import CONTENT, NOW, Signer, write_keys
from tests.support.gotools import go_tool

OPA = "github.com/open-policy-agent/opa@v1.22.4"
ODD = {"b": [1.0, 2e3, -0.0], "é<&>": '\u2028\u0007\b\u007f"\\', "half": "\ud800", "a": None, "t": [True, {}]}
ALGORITHMS = ["RS256", "ES256", "ES384", "EdDSA"]


@pytest.fixture(scope="module")
def opa() -> str:
    return go_tool("opa", OPA)


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_opa_accepts_our_bundles(opa: str, tmp_path: Path, algorithm: str) -> None:
    data = json.dumps({"x": ODD}).encode()
    signer = Signer(tmp_path, algorithm)
    (tmp_path / "ours.tar.gz").write_bytes(signer.archive({**CONTENT, "app/data.json": data}))
    verified = ("--verification-key", signer.public, "--verification-key-id", "release")
    built = ("build", "-b", "ours.tar.gz", *verified, "--signing-alg", algorithm, "-o", "again.tar.gz")
    run(opa, *built, cwd=tmp_path)
    found = json.loads(run(opa, "eval", "-b", "again.tar.gz", "data.app.x.t", cwd=tmp_path))
    assert found["result"][0]["expressions"][0]["value"] == [True, {}]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_our_library_accepts_bundles_that_opa_signed(opa: str, tmp_path: Path, algorithm: str) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "data.json").write_text(json.dumps({"x": ODD}))
    (folder / "app.rego").write_text("package app\n\nallow := true\n")
    private, public = write_keys(tmp_path, algorithm)
    signing = ("--signing-key", private, "--signing-alg", algorithm)
    run(opa, "build", "-b", "app", "--revision", "r1", *signing, "-o", "theirs.tar.gz", cwd=tmp_path)
    bundle = read_bundle((tmp_path / "theirs.tar.gz").read_bytes())
    signature = Trust(public_keys({"default": public})).check(bundle, NOW)
    assert signature is not None
    assert (bundle.manifest.revision, signature.algorithm) == ("r1", algorithm)
