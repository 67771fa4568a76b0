"""Finds one request in the access log and explains what happened to it, for `sidecars logs why`."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, Final

import typer

from sidecars.cli.log_files import lines_of, record_in

_IDS: Final = ("request_id", "stream_id", "authz_decision_id")
_TRACE_HEADERS: Final = {"traceparent": 1, "x-b3-traceid": 0, "b3": 0}
"""The headers of a trace (W3C Trace Context, and both forms of B3), and which of their parts is its id."""

_ERROR_DETAILS: Final = {
    "ext_authz_error": "Envoy got no answer from authz, and answered with status_on_error",
    "ext_authz_denied": "authz refused the request",
    "rate_limited": "a rate limit refused the request",
    "rate_limiter_error": "Envoy got no answer from ratelimit",
    "route_not_found": "no route matches",
    "no_healthy_upstream": "no upstream host is healthy",
    "upstream_response_timeout": "the upstream did not answer in time",
    "direct_response": "Envoy answered by itself",
    "via_upstream": "the upstream answered",
}

_FLAGS: Final = {
    "UAEX": "ext_authz refused or failed",
    "RL": "rate limited",
    "RLSE": "the rate limit service failed",
    "UF": "the connection to the upstream failed",
    "UH": "no healthy upstream host",
    "UT": "the upstream timed out",
    "UC": "the upstream closed the connection",
    "UO": "a circuit breaker is open",
    "UR": "the upstream reset the stream",
    "URX": "retries are used up",
    "NR": "no route",
    "NC": "no such cluster",
    "DC": "the client closed the connection",
    "DPE": "the client's protocol error",
    "DT": "the duration limit was reached",
    "LR": "Envoy reset the stream",
    "OM": "the overload manager refused it",
    "SI": "the stream was idle for too long",
}


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the time that a request took."""

    name: str
    microseconds: int


@dataclass(frozen=True, slots=True)
class Why:
    """What happened to one request. Every part but `record` may be empty."""

    verdict: str
    """One sentence."""
    record: dict[str, Any]
    file: str
    decision: dict[str, Any] = field(default_factory=dict)
    """The record of authz's decision log, if a file had it."""
    limits: dict[str, Any] = field(default_factory=dict)
    """The limit that decided: limit, period, remaining, and reset from response headers."""
    phases: list[Phase] = field(default_factory=list)
    next_commands: list[str] = field(default_factory=list)
    others: int = 0
    """Further records with this id: retries by a client, or other entries of a long-lived request."""
    notes: list[str] = field(default_factory=list)
    """What the record does not say: why it is missing, or which sidecar gave no answer."""
    processes: list[str] = field(default_factory=list)
    """What is wrong with the running sidecars now."""


def find(
    wanted: str,
    files: Sequence[Path],
    decisions: Sequence[Path],
    config: Path | None,
    policy: Sequence[Path] = (),
) -> Why | None:
    """Return the explanation of the request with this id, decision id or trace id; None if no file has it.

    `config` and `policy` are for the commands to run next. Raises OSError, BadParameter for an empty id.
    """
    if not wanted.strip():
        raise typer.BadParameter("it is empty", param_hint="ID")
    record, file, others = _newest(wanted, files, _has_id)
    if record is None:
        return None
    decision = find_decision(
        str(record.get("authz_decision_id") or record.get("request_id") or wanted), decisions
    )
    return Why(
        verdict_of(record),
        record,
        str(file),
        decision or {},
        _limits_in(record),
        phases_of(record),
        _commands(record, config, policy),
        others,
    )


def verdict_of(record: Mapping[str, Any]) -> str:
    """Return in one sentence why the request got its answer."""
    if record.get("type") == "tcp":
        reason = record.get("connection_termination_details") or record.get(
            "upstream_transport_failure_reason"
        )
        return f"A TCP connection ended: {reason}." if reason else "A TCP connection ended as it should."
    code = record.get("code", 0)
    details = str(record.get("code_details", ""))
    flags = [str(flag) for flag in record.get("response_flags", ())]
    answer = f"{code or 'No response'}: "
    if record.get("authz_outcome") in ("deny", "error"):
        rule = record.get("authz_rule")
        by = f" by rule {rule}" if rule else ""
        return f"{answer}authz refused it{by}: {record.get('authz_reason', 'no reason is recorded')}."
    if record.get("ratelimit_outcome") == "over_limit":
        reason = record.get("ratelimit_reason")
        rule = record.get("ratelimit_rule", "")
        return f"{answer}over the limit {rule}{f', {reason}' if reason else ''}."
    known = _ERROR_DETAILS.get(details.partition("{")[0])
    if known is None and flags:
        known = ", ".join(_FLAGS.get(flag, flag) for flag in flags)
    return f"{answer}{known or details or 'the log has no reason'}."


