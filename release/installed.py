"""Installs a wheel into an environment of its own, tries it there, and lists what it brought along."""

import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from release.dependencies import ROOT, licence_of


class TrialError(Exception):
    """An installed wheel does not work; the message has the command and its output."""


class Environment:
    """A virtual environment without pip: the pip of this interpreter installs into it."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self.python = folder / "bin" / "python"
        self.sidecars = folder / "bin" / "sidecars"

    def install(self, requirement: str, wheels: Path, constraints: Path = ROOT / "constraints.txt") -> None:
        """Install `requirement`, with what it needs from the registry. Raises TrialError.

        It is looked up by name in `wheels`, so that no path of this machine gets into its metadata.
        """
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check"]
        self.run(
            [*pip, "install", "--quiet", "--find-links", str(wheels), "-c", str(constraints), requirement]
        )

    def run(self, command: Sequence[str | Path], folder: Path | None = None) -> str:
        """Return what the command prints. Raises TrialError if it fails."""
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            text = (done.stderr or done.stdout).strip()
            raise TrialError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{text}")
        return done.stdout


def try_out(environment: Environment, version: str, folder: Path) -> list[str]:
    """Use the installed wheel as its users do. Returns a line for each trial; raises TrialError."""
    said = environment.run([environment.sidecars, "version"], folder).strip()
    if said != version:
        raise TrialError(f"`sidecars version` prints {said!r}, not {version!r}")
    example = str(ROOT / "examples" / "sidecars.yaml")
    checked = environment.run([environment.sidecars, "config", "check", "--offline", example], folder)
    demo = environment.run([environment.sidecars, "demo", "--once"], folder)
    return [f"version: {said}", f"config check: {checked.strip()}", f"demo: {demo.strip().splitlines()[-1]}"]


def bill_of_materials(environment: Environment) -> str:
    """Return a CycloneDX document (JSON) of the distributions in `environment`. Raises TrialError.

    cyclonedx-py writes and validates it. It has no time and no serial number, so the same lock gives the
    same bytes on machines with the same Python.
    """
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    project = ["--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "application"]
    materials = json.loads(
        environment.run([*command, *project, "--output-format", "JSON", environment.python])
    )
    for component in materials["components"]:
        # Where the metadata says it in words of its own, as protobuf's does.
        if not component.get("licenses"):
            component["licenses"] = [{"expression": licence_of(component["name"])}]
    return json.dumps(materials, indent=1, sort_keys=True) + "\n"
