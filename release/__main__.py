"""Builds, tries and signs a release: `python -m release --key ~/.ssh/release`. See docs/releasing.md."""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from release.artefacts import Artefacts, BuildError, build, write_checksums
from release.dependencies import FEATURES, PROJECT, ROOT, UnknownLicenceError, dependencies
from release.installed import Environment, TrialError, bill_of_materials, try_out
from release.notes import NotesError, release_notes
from release.signing import SignatureError, sign

FAILURES = (BuildError, NotesError, SignatureError, TrialError, UnknownLicenceError)


def main(arguments: Sequence[str]) -> int:
    """Run the steps of a release. Returns the exit code."""
    parser = argparse.ArgumentParser("python -m release", description=__doc__)
    parser.add_argument("--commit", default="HEAD", help="what is built; default: HEAD")
    parser.add_argument(
        "--into", type=Path, default=ROOT / "dist", help="an empty or new folder; default: dist"
    )
    parser.add_argument(
        "--key", type=Path, help="the SSH key that signs SHA256SUMS; without it nothing is signed"
    )
    parser.add_argument(
        "--build-only", action="store_true", help="the sdist and the wheel alone; needs no network"
    )
    chosen = parser.parse_args(arguments)
    folder: Path = chosen.into
    if folder.exists() and any(folder.iterdir()):
        print(f"{folder} is not empty", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory() as work:
            artefacts = build(ROOT, chosen.commit, folder, Path(work))
            print(f"built {artefacts.sdist.name} and {artefacts.wheel.name}")
            if not chosen.build_only:
                _finish(artefacts, folder, Path(work), chosen.key)
    except FAILURES as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _finish(artefacts: Artefacts, folder: Path, work: Path, key: Path | None) -> None:
    version = artefacts.wheel.name.split("-")[1]
    _check_tree(version)
    forbidden = [f"{one.name} ({one.licence})" for one in dependencies() if not one.allowed]
    if forbidden:
        raise BuildError(f"licences that release/dependencies.py does not allow: {', '.join(forbidden)}")
    notes = folder / "RELEASE_NOTES.md"
    notes.write_text(
        release_notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version), encoding="utf-8"
    )
    environment = Environment(work / "environment")
    environment.install(f"{PROJECT['name']}[{','.join(FEATURES)}]=={version}", folder)
    for line in try_out(environment, version, work):
        print(line)
    materials = folder / f"{artefacts.wheel.name.removesuffix('-py3-none-any.whl')}.cdx.json"
    materials.write_text(bill_of_materials(environment), encoding="utf-8")
    sums = write_checksums([artefacts.sdist, artefacts.wheel, materials, notes], folder)
    print(f"wrote {notes.name}, {materials.name} and {sums.name}")
    print(f"signed: {sign(sums, key).name}" if key else "not signed: give --key")


def _check_tree(version: str) -> None:
    """Raise BuildError unless the files that are read here are those of the commit with this version."""
    if version != PROJECT["version"]:
        raise BuildError(f"the commit has version {version}, this tree {PROJECT['version']}: check it out")
    changed = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    if changed:
        raise BuildError(f"the tree differs from the commit:\n{changed.rstrip()}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
