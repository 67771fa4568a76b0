"""The blocks that service files and platform files share: who may, how much, what is logged, how good."""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field, model_validator

from accesslog.records.redact_rules import Action
from authz.policy.conditions.caller_conditions import Whos
from authz.policy.model import ConditionConfig
from authz.policy.types.names import AT_LEAST_ONE, Name, OneOrMany, PolicyBlock, Text
from edge.intent.words import CALENDAR_SECONDS, Count, Latency, LogField, Percent, Period, Share

MAX_LIMITS: Final = 16
"""The most limits of a route: each is a descriptor that Envoy sends with every request."""

Texts = Annotated[tuple[Text, ...], AT_LEAST_ONE]


class Per(StrEnum):
    """What has a count of its own."""

    SUBJECT = "subject"
    """Each authenticated caller."""
    CLIENT = "client"
    """Each client address."""
    ALL = "all"
    """All requests together."""


class AccessConfig(ConditionConfig):
    """Who may call: the words of the rule language. Conditions next to `allow` narrow it."""

    allow: Whos | None = None
    """Who is allowed: `anyone`, `authenticated`, or descriptions of callers, one of which matches."""
    deny: Whos | None = None
    """Who is denied all the same, written as for `allow`. It wins, and the conditions do not narrow it."""
    named: Annotated[tuple[Name, ...], AT_LEAST_ONE, OneOrMany] | None = Field(None, alias="if")
    """Names of conditions of the platform (`policy.conditions`) that must all hold."""

    @model_validator(mode="after")
    def _allows(self) -> "AccessConfig":
        if self.allow is None:
            raise ValueError(
                "say who is allowed: allow: anyone, allow: authenticated, or descriptions of callers"
            )
        return self


class RateConfig(PolicyBlock):
    """A number of requests in a period."""

    per: Per = Per.ALL
    """Who has a count of its own: each `subject`, each `client` address, or `all` requests together."""
    requests: Annotated[int, Field(ge=0, le=1_000_000_000)]
    """The requests allowed in each period."""
    period: Period = "1s"
    """A number and s, m, h, d or w, as in `30s`, or a calendar window: month, quarter or year."""
    burst: Count | None = None
    """The requests allowed at once after a pause. Default: `requests`."""

    @model_validator(mode="after")
    def _refills(self) -> "RateConfig":
        _check_burst(self.burst, self.period, self.requests)
        return self


def _check_burst(burst: int | None, period: str | None, requests: int | None) -> None:
    if burst is not None and (period in CALENDAR_SECONDS or requests == 0):
        raise ValueError("burst belongs to a limit that refills: not to one of 0, nor of a calendar window")


class LimitConfig(PolicyBlock):
    """How many requests pass: a number in a period, or a share of the limit of the service's tier."""

    per: Per = Per.ALL
    """Who has a count of its own: each `subject`, each `client` address, or `all` requests together."""
    requests: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = None
    """The requests allowed in each period."""
    period: Period | None = None
    """A number and s, m, h, d or w, as in `30s`, or a calendar window, as in `month`. Default: 1s."""
    share: Percent | None = None
    """Instead of `requests` and `period`: a part of the limit of the service's tier, as in `25%`."""
    burst: Count | None = None
    """The requests allowed at once after a pause. Default: `requests`."""
    shadow: bool = False
    """Whether the limit only counts, and refuses nothing."""

    @model_validator(mode="after")
    def _one_size(self) -> "LimitConfig":
        if (self.requests is None) == (self.share is None):
            raise ValueError("write either requests (with period), or share")
        if self.share is not None and (self.period is not None or self.burst is not None):
            raise ValueError("share has the period and burst of the tier: leave period and burst out")
        _check_burst(self.burst, self.period, self.requests)
        return self


class RedactConfig(PolicyBlock):
    """What becomes of values with some names: a name, or a regular expression (RE2) between slashes."""

    action: Action
    """drop: left out; mask: [redacted]; hash: their HMAC-SHA-256, so that equal values stay equal."""
    headers: Texts | None = None
    """Names of headers and trailers."""
    query_parameters: Texts | None = None
    """Names of parameters of queries."""
    cookies: Texts | None = None
    """Names of cookies."""
    metadata: Texts | None = None
    """Keys of metadata, tags and filter state, at any depth."""
    path_segments: Texts | None = None
    """Regular expressions, without slashes, for whole segments of paths."""

    @model_validator(mode="after")
    def _names_something(self) -> "RedactConfig":
        if self.model_fields_set <= {"action"}:
            raise ValueError(
                "name what to redact: headers, query_parameters, cookies, metadata, path_segments"
            )
        return self


class LogConfig(PolicyBlock):
    """What the access log has of ordinary requests. Errors, refusals and slow requests are always logged."""

    sample: Share | None = None
    """The part of ordinary requests that is logged, from 0 to 1."""
    fields: Annotated[tuple[LogField, ...], AT_LEAST_ONE] | None = None
    """The fields that a record has. Default: all."""
    redact: tuple[RedactConfig, ...] = ()
    """What is dropped, masked or hashed, in addition to what the suite and the platform redact."""


class ObjectivesConfig(PolicyBlock):
    """How good the service is meant to be."""

    availability: Annotated[float, Field(gt=0, lt=100, allow_inf_nan=False)] | None = None
    """The percentage of requests that are answered without a server error, as in 99.9."""
    latency: Latency | None = None
    """The time within which 99 % of requests are answered, as in `300ms` or `2s`."""
