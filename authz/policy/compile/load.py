"""Reads policy files and folders."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from authz.credentials import CredentialsConfig
from authz.policy.compile.compile import Policy, compile_policy
from authz.policy.compile.contents import Contents, contents_of
from authz.policy.source import Source, source_of
from common.background import background_work, freeze_gc, release
from common.configfile import Breathe, ConfigError, Problem, no_breaks, parse, read

LARGE_POLICY_RULES: Final = 1_000
"""From this size on, garbage collection of a policy would take tens of milliseconds."""

SUFFIXES: Final = frozenset({".yaml", ".yml"})


def load_policy(paths: Sequence[Path], yield_gil: Breathe = no_breaks) -> Policy:
    """Load the policy from these files, from every YAML file below these folders, and from all they include.

    Takes 0.1 ms per rule; in a thread of a process with an event loop, pass `GilYielder().yield_gil`.
    Raises ConfigError with every problem of every file.
    """
    with background_work():
        reading = _Reading(yield_gil)
        reading.read(paths)
        files: list[Source] = reading.files
        policy = compile_policy(files, yield_gil, reading.problems, complete=reading.complete)
        names = tuple(Path(source.document.file) for source in files)
        _let_go(files, yield_gil)
        if len(policy.rules) >= LARGE_POLICY_RULES:
            freeze_gc()
        return replace(policy, files=names)


def load_with_contents(paths: Sequence[Path]) -> tuple[Policy, Contents]:
    """Load the policy and the content of its files, for a diff. Raises ConfigError like `load_policy`."""
    reading = _Reading(no_breaks)
    reading.read(paths)
    policy = compile_policy(reading.files, found=reading.problems, complete=reading.complete)
    return policy, contents_of(reading.files)


def load_credentials(
    paths: Sequence[Path], yield_gil: Breathe = no_breaks
) -> tuple[list[CredentialsConfig], list[Path]]:
    """Return the `credentials:` blocks in the files that `load_policy` would read, and the files.

    No rule is compiled. Raises ConfigError.
    """
    with background_work():
        reading = _Reading(yield_gil)
        reading.read(paths)
        if reading.problems:
            raise ConfigError(reading.problems)
        files: list[Source] = reading.files
        blocks = [source.file.credentials for source in files]
        names = [Path(source.document.file) for source in files]
        _let_go(files, yield_gil)
        return [one for one in blocks if one is not None], names


def _let_go(files: list[Source], yield_gil: Breathe) -> None:
    """Free what was read piece by piece, so as not to delay a loop. Empties `files`."""
    for document in [source.document for source in files]:
        document.let_go(yield_gil)
    release(files, yield_gil)


class _Reading:
    """Reads files and everything they include, and continues after errors to find them all."""

    def __init__(self, yield_gil: Breathe) -> None:
        self._yield_gil = yield_gil
        self._known: set[Path] = set()
        self._waiting: dict[Path, None] = {}
        self.files: list[Source] = []
        self.problems: list[Problem] = []
        self.complete = True
        """Whether `files` has every file of the policy, at least in part."""

    def read(self, paths: Sequence[Path]) -> None:
        """Read these files and folders, and add to `files` and `problems`."""
        for path in paths:
            try:
                self._want(policy_files([path]))
            except ConfigError as error:
                self._miss(error.problems)
        while self._waiting:
            path = next(iter(self._waiting))
            del self._waiting[path]
            repeated: list[Problem] = []
            try:
                document = read(path, self._yield_gil, repeated)
            except ConfigError as error:
                self._miss(error.problems)
                continue
            if repeated:
                # The value of the first of two equal keys was not read.
                self._miss(repeated)
            source, problems = source_of(document, {"folder": path.parent, "breathe": self._yield_gil})
            self.files.append(source)
            self.problems += problems
            self.complete = self.complete and source.amended.isdisjoint({(), ("include",)})
            self._include(source, path.parent)

    def _include(self, source: Source, folder: Path) -> None:
        for place, name in enumerate(source.file.include or ()):
            try:
                self._want(policy_files([folder / name]))
            except ConfigError as error:
                keys = ("include", place) if isinstance(source.keys["include"], list) else ("include",)
                self._miss([source.document.problem(keys, f"{name}: {error.problems[0].message}")])

    def _want(self, files: Sequence[Path]) -> None:
        """Queue files to be read; a file that is named twice or includes itself is read once."""
        new = [one for one in files if one.resolve() not in self._known]
        self._known.update(one.resolve() for one in new)
        self._waiting.update(dict.fromkeys(new))

    def _miss(self, problems: Sequence[Problem]) -> None:
        self.problems += problems
        self.complete = False


def parse_policy(text: str, file: str = "<text>") -> Policy:
    """Compile the policy in `text`, which may not use `include`. Raises ConfigError with every problem."""
    document = parse(text, file)
    source, problems = source_of(document)
    includes = "include" in source.keys
    if includes and ("include",) not in source.amended:
        message = "include is not available here: the text does not come from a file in a folder"
        problems.append(document.problem(("include",), message))
    complete = not includes and () not in source.amended
    return compile_policy([source], found=problems, complete=complete)


def policy_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files that `paths` name, each once; folders are searched in alphabetical order.

    Hidden names are skipped, because Kubernetes keeps the versions of a mounted folder in `..data`.
    Raises ConfigError for a path that does not exist and for a folder without a policy.
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
