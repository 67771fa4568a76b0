"""Putting a process together: what is built, and what is said when it cannot be."""

from pathlib import Path
from typing import Any

import pytest

from common.configfile import ConfigError
from sidecars.cli.serve import assemble
from sidecars.process.assembly import Builder
from sidecars.services.sidecar import Dependencies, Sidecar
from sidecars.settings.load import read_settings
from tests.support import probe

BUILDERS: dict[str, Builder] = dict.fromkeys(("authz", "ratelimit", "accesslog"), probe.build)


def authz(policy: Path) -> str:
    return f"authz: {{listen: ['unix:/a'], policy: ['{policy}']}}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "good.yaml").write_text("answer: one\n")
    return tmp_path / "sidecars.yaml"


def problems(file: Path, text: str, which: str = "all") -> str:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        assemble(read_settings(file, {}), which, BUILDERS)
    return str(caught.value)


@pytest.mark.parametrize("which", ["all", "authz"])
def test_what_the_file_configures_is_built(file: Path, which: str) -> None:
    file.write_text(authz(Path("good.yaml")))
    (placed,) = assemble(read_settings(file, {}), which, BUILDERS).bound
    assert placed.sidecar.name == "authz"
    assert [str(address) for address in placed.listen] == ["unix:/a"]


def test_a_sidecar_without_a_section_cannot_be_run(file: Path) -> None:
    assert problems(file, authz(Path("good.yaml")), "ratelimit").endswith("write a section ratelimit")


def test_a_file_without_any_section_has_nothing_to_run(file: Path) -> None:
    assert "holds nothing to run: write a section authz, ratelimit or accesslog" in problems(file, "log: {}")


def test_problems_of_the_settings_do_not_hide_those_of_the_files_they_name(
    file: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.yaml").write_text("anwser: one\n")
    text = problems(file, authz(Path("bad.yaml")) + "log: {level: loud}\n")
    assert "log.level" in text
    assert f"{tmp_path / 'bad.yaml'}:1: anwser: unknown key" in text


def test_one_sidecar_that_cannot_be_built_does_not_hide_another(file: Path) -> None:
    def refuse(_settings: Any, _dependencies: Dependencies) -> Sidecar:
        raise ConfigError.of("limits.yaml", "is bad")

    file.write_text(authz(Path("none.yaml")) + "ratelimit: {listen: ['unix:/r'], limits: [l]}\n")
    reading = read_settings(file, {})
    with pytest.raises(ConfigError) as caught:
        assemble(reading, "all", {**BUILDERS, "ratelimit": refuse})
    assert [problem.file.rpartition("/")[2] for problem in caught.value.problems] == [
        "sidecars.yaml",  # where the file that is not there is named
        "limits.yaml",
    ]


def test_the_redis_client_is_shared_and_there_only_where_it_is_configured(file: Path) -> None:
    file.write_text(authz(Path("good.yaml")))
    assert assemble(read_settings(file, {}), "all", BUILDERS).dependencies.redis is None
    reading = read_settings(file, {"SIDECARS_REDIS__URL": "redis://127.0.0.1:1/0"})
    assert assemble(reading, "all", BUILDERS).dependencies.redis is not None
