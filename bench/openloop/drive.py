"""Drives clients by a schedule. Time and network are passed in, so a test can run it on a virtual clock."""

from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from bench.openloop.client import Client, Ended
from bench.openloop.schedule import Schedule

IDLE_SECONDS = 0.1
"""How long to wait for replies before another look at the clock."""


class Network(Protocol):
    """Connections to one server, by number."""

    def connect(self, number: int, opening: bytes) -> None:
        """Open, or open again, the connection with this number."""
        ...

    def send(self, number: int, data: bytes) -> None:
        """Send on a connection. Raises OSError if it is closed."""
        ...

    def wait(self, seconds: float) -> Iterable[tuple[int, bytes]]:
        """Return what arrives within that time, by connection; b"" means closed by the server."""
        ...


def _times() -> "array[float]":
    return array("d")


@dataclass(slots=True)
class Tally:
    """What the calls that were due in the measured time saw, in seconds."""

    responses: "array[float]" = field(default_factory=_times)
    """From the intended start to the reply: what a user waits for."""
    answers: "array[float]" = field(default_factory=_times)
    """As `responses`, of the calls that did not fail."""
    services: "array[float]" = field(default_factory=_times)
    """From the actual start to the reply: what a closed loop would report."""
    refusals: "array[float]" = field(default_factory=_times)
    """From the intended start to the failure, of the calls that failed."""
    lateness: "array[float]" = field(default_factory=_times)
    """From the moment when a call was due and a connection was free, to its actual start."""
    failures: Counter[str] = field(default_factory=Counter)
    in_time: int = 0
    """The replies, to any call, within the measured time."""
    waited: int = 0
    """The calls that had no free connection when they were due."""
    unfinished: int = 0
    """The calls without a reply at the end; they count with the time that they had waited by then."""


@dataclass(slots=True)
class _Connection:
    number: int
    client: Client
    in_flight: dict[int, tuple[float, float]] = field(default_factory=dict)
    """The intended and the actual start of each call by its tag."""
    next_tag: int = 0
    replaced: bool = False

    @property
    def usable(self) -> bool:
        return not self.replaced and not self.client.exhausted


@dataclass(frozen=True, slots=True)
class Period:
    """Calls due from `measured_from` to `end` are measured, and have until `patience_end` to end."""

    measured_from: float
    end: float
    patience_end: float


class Driver:
    """Starts calls when they are due and a connection is free, and keeps the tally."""

    def __init__(
        self,
        new_client: Callable[[], Client],
        connections: int,
        network: Network,
        clock: Callable[[], float],
    ) -> None:
        self.tally = Tally()
        self._new_client = new_client
        self._network = network
        self._clock = clock
        self._requests = 0
        self._free: deque[tuple[_Connection, float]] = deque()
        """A place for one call, and since when it has been free; the longest first."""
        self._connections: list[_Connection] = []
        for number in range(connections):
            self._connections.append(self._connected(number))

    def run(self, schedule: Schedule, period: Period) -> Tally:
        """Start each call that is due before the end of the period, and wait for the replies."""
        while (now := self._clock()) < period.end:
            due = schedule.due(now)
            while due and self._has_free() and schedule.next_at(now) < period.end:
                due -= 1
                self._start(schedule.take(now), period)
            self._receive(self._patience(schedule, period), period)
        backlog = _backlog(schedule, period.end)
        while (now := self._clock()) < period.patience_end and (backlog or self._in_flight()):
            while backlog and self._has_free():
                self._start(backlog.popleft(), period)
            self._receive(min(IDLE_SECONDS, period.patience_end - now), period)
        self._give_up(backlog, period)
        return self.tally

    def _connected(self, number: int) -> _Connection:
        client = self._new_client()
        self._network.connect(number, client.opening())
        connection = _Connection(number, client)
        self._free.extend([(connection, self._clock())] * client.streams)
        return connection

    def _replace(self, connection: _Connection, period: Period) -> None:
        connection.replaced = True
        self._record(connection, connection.client.closed(), period)
        self._connections[connection.number] = self._connected(connection.number)

    def _has_free(self) -> bool:
        while self._free and not self._free[0][0].usable:
            self._free.popleft()
        return bool(self._free)

    def _in_flight(self) -> bool:
        return any(connection.in_flight for connection in self._connections)

    def _patience(self, schedule: Schedule, period: Period) -> float:
        """Return how long to wait for replies: until the next call can start."""
        now = self._clock()
        until = min(period.end, schedule.next_at(now)) if self._has_free() else period.end
        return max(0.0, min(until - now, IDLE_SECONDS))

    def _start(self, intended: float, period: Period) -> None:
        connection, free_since = self._free.popleft()
        data = connection.client.call(self._requests)
        self._requests += 1
        now = self._clock()
        connection.in_flight[connection.next_tag] = intended, now
        connection.next_tag += 1
        if period.measured_from <= intended:
            self.tally.lateness.append(now - max(intended, free_since))
            self.tally.waited += free_since > intended
        self._send(connection, data, period)

    def _send(self, connection: _Connection, data: bytes, period: Period) -> None:
        try:
            self._network.send(connection.number, data)
        except OSError:
            self._replace(connection, period)

    def _receive(self, seconds: float, period: Period) -> None:
        for number, data in self._network.wait(seconds):
            connection = self._connections[number]
            if not data:
                self._replace(connection, period)
                continue
            ended, replies = connection.client.feed(data)
            self._record(connection, ended, period)
            if connection.client.exhausted and not connection.in_flight:
                self._replace(connection, period)
            elif replies:
                self._send(connection, replies, period)

    def _record(self, connection: _Connection, ended: Iterable[Ended], period: Period) -> None:
        now = self._clock()
        for call in ended:
            intended, sent = connection.in_flight.pop(call.tag)
            self._free.append((connection, now))
            self.tally.in_time += period.measured_from <= now < period.end
            if period.measured_from <= intended:
                self.tally.responses.append(now - intended)
                self.tally.services.append(now - sent)
                if call.failure:
                    self.tally.failures[call.failure] += 1
                    self.tally.refusals.append(now - intended)
                else:
                    self.tally.answers.append(now - intended)

    def _give_up(self, backlog: Iterable[float], period: Period) -> None:
        now = self._clock()
        started = (intended for one in self._connections for intended, _ in one.in_flight.values())
        for intended in (*backlog, *started):
            if period.measured_from <= intended:
                self.tally.responses.append(now - intended)
                self.tally.unfinished += 1


def _backlog(schedule: Schedule, end: float) -> deque[float]:
    """Return the intended starts before the end of the calls that found no free connection."""
    backlog: deque[float] = deque()
    while schedule.next_at(end) < end:
        backlog.append(schedule.take(end))
    return backlog
