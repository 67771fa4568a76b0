"""Reads intent files: texts by name into validated models, each value with its line.

Files that did not change are not read again: `FileCache` knows them by the hash of their content.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from common.configfile import (
    ConfigError,
    Document,
    KeyPart,
    Problem,
    no_breaks,
    parse,
    problems_of,
    read_text,
)
from edge.intent.platform_file import PlatformFile
from edge.intent.service_file import ServiceFile

PLATFORM: Final = "platform"
SERVICES: Final = "services"
SUFFIXES: Final = frozenset({".yaml", ".yml"})

MAX_FILES: Final = 20_000
"""The most files of an estate: with more, a wrong folder was named."""

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class SourceFile(Generic[Model]):
    """A file that is valid, at least in part."""

    document: Document
    content: Model
    dropped: frozenset[KeyPart] = frozenset()
    """The positions of routes that have mistakes and are left out of `content`."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one text."""

    digest: bytes
    source: SourceFile[Any] | None
    problems: tuple[Problem, ...]


@dataclass(slots=True)
class FileCache:
    """Files that were read before, by name."""

    outcomes: dict[str, _Outcome] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sources:
    """The files of an estate, and what is wrong with each alone."""

    platform: tuple[SourceFile[PlatformFile], ...]
    services: tuple[SourceFile[ServiceFile], ...]
    problems: tuple[Problem, ...]
    platform_is_wrong: bool
    """Whether a file of the platform has problems."""
    revision: str


def read_folder(folder: Path) -> dict[str, str]:
    """Return the texts of `platform.yaml`, `platform/` and `services/`, by name relative to the folder.

    Raises ConfigError, also if the platform or every service is missing: what is built of half a folder would
    take the other half out of service.
    """
    texts: dict[str, str] = {}
    problems: list[Problem] = []
    for path in _files(folder):
        try:
            texts[path.relative_to(folder).as_posix()] = read_text(path)
        except ConfigError as error:
            problems += error.problems
    if not problems and not any(map(_is_platform, texts)):
        problems.append(Problem(str(folder), 0, "", "has neither platform.yaml nor YAML files in platform/"))
    if not problems and all(map(_is_platform, texts)):
        problems.append(Problem(str(folder), 0, "", "has no YAML file in services/"))
    if problems:
        raise ConfigError(problems)
    return texts


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError.of(folder, "is not a folder: name the folder that has platform.yaml and services/")
    found = [path for path in folder.iterdir() if path.stem == PLATFORM and path.suffix in SUFFIXES]
    found += [path for name in (PLATFORM, SERVICES) for path in _below(folder / name)]
    if len(found) > MAX_FILES:
        raise ConfigError.of(folder, f"the folder holds more than {MAX_FILES} files: is it the right one?")
    return sorted(path for path in found if path.is_file())


def _below(folder: Path) -> Iterator[Path]:
    """Yield the YAML files below `folder`, hidden ones excepted: Kubernetes keeps versions in `..data`."""
    if folder.is_dir():
        for path in folder.rglob("*"):
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if path.suffix in SUFFIXES and not hidden:
                yield path


def read_sources(texts: Mapping[str, str], cache: FileCache | None = None, folder: Path = Path()) -> Sources:
    """Return the files in `texts`, by name; `folder` is where the files that they name are looked for."""
    known = cache.outcomes if cache is not None else {}
    outcomes: dict[str, _Outcome] = {}
    digest = sha256()
    for name, text in sorted(texts.items()):
        content = text.encode(errors="surrogatepass")
        own = sha256(content).digest()
        digest.update(name.encode() + b"\0" + own)
        before = known.get(name)
        outcomes[name] = (
            before if before is not None and before.digest == own else _read(name, text, own, folder)
        )
    known.clear()
    known.update(outcomes)
    kept = [outcome.source for outcome in outcomes.values() if outcome.source is not None]
    return Sources(
        tuple(source for source in kept if isinstance(source.content, PlatformFile)),
        tuple(source for source in kept if isinstance(source.content, ServiceFile)),
        tuple(problem for outcome in outcomes.values() for problem in outcome.problems),
        any(outcome.problems for name, outcome in outcomes.items() if _is_platform(name)),
        digest.hexdigest()[:12],
    )


def _read(name: str, text: str, digest: bytes, folder: Path) -> _Outcome:
    problems: list[Problem] = []
    try:
        document = parse(text, name, repeated=problems)
    except ConfigError as error:
        return _Outcome(digest, None, error.problems)
    if document.data is None:
        problems.append(Problem(name, 0, "", "is empty"))
        return _Outcome(digest, None, tuple(problems))
    source = _platform(document, folder, problems) if _is_platform(name) else _service(document, problems)
    return _Outcome(digest, source, tuple(problems))


def _is_platform(name: str) -> bool:
    return name.partition("/")[0].partition(".")[0] == PLATFORM


def _platform(document: Document, folder: Path, problems: list[Problem]) -> SourceFile[PlatformFile] | None:
    context = {"folder": (folder / document.file).parent, "breathe": no_breaks}
    try:
        return SourceFile(document, PlatformFile.model_validate(document.data, context=context))
    except ValidationError as error:
        problems += problems_of(error, document, PlatformFile)
        return None


def _service(document: Document, problems: list[Problem]) -> SourceFile[ServiceFile] | None:
    """Return the file without the routes that have mistakes, so that the others are checked as well."""
    try:
        return SourceFile(document, ServiceFile.model_validate(document.data))
    except ValidationError as error:
        problems += problems_of(error, document, ServiceFile)
        wrong = [finding["loc"][:2] for finding in error.errors(include_url=False, include_input=False)]
    routes = document.data.get("routes") if isinstance(document.data, dict) else None
    if not isinstance(routes, list) or any(len(place) < 2 or place[0] != "routes" for place in wrong):
        return None
    return _without(document, routes, [place[1] for place in wrong], problems)


def _without(
    document: Document, routes: Sequence[Any], wrong: Sequence[KeyPart], problems: list[Problem]
) -> SourceFile[ServiceFile] | None:
    sound = [
        {"id": f"dropped-{position}", "paths": ["/"]} if position in wrong else route
        for position, route in enumerate(routes)
    ]
    try:
        content = ServiceFile.model_validate({**document.data, "routes": sound})
    except ValidationError as error:
        problems += (one for one in problems_of(error, document, ServiceFile) if one not in problems)
        return None
    return SourceFile(document, content, frozenset(wrong))
