"""Completes what services say: defaults, the overrides of the platform, and shares of a tier's limit."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from accesslog.records.redact_rules import RedactRule
from authz.policy.conditions.caller_conditions import Who, WhoConfig
from authz.request.identity import CredentialKind
from common.configfile import Document, KeyPart
from edge.intent.blocks import AccessConfig, LimitConfig, LogConfig, RedactConfig
from edge.intent.model import (
    UNSAID,
    Access,
    Decided,
    Layer,
    Limit,
    Logging,
    Objectives,
    Origin,
    Route,
    Service,
)
from edge.intent.platform import Platform
from edge.intent.platform_file import LogOverrides
from edge.intent.service_file import RouteConfig, ServiceFile
from edge.intent.sources import SourceFile

_ISSUED: Final = frozenset({CredentialKind.JWT, CredentialKind.SESSION, CredentialKind.INTROSPECTION})
"""The kinds of credential that have an issuer."""
_DENIED: Final = AccessConfig(allow=("authenticated",), deny=("anyone",))
"""What holds until a file says who may call; `check` reports that none does."""

DEFAULT_TIMEOUT: Final = "15s"
"""Envoy's own default, for routes about which no file says anything."""

Layered = Sequence[tuple[Any, Origin]]
"""The blocks that may say something, the first of which wins, each with its origin."""


class Resolver:
    """Completes services with what one platform says."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        defaults = platform.content.defaults
        default = platform.origin(Layer.DEFAULT, "defaults")
        overrides = platform.content.overrides
        self._default_log = (defaults.log, default.below("log"))
        self._default_objectives = (defaults.objectives, default.below("objectives"))
        over = platform.origin(Layer.OVERRIDE, "overrides")
        self._override_log = (overrides.log, over.below("log"))
        self._override_limits = tuple(
            _limit(config, None, over.below("limits", place)) for place, config in enumerate(overrides.limits)
        )

    def service(self, source: SourceFile[ServiceFile]) -> Service:
        """Return the service with all that holds for its routes."""
        content, document = source.content, source.document
        tier = self._platform.content.tiers.get(content.tier) if content.tier else None
        limit = None
        if tier is not None:
            origin = self._platform.origin(Layer.TIER, "tiers", content.tier or "")
            limit = Limit(tier.per, tier.requests, tier.period, tier.burst, shadow=False, origin=origin)
        team = self._platform.teams.get(content.owner)
        issuers = team.issuers if team is not None else None
        return Service(
            name=content.service,
            owner=content.owner,
            hosts=content.hosts,
            upstream=content.upstream,
            tier=content.tier or "",
            limit=limit,
            routes=tuple(
                self._route(
                    content, config, Origin(Layer.SERVICE, document, ("routes", position)), limit, issuers
                )
                for position, config in enumerate(content.routes)
                if position not in source.dropped
            ),
            exceptions=content.exceptions,
            description=content.description or "",
            dropped=len(source.dropped),
            origin=Origin(Layer.SERVICE, document, ("service",)),
        )

    def _route(
        self,
        service: ServiceFile,
        config: RouteConfig,
        origin: Origin,
        tier: Limit | None,
        issuers: tuple[str, ...] | None,
    ) -> Route:
        whole = Origin(Layer.SERVICE, origin.document)
        log = ((config.log, origin.below("log")), (service.log, whole.below("log")), self._default_log)
        objectives = (
            (config.objectives, origin.below("objectives")),
            (service.objectives, whole.below("objectives")),
            self._default_objectives,
        )
        return Route(
            id=config.id,
            name=f"{service.service}.{config.id}",
            methods=config.methods,
            paths=config.paths,
            access=self._access(config, origin, issuers),
            limits=(*self._limits(config, origin, tier), *self._override_limits),
            log=Logging(
                _first((self._override_log, *log), "sample", 1.0),
                self._fields(_first(log, "fields", None)),
                tuple(
                    rule for block, place in (self._override_log, *log) for rule in redact_rules(block, place)
                ),
            ),
            objectives=Objectives(
                _first(objectives, "availability", None), _first(objectives, "latency", None)
            ),
            timeout=self._timeout(service, config, origin),
            origin=origin,
        )

    def _timeout(self, service: ServiceFile, config: RouteConfig, origin: Origin) -> Decided[str]:
        whole = Origin(Layer.SERVICE, origin.document)
        default = self._platform.origin(Layer.DEFAULT, "defaults")
        layered = ((config, origin), (service, whole), (self._platform.content.defaults, default))
        return _first(layered, "timeout", DEFAULT_TIMEOUT)

    def _fields(self, chosen: Decided[tuple[str, ...] | None]) -> Decided[tuple[str, ...] | None]:
        """Return the fields with those that the platform wants in each record."""
        wanted = self._platform.content.overrides.log.fields
        if wanted is None or chosen.value is None:
            return chosen
        return Decided(tuple(dict.fromkeys((*chosen.value, *wanted))), chosen.origin)

    def _access(self, config: RouteConfig, origin: Origin, issuers: tuple[str, ...] | None) -> Access:
        default = self._platform.content.defaults.who
        if config.who is not None:
            said, place = config.who, origin.below("who")
        elif default is not None:
            said, place = default, self._platform.origin(Layer.DEFAULT, "defaults", "who")
        else:
            return Access(("authenticated",), ("anyone",), _DENIED, _NO_ACCESS, UNSAID)
        allow, written = said.allow or (), _at(place.document, place.path)
        if issuers is not None and "anyone" not in allow:
            allow = tuple(_narrowed(who, issuers) for who in allow)
            written = {**written, "allow": [_written(who) for who in allow]}
        return Access(allow, said.deny, said, written, place)

    def _limits(self, config: RouteConfig, origin: Origin, tier: Limit | None) -> Iterator[Limit]:
        if config.limits is not None:
            layered = ((one, origin.below("limits", place)) for place, one in enumerate(config.limits))
        else:
            default = self._platform.origin(Layer.DEFAULT, "defaults")
            limits = self._platform.content.defaults.limits or ()
            layered = ((one, default.below("limits", place)) for place, one in enumerate(limits))
        for one, place in layered:
            yield _limit(one, tier, place)


_NO_ACCESS: Final[Mapping[str, Any]] = {"allow": "authenticated", "deny": "anyone"}


def _limit(config: LimitConfig, tier: Limit | None, origin: Origin) -> Limit:
    """Return the limit; a share of the tier's is rounded up. Without a tier it is 0: `check` reports that."""
    if config.requests is not None:
        period = config.period or "1s"
        return Limit(config.per, config.requests, period, config.burst, config.shadow, origin)
    share = config.share or 0.0
    if tier is None:
        return Limit(config.per, 0, "1s", None, config.shadow, origin, share)
    burst = None if tier.burst is None else _part(tier.burst, share)
    requests = _part(tier.requests, share)
    return Limit(config.per, requests, tier.period, burst, config.shadow, origin, share)


