"""A release: the present and the previous revision, and which edges serve which."""

import re
from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import Field, ValidationError

from common.configfile import Block, Spelled

MAX_WAVES: Final = 100

Text = Annotated[str, Field(min_length=1, max_length=256)]
Url = Annotated[
    str, Field(max_length=1024), Spelled(r"[A-Za-z0-9_-][A-Za-z0-9._/-]*", "bundles/edge-42.tar.gz")
]
"""A path below the folder of the release file: the signed file cannot lead an edge to another server."""

_WAVE: Final = re.compile(
    r"(?P<name>[^:=,]+):(?P<percent>[0-9]+(?:\.[0-9]+)?)%(?P<match>(?:,[^,=]+=[^,=]+)*)"
)


class ReleaseError(ValueError):
    """A release that may not be used, or a step that it does not allow; the message says why."""


class Target(Block):
    """A bundle that edges may serve."""

    revision: Text
    """The revision in its manifest."""
    digest: Annotated[str, Spelled(r"[0-9a-f]{64}", "64 hexadecimal digits")]
    """The SHA-256 of the archive."""
    url: Url
    """Where it is, relative to the release file."""


class Wave(Block):
    """A group of edges that changes to the new revision together."""

    name: Text
    percent: float = Field(ge=0, le=100)
    """The share of the edges that match, by a stable hash of their node ids."""
    match: dict[Text, Text] = Field({}, max_length=64)
    """Metadata that an edge must have; empty: every edge."""


class Gates(Block):
    """What must hold of the reports before the next wave. A gate that is absent is not checked."""

    min_nodes: int = Field(1, ge=0)
    """Edges that must have reported the new revision."""
    min_calls: int = Field(0, ge=0)
    """Calls that they must have answered."""
    max_error_share: float | None = Field(None, ge=0, le=1)
    """The greatest share of decisions that are errors, at edges with the new revision."""
    max_denied_rise: float | None = Field(None, ge=0, le=1)
    """How much greater the share of denials may be than at edges with the previous revision."""
    max_changed_share: float | None = Field(None, ge=0, le=1)
    """The greatest share of shadowed decisions that the new policy would have changed."""
    max_slower: float | None = Field(None, ge=1)
    """How many times the mean duration of a call may be that of edges with the previous revision."""


class Release(Block):
    """The content of a release file. `active` waves serve `current`, all other edges `previous`."""

    sequence: int = Field(ge=1, le=2**53 - 1)
    """Rises with each change of the file: edges refuse a lower one than they know."""
    current: Target
    previous: Target | None = None
    """What edges serve that are in none of the active waves. None: all serve `current`."""
    waves: tuple[Wave, ...] = Field((), max_length=MAX_WAVES)
    active: int = Field(0, ge=0, le=MAX_WAVES)
    """The number of waves that serve `current`, from the first. 0: it is judged in the shadow only."""
    held: str = Field("", max_length=1024)
    """Why the roll-out may not go on; empty while it may."""
    gates: Gates = Gates()
    log_head: str = Field("", max_length=64)
    """The hash of the last entry of the audit log, so that it cannot be cut short unnoticed."""

    @property
    def complete(self) -> bool:
        """Whether every edge serves `current`."""
        return self.previous is None or self.active >= len(self.waves)


def parse_gates(texts: Iterable[str]) -> Gates:
    """Return the gates `NAME=NUMBER`. Raises ReleaseError."""
    pairs = {name: value for name, _, value in (text.partition("=") for text in texts)}
    try:
        return Gates.model_validate(pairs)
    except ValidationError as error:
        name = error.errors(include_url=False)[0]["loc"][0]
        known = ", ".join(Gates.model_fields)
        raise ReleaseError(f"{name}={pairs.get(str(name), '')}: expected NAME=NUMBER of {known}") from None


def parse_wave(text: str) -> Wave:
    """Return the wave `NAME:PERCENT%[,KEY=VALUE...]`, as in `canary:5%,region=eu`. Raises ReleaseError."""
    found = _WAVE.fullmatch(text)
    if found is None or float(found["percent"]) > 100:
        raise ReleaseError(f"{text!r}: expected NAME:PERCENT%, as in canary:5% or eu:100%,region=eu")
    pairs = [pair.partition("=") for pair in found["match"].split(",") if pair]
    return Wave(
        name=found["name"], percent=float(found["percent"]), match={key: value for key, _, value in pairs}
    )
