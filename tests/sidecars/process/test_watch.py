"""What counts as a changed file."""

import os
import time
from pathlib import Path

import pytest

from sidecars.process import watch
from sidecars.process.watch import FileBaseline, Snapshot, Watcher


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.yaml").write_text("one")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "b.yaml").write_text("one")
    return tmp_path


def test_an_unchanged_file_does_not_count_as_changed(folder: Path) -> None:
    watcher = Watcher()
    assert watcher.snapshot([folder]) == watcher.snapshot([folder])


def test_a_file_deep_in_a_folder_that_changes_is_a_change(folder: Path) -> None:
    watcher = Watcher()
    before = watcher.snapshot([folder])
    (folder / "below" / "b.yaml").write_text("two")
    assert watcher.snapshot([folder]) != before


def test_same_size_and_time_but_another_inode_is_looked_into(folder: Path) -> None:
    """`mv` of a file with the same timestamps, as rsync and configuration tools leave them."""
    watcher = Watcher()
    file = folder / "a.yaml"
    before = watcher.snapshot([file])
    status = file.stat()
    (folder / "new").write_text("two")
    os.utime(folder / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
    (folder / "new").rename(file)
    assert watcher.snapshot([file]) != before


def test_a_touched_file_with_the_same_content_is_not_a_change(folder: Path) -> None:
    watcher = Watcher()
    before = watcher.snapshot([folder])
    os.utime(folder / "a.yaml", (1, 1))
    assert watcher.snapshot([folder]) == before


def test_an_unchanged_file_is_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = Watcher()
    watcher.snapshot([folder])
    read: list[Path] = []
    monkeypatch.setattr(watch, "_digest", read.append)
    watcher.snapshot([folder])
    assert read == []


@pytest.mark.parametrize("name", ["c.yaml", "below/c.yaml"])
def test_a_new_file_is_a_change_and_so_is_one_that_goes(folder: Path, name: str) -> None:
    watcher = Watcher()
    before = watcher.snapshot([folder])
    (folder / name).write_text("new")
    after = watcher.snapshot([folder])
    (folder / name).unlink()
    assert before != after
    assert watcher.snapshot([folder]) == before


def test_hidden_files_and_folders_do_not_count(folder: Path) -> None:
    """..data of a mounted ConfigMap, and the swap files of editors."""
    watcher = Watcher()
    before = watcher.snapshot([folder])
    (folder / ".a.yaml.swp").write_text("x")
    (folder / "..2026").mkdir()
    (folder / "..2026" / "a.yaml").write_text("x")
    assert watcher.snapshot([folder]) == before


def test_a_swapped_folder_link_is_a_change_as_kubernetes_swaps_it(tmp_path: Path) -> None:
    for version in ("..v1", "..v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "a.yaml").write_text(version)
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    watcher = Watcher()
    of_folder, of_file = watcher.snapshot([tmp_path]), Watcher().snapshot([tmp_path / "a.yaml"])
    (tmp_path / "..new").symlink_to("..v2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert watcher.snapshot([tmp_path]) != of_folder
    assert Watcher().snapshot([tmp_path / "a.yaml"]) != of_file


def test_a_file_that_is_not_there_is_not_an_error_and_appears_later(tmp_path: Path) -> None:
    watcher = Watcher()
    before = watcher.snapshot([tmp_path / "later.yaml"])
    (tmp_path / "later.yaml").write_text("x")
    assert not before
    assert watcher.snapshot([tmp_path / "later.yaml"])


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "a" / "x.yaml").write_text("x")
    assert Watcher().snapshot([tmp_path])


def test_the_number_of_files_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MAX_FILES", 1)
    assert len(Watcher().snapshot([folder])) == 1


class TestBefore:
    """The settings name a file that names another one, which is known only once the first is read."""

    @pytest.fixture
    def named(self, folder: Path) -> Path:
        return folder / "a.yaml"

    @pytest.fixture
    def included(self, folder: Path) -> Path:
        return folder / "below" / "b.yaml"

    def look(self, *paths: Path) -> Snapshot:
        return Watcher().snapshot(paths)

    def later(self) -> float:
        return time.time() + 3600

    def test_where_nothing_changed_all_was_read(self, named: Path, included: Path) -> None:
        now = self.look(named, included)
        assert FileBaseline.read([named], self.later).as_read(now) == now

    def test_a_named_file_that_changed_was_not_read_as_it_is(self, named: Path) -> None:
        before = FileBaseline.read([named], self.later)
        named.write_text("two")
        now = self.look(named)
        assert before.as_read(now)[named] != now[named]

    def test_a_named_file_that_is_gone_was_read(self, named: Path) -> None:
        before = FileBaseline.read([named], self.later)
        named.unlink()
        assert named in before.as_read(self.look(named))

    def test_an_included_file_that_is_newer_may_not_have_been_read_as_it_is(
        self, named: Path, included: Path
    ) -> None:
        before = FileBaseline.read([named], time.time)
        included.write_text("two")
        assert included not in before.as_read(self.look(named, included))

    def test_an_included_file_behind_a_link_that_is_newer_may_not_have_been_read_as_it_is(
        self, folder: Path, named: Path
    ) -> None:
        """A mounted ConfigMap: all its files change as one link is swapped, each as old as it was."""
        (folder / "..v1").mkdir()
        (folder / "..v1" / "c.yaml").write_text("one")
        (folder / "c.yaml").symlink_to("..data/c.yaml")
        time.sleep(2 * watch.CLOCK_SECONDS)
        before = FileBaseline.read([named], time.time)
        (folder / "..data").symlink_to("..v1")
        now = self.look(named, folder / "c.yaml")
        assert len(now) == 2
        assert folder / "c.yaml" not in before.as_read(now)
