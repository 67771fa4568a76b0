"""One's own Envoy, with and without the filters: `python -m bench probe --envoy URL`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bench.openloop.latency import Latency
from bench.openloop.order import Order, Outcome, write_requests
from bench.openloop.run import perform_on
from bench.tools.goals import Measured, Rounds
from bench.tools.load import LoadError
from bench.tools.processes import load_core
from bench.tools.saturation import saturate, wrk_installed
from bench.transport import Say

LOADS: Final = (25, 50, 75)
PERCENTILES: Final = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}


@dataclass(frozen=True, slots=True)
class Target:
    """A listener of an Envoy."""

    host: str
    port: int
    path: str


@dataclass(frozen=True, slots=True)
class Questions:
    """What to send; every path is sent with every token in turn."""

    paths: Sequence[str] = ()
    """Default: the path of the URL."""
    headers: Sequence[str] = ()
    """Each as `name: value`."""
    tokens: Sequence[str] = ()
    """Bearer tokens."""


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """How much load, and how long."""

    per_second: float | None = None
    """None: find what saturates the listener, then take 25, 50 and 75 % of that."""
    seconds: float = 5.0
    connections: int = 16
    rounds: int = 3


def parse_target(url: str) -> Target:
    """Return the target of a URL. Raises LoadError."""
    parts = urlsplit(url)
    try:
        port = parts.port or 80
    except ValueError as error:
        raise LoadError(f"{url}: {error}") from error
    if parts.scheme != "http" or not parts.hostname:
        raise LoadError(f"{url}: write http://HOST:PORT; a listener with TLS needs a second one without")
    path = parts.path or "/"
    return Target(parts.hostname, port, f"{path}?{parts.query}" if parts.query else path)


def requests_of(target: Target, questions: Questions) -> Iterator[bytes]:
    """Yield the requests as bytes. Raises LoadError for a header or path that cannot be sent."""
    own = [_header(text) for text in questions.headers]
    named = {name.lower() for name, _ in own}
    fixed = [*([] if "host" in named else [("host", f"{target.host}:{target.port}")]), *own]
    paths = questions.paths or [target.path]
    # Both lists in turn, so that neither order repeats before the other one shifts.
    for number in range(len(paths) * max(1, len(questions.tokens))):
        path = paths[number % len(paths)]
        if not path.startswith("/") or any(part <= " " for part in path):
            raise LoadError(f"the path {path!r} must begin with / and have no blank")
        tokens = questions.tokens
        token = [("authorization", f"Bearer {tokens[number // len(paths)]}")] if tokens else []
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in (*fixed, *token))]
        yield ("\r\n".join(lines) + "\r\n\r\n").encode()


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or any(part in text for part in "\r\n"):
        raise LoadError(f"the header {text!r} must be written as `name: value`")
    return name.strip(), value.strip()


def probe(
    targets: dict[str, Target], questions: Questions, plan: ProbePlan, folder: Path, say: Say
) -> Measured:
    """Measure the targets in turn: `filters`, and `none` if there is one without them."""
    return _Probe(targets, questions, plan, folder, say).run()


class _Probe:
    def __init__(
        self, targets: dict[str, Target], questions: Questions, plan: ProbePlan, folder: Path, say: Say
    ) -> None:
        self._plan = plan
        self._say = say
        self._rounds = Rounds()
        self._latency: dict[str, dict[str, Latency]] = {}
        self._notes: dict[str, str] = {}
        self._orders = {
            name: Order(
                "http1",
                target.port,
                write_requests(folder / name, requests_of(target, questions)),
                host=target.host,
                connections=plan.connections,
                seconds=plan.seconds,
            )
            for name, target in targets.items()
        }

    def run(self) -> Measured:
        rates = self._rates()
        for number in range(self._plan.rounds):
            for label, per_second in rates.items():
                for name, order in self._orders.items():
                    self._say(
                        f"round {number + 1} of {self._plan.rounds}, {per_second:,.0f} requests/s: {name}"
                    )
                    self._record(name, label, perform_on(replace(order, per_second=per_second), load_core()))
        self._add_added(rates)
        latency = {
            label: {name: found.encode() for name, found in kinds.items()}
            for label, kinds in self._latency.items()
        }
        return Measured(
            {**{f"{label}_per_second": rate for label, rate in rates.items()}, **self._rounds.medians()},
            self._rounds.values,
            {"latency": latency},
            tuple(f"{where}: {trouble}" for where, trouble in self._notes.items()),
        )

    def _rates(self) -> dict[str, float]:
        if self._plan.per_second is not None:
            return {"load": self._plan.per_second}
        tool = "wrk" if wrk_installed() else "bench.openloop"
        for name, order in self._orders.items():
            self._say(f"saturation: {name}")
            full = saturate(order, load_core(), tool=tool)
            self._rounds.add(f"{name}_rps", full.rps)
            if full.bottleneck:
                self._notes[f"{name} at saturation"] = full.bottleneck
        return {f"load_{load}": self._rounds.median("filters_rps") * load / 100 for load in LOADS}

    def _record(self, name: str, label: str, outcome: Outcome) -> None:
        if outcome.failures:
            raise LoadError(
                f"{name}: requests failed, so the figures would be those of errors: {outcome.failures}"
            )
        for key, percentile in PERCENTILES.items():
            self._rounds.add(f"{label}_{name}_{key}_us", outcome.latency.us(percentile))
        found = self._latency.setdefault(label, {})
        found[name] = outcome.latency.merged(*([found[name]] if name in found else []))
        if outcome.bottleneck:
            self._notes[f"{name} at {label}"] = outcome.bottleneck
        if outcome.unfinished:
            unanswered = f"{outcome.unfinished} of {outcome.calls} requests had no response at the end"
            self._notes[f"{name} at {label}"] = unanswered

    def _add_added(self, rates: dict[str, float]) -> None:
        if "none" not in self._orders:
            return
        values = self._rounds.values
        for label in rates:
            for key in PERCENTILES:
                pairs = zip(
                    values[f"{label}_filters_{key}_us"], values[f"{label}_none_{key}_us"], strict=True
                )
                values[f"{label}_added_{key}_us"] = [one - other for one, other in pairs]
