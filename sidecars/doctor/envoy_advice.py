"""Our advice for Envoy's settings, each with its reason; envoy-test/envoy.yaml follows it.

The field names are those of Envoy's API; defaults that a config_dump leaves out are written here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sidecars.doctor.envoy_config import Config, seconds, value
from sidecars.doctor.finding import Finding, Level, ok


@dataclass(frozen=True, slots=True)
class Advice:
    """One setting: which values are good, what happens with others, and what to write."""

    path: str
    good: Callable[[Any], bool]
    otherwise: str
    fix: str
    level: Level = Level.WARN
    default: Any = None


def _is(*values: object) -> Callable[[Any], bool]:
    return lambda found: found in values


def _between(low: float, high: float, default: float) -> Callable[[Any], bool]:
    return lambda found: low <= (default if (given := seconds(found)) is None else given) <= high


def _at_least(number: float) -> Callable[[Any], bool]:
    return lambda found: float(found) >= number


def _present(found: Any) -> bool:
    return bool(found)


def _absent(found: Any) -> bool:
    return not found


EXT_AUTHZ: Final = (
    Advice(
        "failure_mode_allow",
        _absent,
        "requests pass unchecked while authz does not answer",
        "write failure_mode_allow: false",
        Level.FAIL,
    ),
    Advice(
        "grpc_service.timeout",
        _between(0.1, 2, default=0.2),
        "below 0.1s a look-up of keys or a session is cut off; 0s, or above 2s, holds requests for long",
        "write timeout: 0.2s in its grpc_service",
        default="0.200s",
    ),
    Advice(
        "grpc_service.retry_policy",
        _present,
        "a restart of authz fails the requests of that moment",
        "add retry_policy: {num_retries: 5, retry_on: "
        '"unavailable,cancelled,connect-failure,refused-stream,reset"} to its grpc_service',
    ),
    Advice(
        "status_on_error",
        _present,
        "a client gets 403 when authz does not answer, as if it were to blame",
        "write status_on_error: {code: ServiceUnavailable}",
    ),
    Advice(
        "encode_raw_headers",
        _present,
        "authz sees repeated headers joined into one (CVE-2021-32777)",
        "write encode_raw_headers: true",
    ),
    Advice(
        "allowed_headers",
        _absent,
        "no deny rule sees a header that it hides",
        "remove allowed_headers",
    ),
    Advice(
        "disallowed_headers",
        _absent,
        "no deny rule sees a header that it hides",
        "remove disallowed_headers",
    ),
    Advice(
        "filter_enabled",
        _absent,
        "only a share of the requests is checked, or those with some metadata",
        "remove filter_enabled",
    ),
    Advice(
        "validate_mutations",
        _present,
        "Envoy does not check the headers that authz sets",
        "write validate_mutations: true",
    ),
    Advice(
        "emit_filter_state_stats",
        _present,
        "the access log cannot say how long Envoy waited for authz",
        "write emit_filter_state_stats: true, and the custom tag authz_duration_us",
    ),
)

WITH_BODY: Final = (
    Advice(
        "with_request_body.max_request_bytes",
        lambda found: 0 < int(found) <= 1_048_576,
        "Envoy keeps this much of each request in memory, and sends it to authz",
        "write max_request_bytes: 8192, or what the rules need",
        default=0,
    ),
    Advice(
        "with_request_body.allow_partial_message",
        _present,
        "a longer body is refused with 413",
        "write allow_partial_message: true, unless that is what you want",
    ),
    Advice(
        "with_request_body.pack_as_bytes",
        _present,
        "bytes that are not UTF-8 reach authz as !",
        "write pack_as_bytes: true",
    ),
)

RATE_LIMIT: Final = (
    Advice(
        "timeout",
        _between(0.01, 0.1, default=0.02),
        "below 0.01s a busy Redis is cut off and no limit holds; above 0.1s a hung one holds every request",
        "write timeout: 0.02s in the filter; that of its grpc_service does not count",
        default="0.020s",
    ),
    Advice(
        "filter_enabled",
        _absent,
        "only a share of the requests is limited",
        "remove filter_enabled",
    ),
    Advice(
        "filter_enforced",
        _absent,
        "only a share of the requests over a limit is refused",
        "remove filter_enforced, and write shadow_mode: true for limits on trial",
    ),
    Advice(
        "failure_mode_deny",
        _absent,
        "no request passes while ratelimit does not answer",
        "write failure_mode_deny: false, and on_failure: closed for the limits that need it",
    ),
    Advice(
        "enable_x_ratelimit_headers",
        _is("DRAFT_VERSION_03"),
        "a limited client is not told when to come back",
        "write enable_x_ratelimit_headers: DRAFT_VERSION_03",
    ),
    Advice(
        "rate_limit_service.grpc_service.retry_policy.retry_on",
        lambda found: set(str(found).split(",")) <= {"", "connect-failure", "refused-stream"},
        "a call that is sent again counts its hits twice",
        "write retry_on: connect-failure,refused-stream",
        default="",
    ),
    Advice(
        "rate_limit_service.grpc_service.retry_policy",
        _present,
        "a restart of ratelimit leaves the requests of that moment without limits",
        "add retry_policy: {num_retries: 2, retry_on: connect-failure,refused-stream, retry_back_off: "
        "{base_interval: 0.001s, max_interval: 0.02s}} to its grpc_service",
    ),
)

ACCESS_LOG: Final = (
    Advice(
        "common_config.buffer_size_bytes",
        _at_least(65_536),
        "Envoy sends a message for every few entries",
        "write buffer_size_bytes: 262144",
        default=16_384,
    ),
    Advice(
        "common_config.buffer_flush_interval",
        _between(0.1, 10, default=1),
        "Envoy loses what it buffers when it exits",
        "write buffer_flush_interval: 1s",
        default="1s",
    ),
    Advice(
        "common_config.grpc_stream_retry_policy",
        _present,
        "entries are lost while accesslog is restarted",
        "write grpc_stream_retry_policy: {num_retries: 3}",
    ),
)

MANAGER: Final = (
    Advice(
        "always_set_request_id_in_response",
        _present,
        "a client that gets a 429 or a 503 of Envoy has no id to quote",
        "write always_set_request_id_in_response: true",
    ),
    Advice(
        "generate_request_id",
        _is(True),
        "requests have no id, so logs and decisions cannot be joined",
        "remove generate_request_id: false",
        Level.FAIL,
        default=True,
    ),
    Advice(
        "preserve_external_request_id",
        _absent,
        "a client chooses the request id, so two requests can look like one",
        "write preserve_external_request_id: false",
    ),
    Advice(
        "normalize_path",
        _is(True),
        "/public/../admin can pass a rule about /public (CVE-2019-9901)",
        "write normalize_path: true",
        Level.FAIL,
    ),
    Advice(
        "merge_slashes",
        _present,
        "//admin and /admin differ for rules, and may not for the upstream",
        "write merge_slashes: true",
    ),
)

CLUSTER: Final = (
    Advice(
        "max_requests",
        _at_least(4_096),
        "a burst of more concurrent calls is refused by Envoy, and each is an error",
        "write circuit_breakers: {thresholds: [{max_requests: 16384, max_pending_requests: 16384}]}",
        default=1_024,
    ),
    Advice(
        "max_retries",
        _at_least(100),
        "when a sidecar stops, each call in flight needs a retry, and further ones fail",
        "write circuit_breakers: {thresholds: [{max_retries: 1024}]}",
        default=3,
    ),
)


def advise(check: str, config: Config, table: Sequence[Advice]) -> Iterator[Finding]:
    """Yield a finding for each setting in `config` that is not as advised, and one that all is well else."""
    found = [
        Finding(advice.level, check, f"{advice.path} is {_shown(given)}: {advice.otherwise}", advice.fix)
        for advice in table
        if not advice.good(given := value(config, advice.path, advice.default))
    ]
    yield from found
    if not found:
        yield ok(check, "as advised")


def _shown(given: Any) -> str:
    if given is None or given == {}:
        return "not set"
    if isinstance(given, bool):
        return str(given).lower()
    return "set" if isinstance(given, dict | list) else str(given)
