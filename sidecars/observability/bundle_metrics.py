"""Metrics of the bundles that are pulled."""

from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge


class PullOutcome(StrEnum):
    """The outcome of one request for a bundle. Those after `UNCHANGED` leave the last good one in service."""

    ACTIVATED = "activated"
    """A new bundle serves."""
    UNCHANGED = "unchanged"
    """The server has the bundle that serves."""
    UNREACHABLE = "unreachable"
    """No answer, or not with status 200 or 304."""
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"
    UNSIGNED = "unsigned"
    BAD_SIGNATURE = "bad_signature"
    EXPIRED = "expired"
    OLDER = "older"
    """As `edge.bundle.errors.Fault`, up to here from `TOO_LARGE`."""
    REFUSED = "refused"
    """A sidecar cannot use its policy or limits."""
    FAILED = "failed"
    """A key file or the disk of this machine cannot be used."""

    @property
    def good(self) -> bool:
        """Whether this edge serves what the server has."""
        return self in {PullOutcome.ACTIVATED, PullOutcome.UNCHANGED}


class PullMetrics:
    """Counts pulls and status reports, and shows the bundle in service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._pulls = Counter(
            "sidecars_bundle_pulls", "Requests for a bundle by outcome.", ["outcome"], registry=registry
        )
        for outcome in PullOutcome:
            self._pulls.labels(outcome)
        self._failing = Gauge(
            "sidecars_bundle_failing",
            "1 while the last pull failed or brought a bundle that was refused.",
            registry=registry,
        )
        self._good = Gauge(
            "sidecars_bundle_last_good_pull_timestamp_seconds",
            "When the server last had a bundle that serves here.",
            registry=registry,
        )
        self._accepted = Gauge(
            "sidecars_bundle_accepted_timestamp_seconds",
            "When the bundle in service was accepted.",
            registry=registry,
        )
        self._info = Gauge(
            "sidecars_bundle_revision_info",
            "The bundle in service: always 1.",
            ["revision"],
            registry=registry,
        )
        self._reports = Counter(
            "sidecars_bundle_status_reports", "Status reports by result.", ["result"], registry=registry
        )
        for result in ("sent", "failed"):
            self._reports.labels(result)

    def pulled(self, outcome: PullOutcome, now: float) -> None:
        """Count a pull. `now`: Unix seconds."""
        self._pulls.labels(outcome).inc()
        self._failing.set(not outcome.good)
        if outcome.good:
            self._good.set(now)

    def serves(self, revision: str, since: float) -> None:
        """Record the bundle in service, accepted at `since` in Unix seconds."""
        self._info.clear()
        self._info.labels(revision).set(1)
        self._accepted.set(since)

    def reported(self, *, sent: bool) -> None:
        """Count a status report."""
        self._reports.labels("sent" if sent else "failed").inc()