def phases_of(record: Mapping[str, Any]) -> list[Phase]:
    """Return where the time went, in order. Envoy's times count from the start of the request."""

    def at(name: str) -> int | None:
        value = record.get(f"time_to_{name}_us")
        return value if isinstance(value, int) else None

    total = record.get("duration_us")
    if not isinstance(total, int):
        return []
    received = at("last_rx_byte")
    sent_up = at("first_upstream_tx_byte")
    answered = at("first_upstream_rx_byte")
    answered_all = at("last_upstream_rx_byte")
    authz = record.get("authz_duration_us")
    phases: list[tuple[str, int]] = []
    if sent_up is not None:
        waited = authz if isinstance(authz, int) else 0
        if waited:
            phases.append(("authz decides", waited))
        phases.append(("other filters and connecting", sent_up - waited))
        if answered is not None:
            phases.append(("the upstream thinks", answered - sent_up))
            if answered_all is not None:
                phases.append(("the upstream sends its response", answered_all - answered))
                phases.append(("the response goes to the client", total - answered_all))
            else:
                phases.append(("the response goes to the client", total - answered))
        else:
            phases.append(("waiting for the upstream", total - sent_up))
    elif isinstance(authz, int):
        phases += [("authz decides", authz), ("everything else", total - authz)]
    elif received is not None:
        phases += [("the request arrives", received), ("everything else", total - received)]
    return [Phase(name, duration) for name, duration in phases if duration > 0]


def flags_in(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the response flags with their meaning."""
    for flag in record.get("response_flags", ()):
        yield str(flag), _FLAGS.get(str(flag), "see %RESPONSE_FLAGS% in Envoy's documentation")


def find_decision(wanted: str, files: Sequence[Path]) -> dict[str, Any] | None:
    """Return the newest record with this decision id or request id in decision logs. Raises OSError."""
    return _newest(wanted, files, _is_decision)[0]


def of_decision(decision: Mapping[str, Any], config: Path | None = None, policy: Sequence[Path] = ()) -> Why:
    """Return the explanation of a request that only the record of authz's decision tells about."""
    same = {"time": "time", "request_id": "request_id", "method": "method", "path": "path", "status": "code"}
    record: dict[str, Any] = {"type": "http", "authority": decision.get("host", "")}
    record |= {ours: decision[name] for name, ours in same.items() if name in decision}
    names = ("decision_id", "outcome", "reason", "rule", "policy_revision", "subject", "credential")
    record |= {f"authz_{name}": decision[name] for name in names if name in decision}
    allowed = decision.get("outcome") == "allow"
    verdict = "authz allowed it; what came after is not known." if allowed else verdict_of(record)
    return Why(verdict, record, "", dict(decision), next_commands=_commands(record, config, policy))


def _has_id(record: Mapping[str, Any], wanted: str) -> bool:
    if any(record.get(name) == wanted for name in _IDS):
        return True
    headers = record.get("request_headers") or {}
    return any(
        str(headers.get(name, "")).split("-")[part : part + 1] == [wanted]
        for name, part in _TRACE_HEADERS.items()
    )


def _is_decision(record: Mapping[str, Any], wanted: str) -> bool:
    return "decision_id" in record and wanted in (record["decision_id"], record.get("request_id"))


def _newest(
    wanted: str, files: Sequence[Path], has_id: Callable[[Mapping[str, Any], str], bool]
) -> tuple[dict[str, Any] | None, Path | None, int]:
    """The last record with this id in the first of `files` that has one, its file, and how many it has."""
    needle = re.escape(wanted).encode()
    quoted = re.compile(rb'["-]' + needle + rb'["-]')
    for file in files:
        best: dict[str, Any] | None = None
        count = 0
        for line in lines_of(file):
            if quoted.search(line) is None:
                continue
            record = record_in(line)
            if record is not None and has_id(record, wanted):
                count += 1
                best = record
        if best is not None:
            return best, file, count - 1
    return None, None, 0


def _limits_in(record: Mapping[str, Any]) -> dict[str, Any]:
    headers = record.get("response_headers") or {}
    found = {}
    for name in ("limit", "period", "remaining", "reset"):
        places = (
            (record, f"ratelimit_{name}"),
            (headers, f"x-ratelimit-{name}"),
            (headers, f"ratelimit-{name}"),
        )
        for fields, field_name in places:
            if field_name in fields:
                found[name] = fields[field_name]
                break
    return found


def _commands(record: Mapping[str, Any], config: Path | None, policy: Sequence[Path]) -> list[str]:
    commands = []
    if record.get("type") == "http" and (
        "authz_outcome" in record or "UAEX" in record.get("response_flags", ())
    ):
        url = f"{record.get('scheme', 'https')}://{record.get('authority', 'HOST')}{record.get('path', '/')}"
        files = [f"--policy {quote(str(file))}" for file in policy] or ["--policy POLICY"]
        parts = ["sidecars policy explain", *files]
        if record.get("method", "GET") != "GET":
            parts.append(f"-X {quote(record['method'])}")
        if subject := record.get("authz_subject"):
            parts.append(f"--subject {quote(subject)}")
        if kind := record.get("authz_credential"):
            parts.append(f"--kind {quote(kind)}")
        if time := record.get("time"):
            parts.append(f"--at {quote(time)}")
        commands.append(" ".join([*parts, quote(url)]))
    descriptors = _descriptor_arguments(record)
    if descriptors:
        place = quote(str(config)) if config is not None else "SETTINGS"
        domain = quote(str(record.get("ratelimit_domain", "DOMAIN")))
        commands.append(f"sidecars limits explain -c {place} --domain {domain} {' '.join(descriptors)}")
    return commands


def _descriptor_arguments(record: Mapping[str, Any]) -> list[str]:
    found = []
    for descriptor in record.get("ratelimit_descriptors", ()):
        entries = descriptor.get("entries") if isinstance(descriptor, dict) else None
        if entries:
            found.append(quote(",".join(map(str, entries))))
    return found
