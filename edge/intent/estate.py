"""From files to an estate: reads, completes and checks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from common.configfile import ConfigError
from edge.intent.check.exceptions import expired
from edge.intent.model import Estate, Service
from edge.intent.platform import Platform, platform_of
from edge.intent.resolve import Resolver
from edge.intent.sources import FileCache, Sources, read_folder, read_sources


@dataclass(slots=True)
class EstateReader:
    """Reads estates, and remembers files that did not change since the last time."""

    folder: Path = Path()
    """Where files that the platform names are looked for; also the start of each file name in problems."""
    _cache: FileCache = field(default_factory=FileCache)

    def read(self, texts: Mapping[str, str], today: date) -> Estate:
        """Return the estate in `texts`, by name relative to the folder: `services/checkout.yaml`.

        Raises ConfigError with every problem of every file.
        """
        sources = read_sources(texts, self._cache, self.folder)
        platform, problems = platform_of(sources.platform)
        problems += sources.problems
        estate = estate_of(sources, platform)
        problems += expired(sources, today)
        if problems:
            raise ConfigError([replace(one, file=str(self.folder / one.file)) for one in problems])
        return estate


def load_estate(folder: Path, today: date) -> Estate:
    """Return the estate in `folder`; exceptions that ended before `today` are problems.

    Raises ConfigError with every problem of every file.
    """
    return EstateReader(folder).read(read_folder(folder), today)


def estate_of(sources: Sources, platform: Platform) -> Estate:
    """Return what the files say together, completed by the platform."""
    resolver = Resolver(platform)
    services = [resolver.service(source) for source in sources.services]
    return Estate(
        domain=platform.content.domain or "",
        policy=platform.written("policy") or {},
        rules=platform.rules(),
        teams=platform.teams,
        services=tuple(sorted(services, key=_name)),
        revision=sources.revision,
    )


def _name(service: Service) -> str:
    return service.name
