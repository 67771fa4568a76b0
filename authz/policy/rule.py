"""A compiled rule: which callers it admits, and the verdict when it decides."""

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
    """No decision was possible, for example because of an outage. Envoy distinguishes it from a denial."""
    PREFLIGHT = "preflight"
    """A CORS preflight was answered; nothing was decided about access."""


@dataclass(frozen=True, slots=True, eq=False)
class Cors:
    """The values of the CORS response headers for scripts of other origins."""

    origins: frozenset[str]
    allow_headers: str
    expose_headers: str
    credentials: bool
    max_age_seconds: int


@dataclass(frozen=True, slots=True, eq=False)
class Mutations:
    """Changes to the upstream request and to the response."""

    identity_headers: tuple[tuple[str, ValueTemplate], ...] = ()
    """Headers that describe the caller to the upstream."""
    response_headers: tuple[tuple[str, ValueTemplate], ...] = ()
    """Headers added to the response for the client."""
    query_set: tuple[tuple[str, ValueTemplate], ...] = ()
    query_remove: tuple[str, ...] = ()
    strip_cookies: frozenset[str] = frozenset()
    """Cookies removed from the upstream request."""
    cors: Cors | None = None


NO_EXTRAS: Final = Mutations()


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """The result of a decision without the caller: created when the policy is compiled, and shared."""

    outcome: Outcome
    reason: str
    status: int
    """The HTTP status of the response; 200 if the request is allowed."""
    rule: str = ""
    """The rule that decided, or whose conditions were not met; empty if there is none."""
    scope: str = ""
    """The scopes that would be sufficient (RFC 6750 section 3)."""
    mutations: Mutations = NO_EXTRAS
    detail: str = ""
    """The rule's own text for the client; empty for the default text."""
    retry_after_seconds: int = 0
    """Seconds until the client may retry; 0 for the default of the status."""


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """A compiled rule. The index knows which hosts, methods and paths it covers."""

    name: str
    order: int
    """Its position in the policy: of several rules with the same effect, the first is named."""
    source: str
    """Where it is written, as `file:line`."""
    verdict: Verdict
    """The verdict when it decides."""
    callers: tuple[tuple[Condition, ...], ...]
    """Descriptions of callers; all conditions of at least one must hold. Empty: anyone."""
    accepts: PathAnomaly
    """The anomalies it tolerates in a path."""
    shadow: bool
    requests: tuple[Condition, ...] = ()
    """Conditions on the request; all must hold for the rule to apply."""
    demands: tuple[Condition, ...] = ()
    """Conditions on the caller in addition to `callers`; all must hold."""
    templates: tuple[Template, ...] = field(default=(), repr=False)
    hosts: tuple[HostPattern, ...] = field(default=(), repr=False)
    methods: tuple[str, ...] | None = None
    """None: every method. `hosts`, `methods` and `templates` are for explanations; the index has its own."""
    matching: PathMatching = EXACT
    """How a deny rule compares paths."""
    identifies: bool = False
    """Whether it authenticates the caller if possible, although it allows anyone."""
    owner: str = ""
    ticket: str = ""

    @property
    def open(self) -> bool:
        """Whether it decides without knowing the caller."""
        return not self.callers and not self.demands

    @property
    def allows(self) -> bool:
        """Whether it is an allow rule; otherwise it is a deny rule."""
        return self.verdict.outcome is Outcome.ALLOW

    @property
    def judges_identity(self) -> bool:
        """Whether `admits` depends on the identity alone."""
        return all(
            condition.of_identity for conditions in (self.demands, *self.callers) for condition in conditions
        )

    def covers(self, request: Request, now: float) -> bool:
        """Whether the conditions on the request hold. Unknown counts as true for a deny rule only."""
        for condition in self.requests:
            held = condition.test(ANONYMOUS, request, now)
            if held is not True and (held is False or self.allows):
                return False
        return True

    def admits(self, identity: Identity, request: Request, now: float) -> bool:
        """Whether the conditions on the caller hold. Unknown counts as true for a deny rule only."""
        if self.demands and not self._all(self.demands, identity, request, now):
            return False
        if not self.callers:
            return True
        for conditions in self.callers:
            for condition in conditions:
                held = condition.test(identity, request, now)
                if held is not True and (held is False or self.allows):
                    break
            else:
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
