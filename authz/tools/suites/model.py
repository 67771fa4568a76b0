"""A suite file, as pydantic models: what may be written, and how."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from authz.policy.rule import Outcome
from authz.policy.types.names import AT_LEAST_ONE, Name, OneOrMany, PolicyBlock, Text
from authz.tools.examples import CallerExample, RequestExample

NOW: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
"""What the clock says in a suite that does not set it: a Thursday. Never the time of the run."""


def _with_zone(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(_with_zone)]
"""Without an offset it is meant in UTC."""


def _expected(value: Any) -> Any:
    return {"outcome": value} if isinstance(value, str) else value


class ExpectConfig(PolicyBlock):
    """What has to be answered. Only what stands here is compared; `expect: deny` is short for the outcome."""

    outcome: Outcome
    """Whether the request is allowed, denied or answered with an error."""
    status: int | None = None
    """The HTTP status that the client gets."""
    reason: Text | None = None
    """The reason in the decision record."""
    rule: str | None = None
    """The rule that decided, or whose demands were not met; `""`: none."""
    headers: dict[str, str | None] = Field(default_factory=dict)
    """What the upstream gets; null: it does not get that header from us."""
    removed_headers: tuple[str, ...] = ()
    """Headers of the client that do not go upstream."""
    response_headers: dict[str, str | None] = Field(default_factory=dict)
    """What the client gets; null: it does not get that header from us."""
    query_set: dict[str, str] = Field(default_factory=dict)
    """Query parameters that the upstream gets in place of the client's."""
    query_removed: tuple[str, ...] = ()
    """Query parameters that the upstream does not get."""
    body_contains: Text | None = None
    """Of a denial."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """What later filters and the access log learn."""
    shadow: Outcome | None = None
    """What the shadow rules would have answered, where that is another outcome."""
    shadow_rule: str | None = None
    """The shadow rule that would have decided."""


Expect = Annotated[ExpectConfig, BeforeValidator(_expected)]
Requests = Annotated[tuple[Name | RequestExample, ...], AT_LEAST_ONE, OneOrMany]
Callers = Annotated[tuple[Name | CallerExample, ...], AT_LEAST_ONE, OneOrMany]


class CaseConfig(PolicyBlock):
    """Every request by every caller, with one expectation."""

    name: Name | None = None
    """Names the test in reports."""
    requests: Requests
    """By name, or written out; one or several."""
    callers: Callers = ("anonymous",)
    """By name, written out, or `anonymous`."""
    expect: Expect
    """What the answer must be; a word alone is the outcome."""
    now: Moment | None = None
    """What the clock says, where it is not that of the suite."""


class SuiteFile(PolicyBlock):
    """A suite file."""

    policy: Annotated[tuple[Text, ...], AT_LEAST_ONE, OneOrMany] | None = None
    """Policy files and folders, from the folder of this file; where the command names none."""
    now: Moment = NOW
    """What the clock says in every test that does not say otherwise."""
    trusted_hops: Annotated[int, Field(ge=0, le=16)] = 0
    """As in the settings of authz."""
    requests: dict[Name, RequestExample] = Field(default_factory=dict)
    """Requests by name, for use in `tests`."""
    callers: dict[Name, CallerExample] = Field(default_factory=dict)
    """Callers by name, for use in `tests`."""
    tests: Annotated[tuple[CaseConfig, ...], AT_LEAST_ONE]
    """The tests: each runs every request with every caller."""


class CallersFile(PolicyBlock):
    """Of a file what counts where only callers are asked for. A suite will do."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    callers: dict[Name, CallerExample]
    """Callers by name."""
