"""Folders for sockets go with their process; those of killed ones go at a later start."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common.socket_folder import LOCK, SocketFolder
from tests.support.console import Suite
from tests.support.processes import children, has_ended

HOLDER = """
import sys, time
from common.socket_folder import SocketFolder
print(SocketFolder(sys.argv[1], "console-").path, flush=True)
time.sleep(600)
"""


def test_a_folder_is_private_and_goes_with_its_sockets(tmp_path: Path) -> None:
    folder = SocketFolder(str(tmp_path))
    assert folder.path.stat().st_mode & 0o777 == 0o700
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder.path / "admin"))
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_process_stays_until_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        left = Path(holder.stdout.readline().strip())
        SocketFolder(str(tmp_path)).remove()
        assert left.is_dir()
        holder.kill()
        holder.wait()
    SocketFolder(str(tmp_path)).remove()
    assert not left.exists()


def test_other_folders_stay(tmp_path: Path) -> None:
    """Those without a lock, that others may enter, or that lead elsewhere."""
    elsewhere, public, begun = (
        tmp_path / "elsewhere",
        tmp_path / "sidecars-public",
        tmp_path / "sidecars-begun",
    )
    for folder, mode in ((elsewhere, 0o700), (public, 0o755), (begun, 0o700)):
        folder.mkdir(mode)
        (folder / "kept").touch()
    for folder in (elsewhere, public):
        (folder / LOCK).touch()
    (tmp_path / "sidecars-link").symlink_to(elsewhere)
    (tmp_path / "sidecars-file").touch()
    before = set(tmp_path.rglob("*"))
    SocketFolder(str(tmp_path)).remove()
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_stays(tmp_path: Path) -> None:
    theirs = tmp_path / "sidecars-theirs"
    theirs.mkdir(0o700)
    (theirs / LOCK).touch()
    os.chown(theirs, 65534, 65534)
    SocketFolder(str(tmp_path)).remove()
    assert (theirs / LOCK).exists()


def test_the_next_supervisor_removes_the_folder_of_one_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "t"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    for number in range(2):
        (tmp_path / f"{number}").mkdir()
        with Suite(tmp_path / f"{number}", workers=2, authz=None, accesslog=None).running as running:
            running.wait_until_ready()
            [folder] = temporary.glob("sidecars-*")  # not that of the one before
            workers = children(running.process.pid)
            running.process.kill()
            running.process.wait()
        assert folder.exists()
        assert all(map(has_ended, workers))
