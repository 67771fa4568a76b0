"""Loads the cases of suite files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from authz.policy.compile.load import policy_files
from authz.tools.examples import Caller, CallerExample, RequestExample
from authz.tools.suites.model import CaseConfig, ExpectConfig, SuiteFile
from common.configfile import ConfigError, Document, KeyPart, Problem, parse, read, validate

_Block = TypeVar("_Block", RequestExample, CallerExample)


@dataclass(frozen=True, slots=True)
class Case:
    """One request by one caller, and the expected result."""

    suite: str
    """The suite file."""
    line: int
    name: str
    """The name of the test, or one made of request and caller."""
    request_name: str
    caller_name: str
    request: RequestExample
    caller: Caller
    expect: ExpectConfig
    now: float
    trusted_hops: int

    @property
    def source(self) -> str:
        """Where it is written, as `file:line`."""
        return f"{self.suite}:{self.line}"


@dataclass(frozen=True, slots=True)
class Suite:
    """The cases of one suite file, and the policy that it names."""

    file: Path
    cases: tuple[Case, ...]
    policy: tuple[Path, ...]


def load_suites(paths: Sequence[Path]) -> list[Suite]:
    """Load the suites from these files, and from every YAML file below these folders.

    Raises ConfigError with every problem of every file.
    """
    suites = []
    problems: list[Problem] = []
    for path in policy_files(paths):
        try:
            suites.append(_suite(path))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return suites


def parse_suite(text: str, file: str = "<text>") -> Suite:
    """Return the suite in `text`, whose `policy` is ignored. Raises ConfigError with every problem."""
    return replace(_suite_of(parse(text, file), Path(file)), policy=())


def _suite(path: Path) -> Suite:
    return _suite_of(read(path), path)


def _suite_of(document: Document, path: Path) -> Suite:
    file = validate(document, SuiteFile)
    reader = _Reader(document, file)
    cases = tuple(
        case for position, config in enumerate(file.tests) for case in reader.cases(config, position)
    )
    if reader.problems:
        raise ConfigError(reader.problems)
    return Suite(path, cases, tuple(path.parent / name for name in file.policy or ()))


class _Reader:
    """Resolves names of requests and callers, and adds names that do not exist to `problems`."""

    def __init__(self, document: Document, file: SuiteFile) -> None:
        self._document = document
        self._file = file
        self.problems: list[Problem] = []

    def cases(self, config: CaseConfig, position: int) -> Iterator[Case]:
        where: tuple[KeyPart, ...] = ("tests", position)
        requests = [self._request(one, where) for one in config.requests]
        callers = [self._caller(one, where) for one in config.callers]
        now = self._file.now if config.now is None else config.now
        for request_name, request in requests:
            for caller_name, caller in callers:
                yield Case(
                    suite=self._document.file,
                    line=self._document.line(where),
                    name=config.name or f"{request_name} by {caller_name}",
                    request_name=request_name,
                    caller_name=caller_name,
                    request=request,
                    caller=caller,
                    expect=config.expect,
                    now=now.timestamp(),
                    trusted_hops=self._file.trusted_hops,
                )

    def _request(self, one: str | RequestExample, where: tuple[KeyPart, ...]) -> tuple[str, RequestExample]:
        if isinstance(one, RequestExample):
            return f"{one.method} {one.url or one.path or '/'}", one
        found = self._named(one, self._file.requests, "requests", where)
        return one, found or RequestExample()

    def _caller(self, one: str | CallerExample, where: tuple[KeyPart, ...]) -> tuple[str, Caller]:
        if isinstance(one, CallerExample):
            return one.subject or (f"refused: {one.refused}" if one.refused else one.kind.value), one
        if one == "anonymous":
            return one, "anonymous"
        return one, self._named(one, self._file.callers, "callers", where) or "anonymous"

    def _named(
        self, name: str, known: Mapping[str, _Block], kind: str, where: tuple[KeyPart, ...]
    ) -> _Block | None:
        if name in known:
            return known[name]
        close = get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        self.problems.append(
            self._document.problem((*where, kind), f"{name!r} does not exist under {kind}{hint}")
        )
        return None
