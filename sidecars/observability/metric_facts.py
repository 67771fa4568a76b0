"""What a registry does not say about each metric: its unit, how many series it can have, and a healthy value.

docs/metrics.md shows this table next to the names and types of the registries. A test compares the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from accesslog.records.counters import MAX_LOGS, DropReason
from authz.credentials.jwt.key_source import FetchOutcome
from authz.engine.metrics import MAX_RULES
from authz.policy.rule import Outcome
from authz.request.identity import CredentialKind, RefusalReason
from ratelimit.quota.refused import Refused
from ratelimit.request import BadInput
from ratelimit.stats import MAX_REQUEST_KEYS, MAX_RULE_KEYS
from ratelimit.stores.store import Failure
from ratelimit.unmatched import MAX_SHAPES
from sidecars.observability.bundle_metrics import PullOutcome
from sidecars.transport.api.service import Code
from sidecars.transport.http2.errors import Reason
from sidecars.transport.http2.frames import ErrorCode


@dataclass(frozen=True, slots=True)
class MetricFacts:
    """The facts of one metric: its unit, the value of a healthy process, and what bounds each of its labels.

    `bounds` has a row for each label whose bound is not the one in `LABEL_BOUNDS`.
    """

    unit: str
    healthy: str
    labels: tuple[str, ...] = ()
    bounds: Mapping[str, str] = field(default_factory=dict)

    def bound(self, label: str) -> str:
        """Return the most values that `label` can have, in words. Raises KeyError without a bound."""
        return self.bounds[label] if label in self.bounds else LABEL_BOUNDS[label]


def metric_name(name: str, kind: str) -> str:
    """Return the name by which a query finds the metric that prometheus-client calls `name`."""
    return name + {"counter": "_total", "info": "_info"}.get(kind, "")


_METHODS: Final = "one for each method, at most 6 a service"
LABEL_BOUNDS: Final[Mapping[str, str]] = {
    "cache": "6",
    "counter": "4",
    "credential": str(len(CredentialKind)),
    "domain": "domains of the limits files",
    "err_type": "2",
    "file": "`tls` files of the listen addresses",
    "generation": "3",
    "grpc_code": str(len(Code)),
    "grpc_method": _METHODS,
    "grpc_service": "services served, at most 8",
    "grpc_type": "4",
    "issuer": "`issuers` of the policy",
    "key1": f"{MAX_RULE_KEYS:,} rules and `max_metric_keys` ({MAX_REQUEST_KEYS:,}) keys, with `key2`",
    "key2": "as `key1`",
    "keys": f"`max_unmatched` ({MAX_SHAPES}), with `domain`",
    "log_name": f"{MAX_LOGS}",
    "on_failure": "3",
    "python": "1",
    "response_class": "7, with `route` at most `most_series`",
    "result": "3",
    "revision": "1 a sidecar",
    "route": "`request_metrics.most_series`, then `(other)`",
    "rule": f"{MAX_RULES:,}, then `(other)`",
    "sidecar": "3",
    "sink": "`sinks`",
    "transport": "1",
    "compiled": "1",
    "type": "2",
    "version": "1",
    "worker": "`workers`",
}
"""The most values that each label has in one process."""

_RISES: Final = "rises with the traffic"
_STILL: Final = "does not rise"
_FLAT: Final = "steady"
_LOG: Final = ("log_name", "type")
_BY_SINK: Final = (*_LOG, "sink")
_KEYS: Final = ("domain", "key1", "key2")
_CALL: Final = ("grpc_type", "grpc_service", "grpc_method")


def _reasons(reasons: type[object]) -> Mapping[str, str]:
    return {"reason": str(len(tuple(reasons)))}  # type: ignore[arg-type]  # an Enum class is iterable


def _facts_of_redis(prefix: str) -> dict[str, MetricFacts]:
    return {
        f"{prefix}_failures_total": MetricFacts("requests", _STILL, ("reason",), _reasons(Failure)),
        f"{prefix}_queue_length": MetricFacts("requests", "near 0"),
        f"{prefix}_breaker_state": MetricFacts("0, 1 or 2", "0"),
        f"{prefix}_breaker_opened_total": MetricFacts("times", _STILL),
    }


_AUTHZ: Final = {
    "authz_cache_entries": MetricFacts("entries", "below the `cache` sizes of the policy", ("cache",)),
    "authz_credentials_accepted_total": MetricFacts("credentials", _RISES, ("credential",)),
    "authz_credentials_redis_breaker_opened_total": MetricFacts("times", _STILL),
    "authz_credentials_redis_breaker_state": MetricFacts("0, 1 or 2", "0"),
    "authz_credentials_refused_total": MetricFacts(
        "credentials", "a small share of those accepted", ("credential", "reason"), _reasons(RefusalReason)
    ),
    "authz_decision_log_lines_total": MetricFacts("lines", "`dropped` does not rise", ("result",)),
    "authz_candidate_decisions_total": MetricFacts(
        "decisions", "`changed` as intended, during a roll-out", ("result",), {"result": "3"}
    ),
    "authz_candidate_differences_total": MetricFacts(
        "decisions",
        "as intended, during a roll-out",
        ("rule", "was", "outcome"),
        {"was": str(len(Outcome)), "outcome": str(len(Outcome))},
    ),
    "authz_decisions_total": MetricFacts(
        "decisions",
        "the shares of outcomes are steady, `error` does not rise",
        ("outcome", "reason", "rule", "credential"),
        {"outcome": str(len(Outcome)), "reason": f"at most {len(RefusalReason) + 30}"},
    ),
    "authz_identity_cache_lookups_total": MetricFacts(
        "look-ups", "most are `hit`", ("result",), {"result": "2"}
    ),
    "authz_introspection_requests_total": MetricFacts(
        "requests", "`failed` does not rise", ("outcome",), {"outcome": "3"}
    ),
    "authz_key_set_age_seconds": MetricFacts(
        "seconds", "below 600: a set is fetched about every 5 minutes", ("issuer",)
    ),
    "authz_key_set_fetches_total": MetricFacts(
        "fetches", "only `ok` rises", ("issuer", "outcome"), {"outcome": str(len(FetchOutcome))}
    ),
    "authz_key_set_max_age_seconds": MetricFacts("seconds", "as set by `max_stale_seconds`", ("issuer",)),
    "authz_key_set_refresh_seconds": MetricFacts("seconds", "as set by `refresh_seconds`", ("issuer",)),
    "authz_key_set_keys": MetricFacts("keys", "1 or more", ("issuer",)),
    "authz_revocation_subscription_connected": MetricFacts("1 or 0", "1"),
    "authz_revocation_subscription_interruptions_total": MetricFacts("times", _STILL),
    "authz_session_renewals_lost_total": MetricFacts("renewals", _STILL),
    "authz_session_renewals_total": MetricFacts("renewals", _RISES),
    "authz_sessions_api_requests_total": MetricFacts(
        "requests",
        "most have a code below 300; `(unknown)` does not rise",
        ("client", "code"),
        {"client": "`sessions_api.clients` and `(unknown)`", "code": "14"},
    ),
    "authz_shadow_differences_total": MetricFacts(
        "decisions",
        "what the shadow rule is expected to change",
        ("rule", "outcome"),
        {"outcome": str(len(Outcome))},
    ),
}

_RATELIMIT: Final = {
    "ratelimit_deny_cache_entries": MetricFacts("buckets", "below `deny_cache_max_entries`"),
    "ratelimit_deny_cache_hits_total": MetricFacts("requests", "rises while a client is limited"),
    "ratelimit_bans": MetricFacts("keys", "below `max_bans`"),
    "ratelimit_bans_imposed_total": MetricFacts("bans", "rises with abuse", ("domain", "key1", "key2")),
    "ratelimit_bans_refused_total": MetricFacts("requests", "rises with abuse"),
    "ratelimit_bans_lifted_total": MetricFacts("bans", "rises when an operator lifts one"),
    "ratelimit_bans_evicted_total": MetricFacts("bans", _STILL),
    "ratelimit_concurrency_in_flight": MetricFacts(
        "requests", "below `concurrency` for each key", ("domain", "key1", "key2")
    ),
    "ratelimit_concurrency_healed_total": MetricFacts("slots", _STILL, ("domain", "key1", "key2")),
    "ratelimit_lease_decisions_total": MetricFacts("requests", "rises with requests for hot keys"),
    "ratelimit_lease_tokens_out": MetricFacts("tokens", "below `leases.share` of the limits with leases"),
    "ratelimit_lease_tokens_total": MetricFacts(
        "tokens", "`lost` is a small share of `taken`", ("event",), {"event": "3"}
    ),
    "ratelimit_leases": MetricFacts("keys", "below `leases.max_keys`"),
    "ratelimit_memory_buckets": MetricFacts("buckets", "below `max_buckets`"),
    "ratelimit_memory_buckets_evicted_total": MetricFacts("buckets", _STILL),
    "ratelimit_quota_actions_total": MetricFacts(
        "actions", "`deny_all` does not rise for limits above 0", ("action",), {"action": "4"}
    ),
    "ratelimit_quota_buckets": MetricFacts("buckets", "below `quota.max_buckets`"),
    "ratelimit_quota_ledgers": MetricFacts("limits with values", "below `quota.max_buckets`"),
    "ratelimit_quota_refused_total": MetricFacts(
        "streams and reports of a bucket", _STILL, ("reason",), _reasons(Refused)
    ),
    "ratelimit_quota_reports_total": MetricFacts("messages", "rises each 5 s for each Envoy"),
    "ratelimit_quota_requests_total": MetricFacts("requests", _RISES, ("decision",), {"decision": "2"}),
    "ratelimit_quota_streams": MetricFacts("streams", "one for each Envoy and filter"),
    **_facts_of_redis("ratelimit_redis"),
    **_facts_of_redis("ratelimit_redis_per_second"),
    "ratelimit_service_bad_input": MetricFacts("requests", _STILL, ("reason",), _reasons(BadInput)),
    "ratelimit_service_config_load_error": MetricFacts("loads", _STILL),
    "ratelimit_service_config_load_success": MetricFacts("loads", "rises at each change of a limits file"),
    "ratelimit_service_failure_answers": MetricFacts("descriptors", _STILL, ("on_failure",)),
    "ratelimit_service_global_shadow_mode": MetricFacts("requests", "0, unless `shadow_mode` is set"),
    "ratelimit_service_rate_limit_descriptor_not_found": MetricFacts(
        "descriptors", "does not rise for keys that should have a limit", ("domain", "keys")
    ),
    "ratelimit_service_rate_limit_domain_not_found": MetricFacts(
        "descriptors", _STILL, ("domain",), {"domain": f"`max_unmatched` ({MAX_SHAPES})"}
    ),
    "ratelimit_service_rate_limit_near_limit": MetricFacts("hits", "a small share of `total_hits`", _KEYS),
    "ratelimit_service_rate_limit_over_limit": MetricFacts("hits", "a small share of `total_hits`", _KEYS),
    "ratelimit_service_rate_limit_over_limit_with_local_cache": MetricFacts(
        "hits", "at most `over_limit`", _KEYS
    ),
    "ratelimit_service_rate_limit_shadow_mode": MetricFacts("hits", "what the rule would refuse", _KEYS),
    "ratelimit_service_rate_limit_total_hits": MetricFacts("hits", _RISES, _KEYS),
    "ratelimit_service_rate_limit_total_negative_hits": MetricFacts(
        "hits", "0, unless Envoy gives hits back", _KEYS
    ),
    "ratelimit_service_rate_limit_within_limit": MetricFacts("hits", "most of `total_hits`", _KEYS),
    "ratelimit_service_response_time_seconds": MetricFacts(
        "seconds", "p99 far below the filter's `timeout`", ("grpc_method",), {"grpc_method": "1"}
    ),
    "ratelimit_service_should_rate_limit_error": MetricFacts("calls", _STILL, ("err_type",)),
    "ratelimit_xds_connected": MetricFacts("1 or 0", "1"),
    "ratelimit_xds_rejected": MetricFacts("1 or 0", "0"),
    "ratelimit_xds_responses_total": MetricFacts(
        "responses", "`rejected` does not rise", ("result",), {"result": "2"}
    ),
    "ratelimit_service_total_requests": MetricFacts("calls", _RISES, ("grpc_method",), {"grpc_method": "1"}),
}

_ACCESSLOG: Final = {
    "accesslog_entries_dropped_total": MetricFacts(
        "entries", _STILL, (*_BY_SINK, "reason"), _reasons(DropReason)
    ),
    "accesslog_entries_received_total": MetricFacts("entries", _RISES, _LOG),
    "accesslog_entries_recovered_total": MetricFacts("entries", "rises only at a start", _BY_SINK),
    "accesslog_entries_redacted_total": MetricFacts("entries", "a steady share of those received", _LOG),
    "accesslog_entries_sampled_out_total": MetricFacts(
        "entries", "1 - `sample.rate` of those received", _LOG
    ),
    "accesslog_entries_written_total": MetricFacts(
        "entries", "as received, without those sampled out", _BY_SINK
    ),
    "accesslog_envoy_admin_failing": MetricFacts("1 or 0", "0"),
    "accesslog_envoy_entries_total": MetricFacts(
        "entries", "`logs_dropped` and `grpc_entries_flush_failed` do not rise", ("counter",)
    ),
    "accesslog_envoy_missing_entries": MetricFacts("entries", "near 0"),
    "accesslog_messages_unreadable_total": MetricFacts("messages", _STILL),
    "accesslog_queue_bytes": MetricFacts("bytes", "far below `queue.bytes`", ("sink",)),
    "accesslog_queue_entries": MetricFacts("entries", "far below `queue.entries`", ("sink",)),
    "accesslog_request_duration_seconds": MetricFacts(
        "seconds", "as the upstreams should answer", ("route", "response_class")
    ),
    "accesslog_request_errors_total": MetricFacts(
        "requests", "a small share of the requests", ("route", "response_class"), {"response_class": "2"}
    ),
    "accesslog_request_series_overflow_total": MetricFacts("requests", _STILL),
    "accesslog_sink_errors_total": MetricFacts("attempts", _STILL, ("sink", "reason"), _reasons(DropReason)),
    "accesslog_sink_failing": MetricFacts("1 or 0", "0", ("sink",)),
    "accesslog_sink_write_seconds": MetricFacts("seconds", "p99 below 0.1", ("sink",)),
    "accesslog_spool_bytes": MetricFacts("bytes", "does not rise for long", ("sink",)),
    "accesslog_spool_cut_bytes_total": MetricFacts("bytes", "rises only after a crash", ("sink",)),
    "accesslog_spool_entries": MetricFacts("entries", "does not rise for long", ("sink",)),
    "accesslog_spool_failing": MetricFacts("1 or 0", "0", ("sink",)),
    "accesslog_spool_max_bytes": MetricFacts("bytes", "as set by `spool.max_bytes`", ("sink",)),
    "accesslog_spool_files_left_aside": MetricFacts("files", "0", ("sink",)),
    "accesslog_streams_open": MetricFacts("streams", "one for each thread and log of Envoy"),
    "accesslog_streams_unidentified_total": MetricFacts("streams", _STILL),
    "accesslog_streams_waiting": MetricFacts("streams", "0"),
}

_PROCESS: Final = {
    "build_info": MetricFacts(
        "1", "one version in the whole fleet", ("version", "python", "transport", "compiled")
    ),
    "grpc_server_shed_total": MetricFacts("calls", _STILL, _CALL),
    "grpc_server_handled_total": MetricFacts("calls", "nearly all are `OK`", (*_CALL, "grpc_code")),
    "grpc_server_handling_seconds": MetricFacts("seconds", "p99 far below the filter's `timeout`", _CALL),
    "grpc_server_started_total": MetricFacts("calls", _RISES, _CALL),
    "process_cpu_seconds_total": MetricFacts("seconds", "rises by less than 1 a second in each worker"),
    "process_max_fds": MetricFacts("file descriptors", _FLAT),
    "process_open_fds": MetricFacts("file descriptors", "far below `process_max_fds`"),
    "process_resident_memory_bytes": MetricFacts("bytes", _FLAT),
    "process_start_time_seconds": MetricFacts("seconds since 1970", _FLAT),
    "process_virtual_memory_bytes": MetricFacts("bytes", _FLAT),
    "python_gc_collections_total": MetricFacts("collections", "rises slowly", ("generation",)),
    "python_gc_objects_collected_total": MetricFacts("objects", "rises slowly", ("generation",)),
    "python_gc_objects_uncollectable_total": MetricFacts("objects", "0", ("generation",)),
    "sidecars_config_last_reload_failed": MetricFacts("1 or 0", "0", ("sidecar",)),
    "sidecars_config_loaded_timestamp_seconds": MetricFacts(
        "seconds since 1970", "the last change of the files", ("sidecar",)
    ),
    "sidecars_config_reload_failures_total": MetricFacts("reloads", _STILL, ("sidecar",)),
    "sidecars_config_reload_total": MetricFacts("reloads", "rises at each change of a file", ("sidecar",)),
    "sidecars_config_revision_info": MetricFacts("1", "one revision in the fleet", ("sidecar", "revision")),
    "sidecars_bundle_accepted_timestamp_seconds": MetricFacts("Unix seconds", "the time of the last release"),
    "sidecars_bundle_failing": MetricFacts("0 or 1", "0"),
    "sidecars_bundle_last_good_pull_timestamp_seconds": MetricFacts(
        "Unix seconds", "at most a few `interval_seconds` ago"
    ),
    "sidecars_bundle_pulls_total": MetricFacts(
        "pulls", "`unchanged` rises", ("outcome",), {"outcome": str(len(PullOutcome))}
    ),
    "sidecars_bundle_revision_info": MetricFacts(
        "1", "one revision in the fleet, or two during a roll-out", ("revision",), {"revision": "1"}
    ),
    "sidecars_bundle_status_reports_total": MetricFacts(
        "reports", "`sent` rises", ("result",), {"result": "2"}
    ),
    "sidecars_clock_timestamp_seconds": MetricFacts("Unix seconds", "the time of the Prometheus server"),
    "sidecars_transport_tls_expiry_timestamp_seconds": MetricFacts(
        "Unix seconds", "at least two weeks ahead", ("sidecar", "file")
    ),
    "sidecars_transport_connections_closed_total": MetricFacts("connections", "rises slowly", ("sidecar",)),
    "sidecars_transport_connections_open": MetricFacts(
        "connections", "one for each thread of Envoy", ("sidecar",)
    ),
    "sidecars_transport_connections_opened_total": MetricFacts("connections", "rises slowly", ("sidecar",)),
    "sidecars_transport_goaways_sent_total": MetricFacts(
        "frames", "only `NO_ERROR` rises", ("sidecar", "code"), {"code": str(len(ErrorCode))}
    ),
    "sidecars_transport_held_bytes": MetricFacts("bytes", "near 0", ("sidecar",)),
    "sidecars_transport_peer_errors_total": MetricFacts(
        "violations", _STILL, ("sidecar", "reason"), _reasons(Reason)
    ),
    "sidecars_transport_resets_received_total": MetricFacts(
        "streams", "a very small share of the calls", ("sidecar",)
    ),
    "sidecars_transport_resets_sent_total": MetricFacts(
        "streams", _STILL, ("sidecar", "code"), {"code": str(len(ErrorCode))}
    ),
    "sidecars_transport_streams_open": MetricFacts(
        "calls", "near 0 for authz and ratelimit; the streams of Envoy for accesslog", ("sidecar",)
    ),
    "sidecars_transport_tls_last_reload_failed": MetricFacts("1 or 0", "0", ("sidecar",)),
    "sidecars_worker_answered": MetricFacts("1 or 0", "1", ("worker",)),
    "sidecars_worker_consecutive_failures": MetricFacts("exits", "0", ("worker",)),
    "sidecars_worker_ready": MetricFacts("1 or 0", "1", ("worker",)),
    "sidecars_worker_restarts_total": MetricFacts("starts", _STILL, ("worker",)),
    "sidecars_worker_watchdog_kills_total": MetricFacts("kills", _STILL, ("worker",)),
}

METRIC_FACTS: Final[Mapping[str, MetricFacts]] = {**_ACCESSLOG, **_AUTHZ, **_PROCESS, **_RATELIMIT}
"""The facts of every metric, by the name that a query has."""
