"""Which files of a folder are limit files, and what is said about the others."""

from pathlib import Path

import pytest

from common.configfile import ConfigError
from ratelimit.config import check_reload, load_limits
from ratelimit.files import SHOWN_NAMES, FolderFiles, limit_files
from ratelimit.rules import CompiledLimits, Options

ONE = "descriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: 1}}]"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of envoyproxy/ratelimit's goruntime, which loads each file below it, whatever its name."""
    for name in (
        "a.yaml",
        "b.yml",
        "noext",
        "x.conf",
        "x.json",
        ".dot.yaml",
        "sub/deep/c.yaml",
        ".git/config",
        "..data/k8s.yaml",
    ):
        file = tmp_path / "limits" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"domain: '{name}'\n{ONE}\n")
    (tmp_path / "limits" / "link").symlink_to(tmp_path / "limits" / "sub")
    return tmp_path / "limits"


def loaded(folder: Path, which: FolderFiles) -> tuple[set[str], list[str]]:
    limits = load_limits([folder], Options(folder_files=which))
    return set(limits.domains), [str(warning) for warning in limits.warnings]


def test_by_default_other_names_are_skipped_and_named(folder: Path) -> None:
    domains, [warning] = loaded(folder, FolderFiles.YAML)
    assert domains == {"a.yaml", "b.yml"}
    assert warning == (
        f"{folder}: skipped .dot.yaml, .git/, link/, noext, sub/, x.conf, x.json; "
        "only *.yaml and *.yml are loaded: rename it, or set folder_files: visible"
    )


def test_visible_is_what_runtime_ignoredotfiles_loads(folder: Path) -> None:
    domains, [warning] = loaded(folder, FolderFiles.VISIBLE)
    assert domains == {"a.yaml", "b.yml", "noext", "x.conf", "x.json", "sub/deep/c.yaml"}
    assert "skipped .dot.yaml, .git/, link/;" in warning


def test_all_is_what_they_load_by_default(folder: Path) -> None:
    domains, [warning] = loaded(folder, FolderFiles.ALL)
    assert domains == {
        "a.yaml",
        "b.yml",
        "noext",
        "x.conf",
        "x.json",
        ".dot.yaml",
        "sub/deep/c.yaml",
        ".git/config",
        "..data/k8s.yaml",
    }
    assert "skipped link/;" in warning


def test_a_configmap_is_mounted_without_a_warning(tmp_path: Path) -> None:
    (tmp_path / "..2026_11_29").mkdir()
    (tmp_path / "..2026_11_29" / "a.yaml").write_text(f"domain: a\n{ONE}")
    (tmp_path / "..data").symlink_to("..2026_11_29")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    for which in (FolderFiles.YAML, FolderFiles.VISIBLE):
        assert loaded(tmp_path, which) == ({"a"}, [])


@pytest.mark.parametrize("which", FolderFiles)
def test_a_folder_without_any_is_a_mistake(which: FolderFiles, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the folder holds no limit file"):
        limit_files(tmp_path, which)


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"domain: a\n{ONE}")
    for number in range(SHOWN_NAMES + 5):
        (tmp_path / f"{number}.txt").touch()
    _, [warning] = loaded(tmp_path, FolderFiles.YAML)
    assert " and 5 more; " in warning


def test_a_folder_with_very_many_entries_is_not_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratelimit.files.MAX_ENTRIES", 3)
    for number in range(4):
        (tmp_path / f"{number}.yaml").touch()
    with pytest.raises(ConfigError, match="more than 3 entries: is it the right one"):
        limit_files(tmp_path)


def test_the_first_bad_file_does_not_hide_the_problems_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("domain: [")
    (tmp_path / "b.yaml").write_bytes(b"\xff")
    (tmp_path / "c.yaml").write_text("domain: c\ndomain: c\ndescriptors: [{key: ''}]")
    (tmp_path / "d.yaml").write_text("domain: d\ndescriptors: [{key: k, rate_limit: {unit: never}}]")
    with pytest.raises(ConfigError) as caught:
        load_limits([tmp_path], Options())
    found = [f"{Path(problem.file).name}:{problem.key_path}" for problem in caught.value.problems]
    assert found == [
        "a.yaml:",
        "b.yaml:",
        "c.yaml:domain",
        "c.yaml:descriptors[0].key",
        "d.yaml:descriptors[0].rate_limit.unit",
    ]


class TestEmptyDomains:
    def limits(self, tmp_path: Path, **domains: str) -> CompiledLimits:
        for file in tmp_path.iterdir():
            file.unlink()
        for name, descriptors in domains.items():
            (tmp_path / f"{name}.yaml").write_text(f"domain: {name}\n{descriptors}\n")
        return load_limits([tmp_path], Options())

    @pytest.mark.parametrize("empty", ["", "descriptors:", "descriptors: []"])
    def test_a_half_written_file_is_refused_at_reload(self, empty: str, tmp_path: Path) -> None:
        before = self.limits(tmp_path, a=ONE, b=ONE)
        after = self.limits(tmp_path, a=empty, b=ONE)
        with pytest.raises(ConfigError, match=r"a\.yaml:.*domain 'a' has no descriptors"):
            check_reload(before, after)

    def test_a_new_domain_is_refused_likewise(self, tmp_path: Path) -> None:
        before = self.limits(tmp_path, a=ONE)
        with pytest.raises(ConfigError, match="domain 'b'"):
            check_reload(before, self.limits(tmp_path, a=ONE, b=""))

    def test_at_the_start_it_is_a_warning_and_later_reloads_pass(self, tmp_path: Path) -> None:
        """A domain for overrides alone has no descriptors."""
        before = self.limits(tmp_path, a="descriptors: []")
        assert [warning.key_path for warning in before.warnings] == ["descriptors"]
        check_reload(before, self.limits(tmp_path, a="descriptors: []", b=ONE))

    def test_a_domain_may_be_removed(self, tmp_path: Path) -> None:
        check_reload(self.limits(tmp_path, a=ONE, b=ONE), self.limits(tmp_path, a=ONE))

    def test_several_files_make_one_domain(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("domain: d")
        (tmp_path / "b.yaml").write_text(f"domain: d\n{ONE}")
        assert load_limits([tmp_path], Options(merge_domains=True)).warnings == ()
