"""Field types and checks that the blocks of the `credentials:` configuration share."""

from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationInfo,
)

from authz.credentials.core.location import LocationConfig


def _from_the_policy_folder(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    return (folder / path) if folder and not path.is_absolute() else path


def _instant(value: Any) -> Any:
    """Read dates and times without an offset, which YAML allows, as UTC."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return value


def _not_any(audiences: tuple[str, ...]) -> tuple[str, ...]:
    if "any" in audiences:
        raise ValueError("`any` in a list is an audience of that name; to accept all write audiences: any")
    return audiences


NeighbourPath = Annotated[Path, AfterValidator(_from_the_policy_folder)]
"""A file, relative to the folder of the policy file (validation context `folder`)."""

Prefix = Annotated[str, Field(min_length=1, max_length=128)]
Instant = Annotated[datetime, BeforeValidator(_instant)]
Seconds = Annotated[float, Field(gt=0, le=366 * 86400, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
ClaimPath = Annotated[
    tuple[Name, ...],
    Field(min_length=1),
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]
ClaimNames = Annotated[
    tuple[Name, ...],
    Field(min_length=1, max_length=8),
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]
"""One claim, or several: the first that has a value counts."""
Audiences = Literal["any"] | Annotated[tuple[Name, ...], Field(min_length=1), AfterValidator(_not_any)]
Locations = Annotated[tuple[LocationConfig, ...], Field(min_length=1)]


def refuse_repeated(what: str, names: Iterable[str]) -> None:
    """Raise ValueError for a name that appears twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"duplicate {what} {name!r}")
        seen.add(name)


def refuse_without_effect(block: BaseModel, names: Iterable[str], where: str) -> None:
    """Raise ValueError for a setting that is given but has no effect there."""
    for name in names:
        if name in block.model_fields_set:
            raise ValueError(f"{name} does nothing {where}")


def looks_like(body: bytes) -> str:
    """Describes a body that is not JSON without quoting it, because its text may hold secrets."""
    if not body.strip():
        return "empty"
    if body.lstrip().startswith(b"<"):
        return "HTML or XML"
    if body.lstrip().startswith(b"eyJ"):
        return "a JWT"
    if body.startswith(b"\xef\xbb\xbf"):
        return "text with a byte order mark"
    return f"{len(body)} bytes of something else"