def _part(whole: int, percent: float) -> int:
    """Return so many percent of `whole`, rounded up. Exact: 29 % of 100 is 29, which floats miss."""
    parts = round(percent * 10_000)
    return -(-whole * parts // 1_000_000)


def _narrowed(who: Who, issuers: tuple[str, ...]) -> Who:
    """Return `who` with the issuers of the team, unless it names its own or cannot have one."""
    if not isinstance(who, WhoConfig):
        return WhoConfig(issuers=issuers)
    if who.issuers is not None or (who.kinds is not None and _ISSUED.isdisjoint(who.kinds)):
        return who
    return who.model_copy(update={"issuers": issuers})


def _written(who: Who) -> Any:
    if not isinstance(who, WhoConfig):
        return who
    return who.model_dump(mode="json", by_alias=True, exclude_unset=True)


def redact_rules(block: LogConfig | LogOverrides | None, origin: Origin) -> Iterator[Decided[RedactRule]]:
    """Yield the redaction rules of a block of the log, which is at `origin`."""
    rules: Sequence[RedactConfig] = block.redact if block is not None else ()
    for place, config in enumerate(rules):
        rule = RedactRule(**config.model_dump(exclude_none=True))
        yield Decided(rule, origin.below("redact", place))


def _first(layered: Layered, key: str, otherwise: Any) -> Decided[Any]:
    """Return the value of `key` in the first block that has one."""
    for block, origin in layered:
        value = getattr(block, key, None)
        if value is not None:
            return Decided(value, origin.below(key))
    return Decided(otherwise, UNSAID)


def _at(document: Document | None, path: Sequence[KeyPart]) -> Mapping[str, Any]:
    data: Any = document.data if document is not None else {}
    for part in path:
        data = data[part]
    found: Mapping[str, Any] = data
    return found
