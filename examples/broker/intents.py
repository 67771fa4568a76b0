"""Writes the intent file of a service, after the build has accepted it together with all others."""

import fcntl
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import yaml
from instances import Wanted
from settings import Settings

BUILD_SECONDS: Final = 120.0
MAX_PROBLEM_CHARACTERS: Final = 2_000

_MARK: Final = "# Written by the service broker for the instance {}. Changes by hand are lost."


class RefusedError(Exception):
    """The build does not accept the change. The message is for the user."""


class Intents:
    """The folder of intent files, which one worker at a time changes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def apply(self, instance_id: str, service: str, wanted: Wanted | None) -> None:
        """Write the file of `service`, or delete it for None, and build. Raises RefusedError.

        Doing it twice is harmless. A change that is refused leaves the folder and the build unchanged. A file
        that the instance has not written is never changed.
        """
        with self._locked():
            file = self._settings.intents / "services" / f"{service}.yaml"
            mark = _MARK.format(instance_id)
            if file.exists() and not file.read_text(encoding="utf-8").startswith(f"{mark}\n"):
                if wanted is None:
                    return
                raise RefusedError(
                    f"services/{file.name} exists already, and this instance has not written it"
                )
            text = "" if wanted is None else f"{mark}\n{_content(wanted)}"
            with tempfile.TemporaryDirectory(prefix="broker-") as name:
                candidate = Path(name) / "intents"
                shutil.copytree(self._settings.intents, candidate)
                _write(candidate / "services" / file.name, text)
                self._build(candidate, Path(name) / "out")
            _write(file, text)
            self._build(self._settings.intents, self._settings.out)

    def _build(self, folder: Path, out: Path) -> None:
        command = [part.format(folder=folder, out=out) for part in self._settings.build]
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
        if done.returncode == 1:
            problems = (done.stdout + done.stderr).replace(f"{folder}/", "").strip()
            raise RefusedError(problems[:MAX_PROBLEM_CHARACTERS])
        done.check_returncode()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._settings.intents.with_suffix(".lock").open("w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _content(wanted: Wanted) -> str:
    file = {"owner": wanted.owner, "tier": wanted.plan, **wanted.parameters}
    text: str = yaml.safe_dump(file, sort_keys=False, allow_unicode=True)
    return text


def _write(file: Path, text: str) -> None:
    """Replace the file as a whole; without a text delete it."""
    if not text:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(exist_ok=True)
    new = file.with_name(f".{file.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(file)
