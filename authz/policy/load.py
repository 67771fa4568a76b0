"""Reads policy files and folders."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from authz.policy.background import background_work, keep_from_collections
from authz.policy.compile import Policy, compile_policy
from authz.policy.model import PolicyFile
from configfile import Breathe, ConfigError, Document, Problem, no_breaks, parse, read, validate

LARGE_POLICY_RULES: Final = 1_000
"""From here on the garbage collector would take tens of milliseconds to look at a policy."""

SUFFIXES: Final = frozenset({".yaml", ".yml"})


def load_policy(paths: Sequence[Path], breathe: Breathe = no_breaks) -> Policy:
    """The policy in these files, in every YAML file in these folders and below, and in all they include.

    Takes 0.1 ms a rule; a thread that does it beside a loop takes breaks (`Breaks().breathe`).
    Raises ConfigError with every problem of every file.
    """
    with background_work():
        files = _read_all(paths, breathe)
        policy = compile_policy(files, breathe)
        names = tuple(Path(document.file) for document, _ in files)
        _let_go(files, breathe)
        if len(policy.rules) >= LARGE_POLICY_RULES:
            keep_from_collections()
        return replace(policy, files=names)


def _let_go(files: list[tuple[Document, PolicyFile]], breathe: Breathe) -> None:
    """Free what was read piece by piece: at once it would take 0.1 s, in which no other thread runs."""
    while files:
        document, file = files.pop()
        configs = list(file.rules)
        # The block never changes for anybody: nobody else has it.
        file.__dict__["rules"] = ()
        document.let_go(breathe)
        while configs:
            configs.pop()
            breathe()


def _read_all(paths: Sequence[Path], breathe: Breathe) -> list[tuple[Document, PolicyFile]]:
    problems: list[Problem] = []
    files: list[tuple[Document, PolicyFile]] = []
    waiting = dict.fromkeys(policy_files(paths))
    known = {path.resolve() for path in waiting}
    while waiting:
        path = next(iter(waiting))
        del waiting[path]
        try:
            document = read(path, breathe)
            file = validate(document, PolicyFile, {"folder": path.parent, "breathe": breathe})
        except ConfigError as error:
            problems += error.problems
            continue
        files.append((document, file))
        for place, name in enumerate(file.include or ()):
            # A file that is included twice, or includes itself, is read once.
            try:
                found = policy_files([path.parent / name])
            except ConfigError as error:
                keys = ("include", place) if isinstance(document.data["include"], list) else ("include",)
                problems.append(document.problem(keys, f"{name}: {error.problems[0].message}"))
                continue
            new = [one for one in found if one.resolve() not in known]
            known.update(one.resolve() for one in new)
            waiting.update(dict.fromkeys(new))
    if problems:
        raise ConfigError(problems)
    return files


def parse_policy(text: str, file: str = "<text>") -> Policy:
    """The policy in `text`, which includes nothing. Raises ConfigError with every problem."""
    document = parse(text, file)
    content = validate(document, PolicyFile)
    if content.include is not None:
        raise ConfigError(
            [document.problem(("include",), "text includes nothing: there is no folder to look in")]
        )
    return compile_policy([(document, content)])


def policy_files(paths: Sequence[Path]) -> list[Path]:
    """The files named by `paths`, each once, folders searched in the order of the alphabet.

    Hidden names are passed over: Kubernetes keeps the versions of a mounted folder in `..data`.
    Raises ConfigError for what does not exist, and for folders without a policy.
    """
    found: dict[Path, None] = {}
    problems: list[Problem] = []
    for path in paths:
        files = list(_yaml_below(path)) if path.is_dir() else [path]
        if not path.exists():
            problems.append(Problem(str(path), 0, "", "no such file or folder"))
        elif not files:
            problems.append(Problem(str(path), 0, "", "the folder holds no .yaml or .yml file"))
        found.update(dict.fromkeys(files))
    if problems:
        raise ConfigError(problems)
    return list(found)


def _yaml_below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in SUFFIXES and path.is_file() and not hidden:
            yield path
