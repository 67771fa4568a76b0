"""Counts what happens on the connections of each sidecar, apart from its calls.

Plain integers, made into samples when somebody scrapes, as in `calls`. A call that goes well touches none.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from sidecars.transport.http2.errors import Reason
from sidecars.transport.http2.frames import ErrorCode


class ConnectionTally:
    """Counts the events on the connections of one sidecar; a `transport.observer.Observer`."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0
        self.errors = dict.fromkeys(Reason, 0)
        self.goaways = dict.fromkeys(ErrorCode, 0)
        self.resets_sent = dict.fromkeys(ErrorCode, 0)
        self.resets_received = 0
        self.open_streams: Callable[[], int] = lambda: 0
        self.held_bytes: Callable[[], int] = lambda: 0
        self.tls_is_stale: Callable[[], bool] = lambda: False
        self.tls_expiries: Callable[[], Mapping[Path, float]] = dict

    def count_open_streams(self, count: Callable[[], int]) -> None:
        """Ask `count` at each scrape how many streams are open."""
        self.open_streams = count

    def count_held_bytes(self, count: Callable[[], int]) -> None:
        """Ask `count` at each scrape how many bytes of unfinished request messages are held."""
        self.held_bytes = count

    def ask_about_tls(
        self, is_stale: Callable[[], bool], expiries: Callable[[], Mapping[Path, float]]
    ) -> None:
        """Ask at each scrape whether TLS files were refused and older ones serve, and when those expire.

        `expiries` gives Unix seconds by file.
        """
        self.tls_is_stale = is_stale
        self.tls_expiries = expiries

    def connection_opened(self) -> None:
        """Count an accepted connection."""
        self.opened += 1

    def connection_closed(self) -> None:
        """Count a closed connection."""
        self.closed += 1

    def peer_error(self, reason: Reason) -> None:
        """Count a protocol violation or flood by a peer."""
        self.errors[reason] += 1

    def goaway_sent(self, code: ErrorCode) -> None:
        """Count a GOAWAY that was sent."""
        self.goaways[code] += 1

    def reset_sent(self, code: ErrorCode) -> None:
        """Count a RST_STREAM that was sent."""
        self.resets_sent[code] += 1

    def reset_received(self) -> None:
        """Count a RST_STREAM from the peer."""
        self.resets_received += 1


class ConnectionMetrics:
    """The tallies of every sidecar of the process, in `registry`.

    Labels are bounded: a sidecar is one of three, a reason or code one of an enumeration.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tallies: dict[str, ConnectionTally] = {}
        registry.register(self)

    def of(self, sidecar: str) -> ConnectionTally:
        """A new tally for `sidecar`."""
        tally = self._tallies[sidecar] = ConnectionTally()
        return tally

    def collect(self) -> Iterator[Metric]:
        """The current samples, for prometheus-client."""
        yield from self._connections()
        streams = GaugeMetricFamily(
            "sidecars_transport_streams_open", "Calls that wait for their end.", labels=("sidecar",)
        )
        held = GaugeMetricFamily(
            "sidecars_transport_held_bytes", "Bytes of unfinished request messages.", labels=("sidecar",)
        )
        stale = GaugeMetricFamily(
            "sidecars_transport_tls_last_reload_failed",
            "1 while the TLS files on disk were refused and the last good ones serve.",
            labels=("sidecar",),
        )
        expiry = GaugeMetricFamily(
            "sidecars_transport_tls_expiry_timestamp_seconds",
            "When the first certificate of the file in service expires.",
            labels=("sidecar", "file"),
        )
        errors = CounterMetricFamily(
            "sidecars_transport_peer_errors",
            "Peers that broke a rule and lost a connection or stream.",
            labels=("sidecar", "reason"),
        )
        received = CounterMetricFamily(
            "sidecars_transport_resets_received", "Streams reset by the peer.", labels=("sidecar",)
        )
        for name, tally in self._tallies.items():
            streams.add_metric((name,), tally.open_streams())
            held.add_metric((name,), tally.held_bytes())
            stale.add_metric((name,), int(tally.tls_is_stale()))
            for file, at in tally.tls_expiries().items():
                expiry.add_metric((name, str(file)), at)
            for reason, count in tally.errors.items():
                # All labels from the start, so that the first attack shows as an increase.
                errors.add_metric((name, reason.value), count)
            received.add_metric((name,), tally.resets_received)
        yield from (streams, held, stale, expiry, errors, received)
        yield self._by_code(
            "sidecars_transport_goaways_sent", "Connections told to end.", lambda tally: tally.goaways
        )
        yield self._by_code(
            "sidecars_transport_resets_sent", "Streams we reset.", lambda tally: tally.resets_sent
        )

    def _connections(self) -> tuple[Metric, ...]:
        labels = ("sidecar",)
        now = GaugeMetricFamily("sidecars_transport_connections_open", "Connections.", labels=labels)
        opened = CounterMetricFamily(
            "sidecars_transport_connections_opened", "Connections accepted.", labels=labels
        )
        closed = CounterMetricFamily(
            "sidecars_transport_connections_closed", "Connections gone.", labels=labels
        )
        for name, tally in self._tallies.items():
            now.add_metric((name,), tally.opened - tally.closed)
            opened.add_metric((name,), tally.opened)
            closed.add_metric((name,), tally.closed)
        return now, opened, closed

    def _by_code(
        self, name: str, text: str, counts: Callable[[ConnectionTally], dict[ErrorCode, int]]
    ) -> Metric:
        family = CounterMetricFamily(name, text, labels=("sidecar", "code"))
        for sidecar, tally in self._tallies.items():
            for code, count in counts(tally).items():
                if count or code is ErrorCode.NO_ERROR:
                    family.add_metric((sidecar, code.name), count)
        return family
