"""From files to an estate: reads, completes and checks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from operator import attrgetter
from pathlib import Path
from typing import Final

from common.background import background_work, freeze_gc
from common.configfile import ConfigError, Problem
from edge.intent.check.check import problems_between, problems_of_service
from edge.intent.check.overlaps import Holding, holding_of
from edge.intent.check.platform import incomplete
from edge.intent.check.spelling import Spelling
from edge.intent.model import DenyRule, Estate, Service
from edge.intent.platform import Platform, platform_of
from edge.intent.platform_file import PlatformFile
from edge.intent.resolve import Resolver
from edge.intent.service_file import ServiceFile
from edge.intent.sources import FileCache, SourceFile, read_folder, read_sources

LARGE_ESTATE_ROUTES: Final = 1_000
"""From this size on, garbage collections would take most of the time of a check."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """A service file, completed and checked."""

    source: SourceFile[ServiceFile]
    service: Service
    holding: Holding
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Ground:
    """What each service is judged by: what follows from it is known as long as it stays the same."""

    sources: tuple[SourceFile[PlatformFile], ...]
    today: date
    platform: Platform
    resolver: Resolver
    rules: tuple[DenyRule, ...]
    problems: tuple[Problem, ...]

    @classmethod
    def of(cls, sources: tuple[SourceFile[PlatformFile], ...], today: date) -> "_Ground":
        platform, problems = platform_of(sources)
        rules = platform.rules()
        spelling = Spelling.of(platform.content.policy.paths)
        problems += incomplete(platform, rules, spelling)
        return cls(sources, today, platform, Resolver(platform), rules, tuple(problems))


@dataclass(slots=True)
class EstateReader:
    """Reads estates, and remembers the work on files that did not change since the last time."""

    folder: Path = Path()
    """Where files that the platform names are looked for; also the start of each file name in problems."""
    _files: FileCache = field(default_factory=FileCache)
    _ground: _Ground | None = None
    _judged: dict[str, _Judged] = field(default_factory=dict)

    def read(self, texts: Mapping[str, str], today: date) -> Estate:
        """Return the estate in `texts`, by name relative to the folder: `services/checkout.yaml`.

        Exceptions that ended before `today` are problems. Raises ConfigError with every problem of all files.
        """
        with background_work():
            return self._read(texts, today)

    def _read(self, texts: Mapping[str, str], today: date) -> Estate:
        sources = read_sources(texts, self._files, self.folder)
        if sources.platform_is_wrong:
            # What services say cannot be judged by half a platform.
            self._refuse(sources.problems)
        ground = self._ground
        if ground is None or ground.sources != sources.platform or ground.today != today:
            ground = self._ground = _Ground.of(sources.platform, today)
            self._judged = {}
        before = self._judged
        self._judged = {
            source.document.file: self._judge(source, ground, before) for source in sources.services
        }
        judged = self._judged.values()
        problems = [*sources.problems, *ground.problems, *(found for one in judged for found in one.problems)]
        spelling = Spelling.of(ground.platform.content.policy.paths)
        services = [one.service for one in judged]
        problems += problems_between(services, (one.holding for one in judged), spelling)
        if problems:
            self._refuse(problems)
        new = sum(
            len(one.service.routes) for file, one in self._judged.items() if before.get(file) is not one
        )
        if new >= LARGE_ESTATE_ROUTES:
            freeze_gc()
        return Estate(
            domain=ground.platform.content.domain or "",
            policy=ground.platform.written("policy") or {},
            envoy=ground.platform.content.envoy,
            rules=ground.rules,
            teams=ground.platform.teams,
            services=tuple(sorted(services, key=attrgetter("name"))),
            ceilings=ground.platform.content.ceilings,
            reserved=ground.platform.content.reserved,
            exception_rules=ground.platform.content.exceptions,
            revision=sources.revision,
        )

    @staticmethod
    def _judge(source: SourceFile[ServiceFile], ground: _Ground, before: Mapping[str, _Judged]) -> _Judged:
        known = before.get(source.document.file)
        if known is not None and known.source is source:
            return known
        service = ground.resolver.service(source)
        problems = tuple(problems_of_service(service, ground.platform, ground.rules, ground.today))
        return _Judged(source, service, holding_of(service), problems)

    def _refuse(self, problems: Iterable[Problem]) -> None:
        raise ConfigError([replace(one, file=str(self.folder / one.file)) for one in problems])


def load_estate(folder: Path, today: date) -> Estate:
    """Return the estate in `folder`; exceptions that ended before `today` are problems.

    Raises ConfigError with every problem of every file.
    """
    return EstateReader(folder).read(read_folder(folder), today)
