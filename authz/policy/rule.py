"""A rule in service: whom it admits, and what is answered when it decides."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from authz.policy.conditions.condition import Condition
from authz.policy.templates import ValueTemplate
from authz.policy.types.paths import EXACT, PathMatching
from authz.policy.types.pattern import HostPattern, Template
from authz.request.identity import ANONYMOUS, Identity
from authz.request.path import PathAnomaly
from authz.request.request import Request


class Outcome(StrEnum):
    """The value of `outcome` in metrics, metadata and logs."""

    ALLOW = "allow"
    DENY = "deny"
    ERROR = "error"
    """Neither: the question could not be answered, which Envoy is told apart from a denial."""
    PREFLIGHT = "preflight"
    """Nothing was decided: a browser asked which scripts may ask, and has its answer (CORS)."""


@dataclass(frozen=True, slots=True, eq=False)
class Cors:
    """What scripts of other origins are told."""

    origins: frozenset[str]
    allow_headers: str
    expose_headers: str
    credentials: bool
    max_age_seconds: int


@dataclass(frozen=True, slots=True, eq=False)
class Mutations:
    """What goes along with an answer."""

    identity_headers: tuple[tuple[str, ValueTemplate], ...] = ()
    """What the upstream is told of the caller."""
    response_headers: tuple[tuple[str, ValueTemplate], ...] = ()
    """What is added to the response for the client."""
    query_set: tuple[tuple[str, ValueTemplate], ...] = ()
    query_remove: tuple[str, ...] = ()
    strip_cookies: frozenset[str] = frozenset()
    """Cookies that are taken out of the upstream request."""
    cors: Cors | None = None


NO_EXTRAS: Final = Mutations()


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """An answer, apart from who asks: made once when the policy is compiled, and shared."""

    outcome: Outcome
    reason: str
    status: int
    """The HTTP status of the answer; 200 when the request goes on."""
    rule: str = ""
    """The rule that decided, or whose demands were not met; empty when it was none."""
    scope: str = ""
    """The scopes that would have been enough (RFC 6750 section 3)."""
    mutations: Mutations = NO_EXTRAS
    detail: str = ""
    """The sentence for the client that the rule itself has; empty: the usual one."""
    retry_after_seconds: int = 0
    """When the client may come back; 0: what is usual for the status."""


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """A compiled rule. Which hosts, methods and paths it covers is the knowledge of the index."""

    name: str
    order: int
    """Its place in the policy: of several rules that would decide alike, the first is named."""
    source: str
    """Where it is written, as `file:line`."""
    verdict: Verdict
    """What is answered when it decides."""
    callers: tuple[tuple[Condition, ...], ...]
    """Descriptions of callers, of which any must be true in every condition; none at all: anyone."""
    accepts: PathAnomaly
    """What it tolerates in a path."""
    shadow: bool
    requests: tuple[Condition, ...] = ()
    """What must be so of the request, all of it, for the rule to speak at all."""
    demands: tuple[Condition, ...] = ()
    """What must be so of the caller, all of it, beside `callers`."""
    templates: tuple[Template, ...] = field(default=(), repr=False)
    hosts: tuple[HostPattern, ...] = field(default=(), repr=False)
    methods: tuple[str, ...] | None = None
    """Of `hosts`, `methods` (None: every one) and `templates` the index knows; these are for explanations."""
    matching: PathMatching = EXACT
    """For a deny rule: how it is compared with paths."""
    identifies: bool = False
    """Whether it identifies the caller although it allows anyone."""
    owner: str = ""
    ticket: str = ""

    @property
    def open(self) -> bool:
        """Whether it decides without knowing who asks."""
        return not self.callers and not self.demands

    @property
    def allows(self) -> bool:
        """Whether it allows (else it denies)."""
        return self.verdict.outcome is Outcome.ALLOW

    def covers(self, request: Request, now: float) -> bool:
        """Whether the request is one that the rule speaks of. What cannot be told denies, never allows."""
        for condition in self.requests:
            held = condition.test(ANONYMOUS, request, now)
            if held is not True and (held is False or self.allows):
                return False
        return True

    def admits(self, identity: Identity, request: Request, now: float) -> bool:
        """Whether the rule speaks of this caller; what cannot be told, as above."""
        if self.demands and not self._all(self.demands, identity, request, now):
            return False
        if not self.callers:
            return True
        for conditions in self.callers:  # noqa: SIM110 - a generator costs as much as the rest
            if self._all(conditions, identity, request, now):
                return True
        return False

    def _all(
        self, conditions: tuple[Condition, ...], identity: Identity, request: Request, now: float
    ) -> bool:
        for condition in conditions:
            held = condition.test(identity, request, now)
            if held is not True and (held is False or self.allows):
                return False
        return True
