"""What an operator should know at first sight: the parts of a suite that do not work as they should."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_REDIS_STATES: Final = frozenset({"connected", "no connection"})
"""Without a connection, because no request needed one yet."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that does not work, and the page with more about it."""

    text: str
    page: str = "configuration"
    grave: bool = True
    """False: it works, but not as it should."""


def troubles_in(config: Sequence[tuple[str, Any]], totals: Mapping[str, Any]) -> list[Trouble]:
    """Return what the `/config` of each worker, by its number, and `/totals` tell; each text once."""
    found = [trouble for number, one in config for trouble in _of_worker(number, one)]
    dropped = totals.get("sums", {}).get("sidecars", {}).get("accesslog", {}).get("reasons", {})
    if dropped:
        reasons = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in dropped.items())
        found.append(Trouble(f"access log entries were lost since the start: {reasons}", "logs"))
    return list(dict.fromkeys(found))


def _of_worker(number: str, config: Any) -> Iterator[Trouble]:
    if not config:
        yield Trouble(f"worker {number} does not answer, or starts again and again")
        return
    for section in ("redis", "redis_per_second"):
        yield from _of_redis(section, config.get(section) or {})
    for name, sidecar in config["sidecars"].items():
        reload, state = sidecar.get("last_reload"), sidecar["state"]
        if reload and not reload["ok"]:
            yield Trouble(f"{name}: the files on disk were refused; the last good ones serve")
        if name == "authz":
            yield from _of_issuers(state.get("credentials", {}).get("issuers", ()))
        if name == "accesslog":
            yield from _of_sinks(state)


def _of_redis(section: str, state: Mapping[str, Any]) -> Iterator[Trouble]:
    for server in (state, *state.get("nodes", {}).values()):
        if server.get("state", "connected") not in _REDIS_STATES:
            why = server.get("last_error") or server.get("last_refusal") or "no reason is known"
            yield Trouble(f"{section}: {server['state']}: {why}")
    if state.get("cluster_problem"):
        yield Trouble(f"{section}: {state['cluster_problem']}")
    misfits: Any = state.get("misfits") or ()
    if isinstance(misfits, dict):  # by node
        misfits = [text for texts in misfits.values() for text in texts]
    for text in misfits:
        yield Trouble(f"{section}: {text}", grave=False)


def _of_issuers(issuers: Sequence[Mapping[str, Any]]) -> Iterator[Trouble]:
    for issuer in issuers:
        for source in (issuer, *(value for value in issuer.values() if isinstance(value, dict))):
            if source.get("problem"):
                yield Trouble(f"key set of {issuer.get('issuer', 'an issuer')}: {source['problem']}")


def _of_sinks(state: Mapping[str, Any]) -> Iterator[Trouble]:
    for sink in state.get("sinks", ()):
        if sink.get("failing"):
            yield Trouble(f"accesslog: the sink {sink['name']} cannot write", "logs")
    missing = state.get("entries_missing")
    if missing:
        yield Trouble(f"accesslog: {missing:,} entries that Envoy sent did not arrive", "logs")
