"""Pydantic models of a suite file."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from authz.policy.rule import Outcome
from authz.policy.types.names import AT_LEAST_ONE, Name, OneOrMany, PolicyBlock, Text
from authz.tools.examples import CallerExample, RequestExample

NOW: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
"""The time in a suite that does not set one: a Thursday. It is never the time of the run."""


def _with_zone(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(_with_zone)]
"""A time; UTC if it has no offset."""


def _expected(value: Any) -> Any:
    return {"outcome": value} if isinstance(value, str) else value


class ExpectConfig(PolicyBlock):
    """The expected result, of which only present keys are compared; `expect: deny` sets the outcome."""

    outcome: Outcome
    """Whether the request is allowed, denied or answered with an error."""
    status: int | None = None
    """The HTTP status that the client gets."""
    reason: Text | None = None
    """The reason in the decision record."""
    rule: str | None = None
    """The rule that decided, or whose conditions were not met; `""` for none."""
    headers: dict[str, str | None] = Field(default_factory=dict)
    """Headers added for the upstream; null for a header that is not added."""
    removed_headers: tuple[str, ...] = ()
    """Headers of the client that are removed from the upstream request."""
    response_headers: dict[str, str | None] = Field(default_factory=dict)
    """Headers added for the client; null for a header that is not added."""
    query_set: dict[str, str] = Field(default_factory=dict)
    """Query parameters that the upstream gets instead of the client's."""
    query_removed: tuple[str, ...] = ()
    """Query parameters that the upstream does not get."""
    body_contains: Text | None = None
    """A text that the body of a denial contains."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Dynamic metadata for later filters and the access log."""
    shadow: Outcome | None = None
    """The outcome with the shadow rules enforced, if it differs."""
    shadow_rule: str | None = None
    """The shadow rule that would have decided."""


Expect = Annotated[ExpectConfig, BeforeValidator(_expected)]
Requests = Annotated[tuple[Name | RequestExample, ...], AT_LEAST_ONE, OneOrMany]
Callers = Annotated[tuple[Name | CallerExample, ...], AT_LEAST_ONE, OneOrMany]


class CaseConfig(PolicyBlock):
    """A test: every request is sent by every caller, with the same expected result."""

    name: Name | None = None
    """Names the test in reports."""
    requests: Requests
    """One or several requests, by name or written out."""
    callers: Callers = ("anonymous",)
    """One or several callers, by name, written out, or `anonymous`."""
    expect: Expect
    """What the answer must be; a word alone is the outcome."""
    now: Moment | None = None
    """The time, if it differs from that of the suite."""


class SuiteFile(PolicyBlock):
    """A suite file."""

    policy: Annotated[tuple[Text, ...], AT_LEAST_ONE, OneOrMany] | None = None
    """Policy files and folders, relative to the folder of this file; for commands that name none."""
    now: Moment = NOW
    """What the clock says in every test that does not say otherwise."""
    trusted_hops: Annotated[int, Field(ge=0, le=16)] = 0
    """The number of trusted hops, as in the settings of authz."""
    requests: dict[Name, RequestExample] = Field(default_factory=dict)
    """Requests by name, for use in `tests`."""
    callers: dict[Name, CallerExample] = Field(default_factory=dict)
    """Callers by name, for use in `tests`."""
    tests: Annotated[tuple[CaseConfig, ...], AT_LEAST_ONE]
    """The tests: each runs every request with every caller."""


class CallersFile(PolicyBlock):
    """The callers of a file, which may be a suite; its other keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    callers: dict[Name, CallerExample]
    """Callers by name."""
