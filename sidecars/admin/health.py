"""Reports whether the process serves: to callers by grpc.health.v1, to operators by /readyz.

The protocol is grpc/grpc doc/health-checking.md: Check fails with NOT_FOUND for a name that is not served,
Watch answers SERVICE_UNKNOWN and stays open.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from enum import StrEnum
from typing import Final

from google.protobuf.message import DecodeError

from protos.health_pb2 import HealthCheckRequest, HealthCheckResponse
from sidecars.transport.api.service import Call, Code, Method, ServerStreaming, Service, StatusError, Unary

_SERVING: Final = HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()
_NOT_SERVING: Final = HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING).SerializeToString()
_SERVICE_UNKNOWN: Final = HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN).SerializeToString()


class ProcessPhase(StrEnum):
    """The phase of the process."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Health:
    """Holds the phase of the process, and the gRPC health service that reports it for `names` and ''."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {"", *names}
        self._phase = ProcessPhase.STARTING
        self._changed = asyncio.Event()
        self._finished = False

    @property
    def phase(self) -> ProcessPhase:
        """The present phase."""
        return self._phase

    @property
    def service(self) -> Service:
        """`grpc.health.v1.Health`."""
        methods: dict[str, Method] = {
            "Check": Unary(self._check, urgent=lambda _: True),
            "Watch": ServerStreaming(self._watch),
        }
        return Service("grpc.health.v1.Health", methods)

    def enter(self, phase: ProcessPhase) -> None:
        """Change the phase and tell every watcher."""
        self._phase = phase
        self._wake()

    def finish_streams(self) -> None:
        """End every Watch after it has sent the phase; later ones send it and end at once."""
        self._finished = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _answer(self, name: str) -> bytes:
        if name not in self._names:
            return _SERVICE_UNKNOWN
        return _SERVING if self._phase is ProcessPhase.READY else _NOT_SERVING

    def _check(self, request: bytes, _call: Call) -> bytes:
        name = _name_in(request)
        if name not in self._names:
            raise StatusError(Code.NOT_FOUND, "unknown service")
        return self._answer(name)

    async def _watch(self, request: bytes, _call: Call) -> AsyncIterator[bytes]:
        name = _name_in(request)
        sent = b""
        while True:
            changed = self._changed
            answer = self._answer(name)
            if answer != sent:
                sent = answer
                yield answer
                continue  # it may have changed while the answer was sent
            if self._finished:
                return
            await changed.wait()


def _name_in(request: bytes) -> str:
    try:
        return HealthCheckRequest.FromString(request).service
    except DecodeError as error:
        raise StatusError(Code.INVALID_ARGUMENT, "malformed HealthCheckRequest") from error
