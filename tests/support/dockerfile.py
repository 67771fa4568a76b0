"""Runs the steps of deploy/Dockerfile without Docker: each stage is a folder, each RUN a chroot.

Only what that file uses: FROM, RUN, COPY, ARG, ENV, WORKDIR; the rest describes the image.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

DESCRIBES = {"LABEL", "USER", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
PIP = re.compile(
    r"(?:PIP_(?:INDEX_URL|EXTRA_INDEX_URL|TRUSTED_HOST|PROXY)|https?_proxy|HTTPS?_PROXY|no_proxy)="
)


@dataclass(slots=True)
class Stage:
    """A stage of the build, and what its instructions have set so far."""

    root: Path
    folder: str = "/"
    variables: dict[str, str] = field(default_factory=dict)
    described: dict[str, str] = field(default_factory=dict)
    copied: list[set[str]] = field(default_factory=list)
    """The files of each layer that COPY --from has made."""


def instructions(file: Path) -> Iterator[tuple[str, str]]:
    """Yield each instruction with its text, lines joined."""
    text = re.sub(r"^#.*\n", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word, rest.strip()


def build(file: Path, context: Path, debian: Path, work: Path) -> Stage:
    """Return the last stage. `debian` is the tree of the base image; every stage gets a copy. Needs root."""
    stages: dict[str, Stage] = {}
    stage = Stage(debian)
    for word, rest in instructions(file):
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            name = name or "final"
            before = stages.get(base)
            root = work / name
            subprocess.run(
                ["cp", "-a", "--reflink=auto", before.root if before else debian, root], check=True
            )
            stage = Stage(root, before.folder if before else "/", dict(before.variables) if before else {})
            stages[name] = stage
        elif word == "ARG":
            name, _, value = rest.partition("=")
            stage.variables.setdefault(name, value)
        elif word == "ENV":
            stage.variables |= dict(pair.split("=", 1) for pair in rest.split())
        elif word == "WORKDIR":
            stage.folder = rest
            (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            _copy(stage, stages, context, rest.split())
        elif word == "RUN":
            inside(stage.root, ["sh", "-c", f"cd {stage.folder} && {rest}"], stage.variables)
        elif word in DESCRIBES:
            stage.described[word] = rest
        else:
            raise ValueError(f"{word}: an instruction that this does not run")
    return stage


def _copy(stage: Stage, stages: Mapping[str, Stage], context: Path, words: list[str]) -> None:
    *sources, target = words
    origin = context
    if sources[0].startswith("--from="):
        origin = stages[sources.pop(0).removeprefix("--from=")].root
    into = stage.root / (
        target.lstrip("/") if target.startswith("/") else f"{stage.folder.lstrip('/')}/{target}"
    )
    files: set[str] = set()
    for source in sources:
        found = origin / source.lstrip("/")
        place = into / found.name if target.endswith("/") else into
        ignored = shutil.ignore_patterns("__pycache__")
        if found.is_dir():
            shutil.copytree(
                found, place, symlinks=True, dirs_exist_ok=True, ignore=None if origin != context else ignored
            )
            files |= {str(path.relative_to(found)) for path in found.rglob("*") if not path.is_dir()}
        else:
            shutil.copy2(found, place)
    if origin != context:
        stage.copied.append(files)


def inside(root: Path, command: list[str], variables: Mapping[str, str]) -> str:
    """Run a command as root in a chroot with namespaces of its own, and return what it prints."""
    mounts = (
        'mount -t proc proc "$1/proc" && mount --bind /dev/null "$1/dev/null" '
        '&& root=$1 && shift && exec chroot "$root" "$@"'
    )
    here = dict(pair.split("=", 1) for pair in (f"{k}={v}" for k, v in os.environ.items()) if PIP.match(pair))
    if (root / "etc" / "machine.pem").exists():
        here["PIP_CERT"] = "/etc/machine.pem"
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", mounts, "sh", root, *command],
        env={**environment, **here, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            f"{command}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )
    return done.stdout


def words(text: str) -> list[str]:
    """Return the words of an instruction in its JSON form; options before it are left out."""
    found: list[str] = json.loads(text[text.index("[") :])
    return found
