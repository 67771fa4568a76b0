"""Puts the files of the platform together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from common.configfile import Document, KeyPart, Problem
from edge.intent.model import DenyRule, Layer, Origin, Team
from edge.intent.platform_file import PlatformFile, TeamConfig
from edge.intent.sources import SourceFile

_IN_SEVERAL_FILES: Final = "teams"


@dataclass(frozen=True, slots=True)
class Platform:
    """The whole platform: the content of its files as one, and where each key is written."""

    content: PlatformFile
    documents: Mapping[str, Document]
    """The document of each top-level key that is written."""
    teams: Mapping[str, Team]

    def origin(self, layer: Layer, *path: KeyPart) -> Origin:
        """Return the origin of what is written at `path`."""
        return Origin(layer, self.documents.get(str(path[0])), path)

    def problem(self, path: Sequence[KeyPart], message: str, file: str = "platform.yaml") -> Problem:
        """Return `message` as a problem at `path`; `file` is where the key is expected if it is missing."""
        document = self.documents.get(str(path[0]))
        return document.problem(path, message) if document is not None else Problem(file, 0, "", message)

    def written(self, *path: KeyPart) -> Any:
        """Return the data at `path` as the file has it; None if it is not there."""
        document = self.documents.get(str(path[0]))
        data = document.data if document is not None else None
        for part in path:
            try:
                data = data[part]  # type: ignore[index] # a key that is missing below
            except (KeyError, IndexError, TypeError):
                return None
        return data

    def origin_of_reserved(self, kind: str) -> str:
        """Return the place of the reserved `hosts` or `paths`."""
        return self.origin(Layer.OVERRIDE, "reserved", kind).place

    def rules(self) -> tuple[DenyRule, ...]:
        """Return the deny rules of the platform."""
        return tuple(
            DenyRule(
                config,
                self.written("overrides", "rules", position),
                self.origin(Layer.OVERRIDE, "overrides", "rules", position),
            )
            for position, config in enumerate(self.content.overrides.rules)
        )


def platform_of(sources: Iterable[SourceFile[PlatformFile]]) -> tuple[Platform, list[Problem]]:
    """Return the platform that the files describe together, and every key that several of them have."""
    documents: dict[str, Document] = {}
    values: dict[str, Any] = {}
    teams: dict[str, Team] = {}
    problems: list[Problem] = []
    for source in sources:
        for key in source.content.model_fields_set - {_IN_SEVERAL_FILES}:
            if key in documents:
                first = f"{documents[key].file}:{documents[key].line((key,))}"
                problems.append(source.document.problem((key,), f"is already in {first}; one file has it"))
                continue
            documents[key] = source.document
            values[key] = getattr(source.content, key)
        for name, config in source.content.teams.items():
            team = _team(name, config, source.document)
            if name in teams:
                message = f"the team is already in {teams[name].origin.place}; one file has it"
                problems.append(source.document.problem(team.origin.path, message))
            teams.setdefault(name, team)
    return Platform(PlatformFile.model_construct(None, **values), documents, teams), problems


def _team(name: str, config: TeamConfig, document: Document) -> Team:
    origin = Origin(Layer.OVERRIDE, document, (_IN_SEVERAL_FILES, name))
    return Team(name, config.owns, config.issuers, config.upstreams, origin)
