"""What the runtime knows of a sidecar: the seam between the processes and the three services."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from prometheus_client import CollectorRegistry

from common.configfile import Problem
from common.redaction import NO_NAMES, SecretNames
from common.redis_cluster import Cluster
from sidecars.transport.api.service import Service

if TYPE_CHECKING:  # else a sidecar without a Redis would load redis-py, 10 MB
    from redis.asyncio import Redis


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What every sidecar is handed by the process: nothing is fetched from globals."""

    registry: CollectorRegistry
    wall_clock: Callable[[], float]
    """Seconds since 1970, as `time.time`."""
    monotonic_clock: Callable[[], float]
    """Seconds that never step, as `time.monotonic`."""
    random: Callable[[], float]
    """A number in [0, 1), as `random.random`."""
    redis: "Redis | Cluster | None"
    """The shared Redis client, where the settings name one; it may be away at any time."""
    policy: tuple[Path, ...] = ()
    """The policy that the settings name for authz, whether it runs here or not: its names are secrets."""
    secret_names: SecretNames = NO_NAMES
    """Names that the settings of the access log redact in addition, for every log of the process."""
    workers: int = 1
    """Processes that serve the same settings: what one of them keeps in memory, the others do not know."""
    redis_for_log: "Callable[[int], Redis] | None" = None
    """Makes a client of the shared Redis with this timeout in ms, for a sink: its batches take longer than a
    check may. The sink closes it. None without a Redis, and where it is a cluster."""
    redis_per_second: "Redis | Cluster | None" = None
    """The client of the Redis for short limits, where they have one of their own."""


class Sidecar(Protocol):
    """One of authz, ratelimit and accesslog, ready to be served.

    Its life: built (files read and compiled; ConfigError when bad), `start`, any number of
    `prepare` + swap, `stop`.
    """

    @property
    def name(self) -> str:
        """`authz`, `ratelimit` or `accesslog`."""

    @property
    def services(self) -> Sequence[Service]:
        """The gRPC services to serve."""

    @property
    def watched_files(self) -> Sequence[Path]:
        """Files and folders whose change asks for a reload. Hidden files in a folder are to be named.

        Read in a thread, and may block on the disk.
        """

    async def start(self) -> None:
        """Connect to dependencies (Redis, key sets, files). One that is away is not an error."""

    def prepare(self) -> Callable[[], None]:
        """Read and compile the files again (off the loop, in a thread). Raises ConfigError.

        The function it returns puts the result into service by one assignment, on the loop.
        """

    def describe(self) -> dict[str, Any]:
        """The state for `/config`: revision, counts, dependencies; secrets never."""

    async def finish_streams(self) -> None:
        """End long-lived streams in order, because Envoy never half-closes an access-log stream."""

    async def stop(self) -> None:
        """Flush and close what `start` opened; called after the transport has drained."""


@runtime_checkable
class JudgesCandidate(Protocol):
    """A sidecar that can judge the next configuration before it is in service, and count the differences."""

    def prepare_candidate(self, serving: Path, candidate: Path | None) -> Callable[[], None]:
        """Read the files as they are below `candidate` instead of `serving`; None: no candidate.

        Runs in a thread. Raises ConfigError. The function it returns begins to judge it, on the loop.
        """


@runtime_checkable
class Warns(Protocol):
    """A sidecar whose files may hold what is loaded all the same, and is probably a mistake."""

    @property
    def warnings(self) -> Sequence[Problem]:
        """What the operator should know about the files in service."""
