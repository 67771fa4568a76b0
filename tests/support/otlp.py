"""Receivers of OTLP logs on the official package opentelemetry-proto: one by gRPC, one by HTTP."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import grpc.aio
from aiohttp import web
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

EXPORT_SERVICE = "opentelemetry.proto.collector.logs.v1.LogsService"


@dataclass
class Answer:
    """What the receiver answers to one request."""

    code: Any = None
    """A grpc.StatusCode, or an HTTP status; None: success."""
    retry_after: float | None = None
    rejected: int = 0
    takes: bool = True
    """Whether it keeps the records all the same, as one whose answer is lost."""


@dataclass
class Receiver:
    """The records that arrived, and what is answered to the next requests."""

    requests: list[ExportLogsServiceRequest] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    attempts: int = 0
    every: Callable[[int], Answer | None] = lambda _: None
    """The answer to the request with this number, if it is not the usual one."""

    @property
    def records(self) -> list[Any]:
        return [
            record
            for request in self.requests
            for logs in request.resource_logs
            for scope in logs.scope_logs
            for record in scope.log_records
        ]

    def take(self, data: bytes, headers: dict[str, str]) -> Answer:
        self.attempts += 1
        self.headers.append(headers)
        answer = self.every(self.attempts) or (self.answers.pop(0) if self.answers else Answer())
        if answer.code is None:
            self.requests.append(ExportLogsServiceRequest.FromString(data))
        return answer


def response(answer: Answer) -> bytes:
    message = ExportLogsServiceResponse()
    if answer.rejected:
        message.partial_success.rejected_log_records = answer.rejected
        message.partial_success.error_message = "too old"
    return message.SerializeToString()


class Server(Protocol):
    @property
    def url(self) -> str: ...

    @property
    def receiver(self) -> Receiver: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class GrpcReceiver:
    """A LogsService; after a stop it starts again on the same port."""

    def __init__(self) -> None:
        self._receiver = Receiver()
        self._port = 0
        self._server: grpc.aio.Server | None = None

    @property
    def receiver(self) -> Receiver:
        return self._receiver

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        method: Any = grpc.unary_unary_rpc_method_handler(self._export)
        handler = grpc.method_handlers_generic_handler(EXPORT_SERVICE, {"Export": method})
        self._server.add_generic_rpc_handlers((handler,))
        self._port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        await self._server.start()

    async def stop(self) -> None:
        assert self._server is not None
        await self._server.stop(0)

    async def _export(self, request: bytes, context: Any) -> bytes:
        headers = {key: str(value) for key, value in context.invocation_metadata()}
        answer = self._receiver.take(request, headers)
        if answer.code is not None:
            trailers: list[tuple[str, bytes]] = []
            if answer.retry_after is not None:
                detail = AnyMessage()
                seconds = int(answer.retry_after)
                detail.Pack(
                    RetryInfo(
                        retry_delay=Duration(seconds=seconds, nanos=int((answer.retry_after - seconds) * 1e9))
                    )
                )
                trailers = [("grpc-status-details-bin", Status(details=[detail]).SerializeToString())]
            context.set_trailing_metadata(tuple(trailers))
            await context.abort(answer.code, "not now")
        return response(answer)


class HttpReceiver:
    """POST /v1/logs; after a stop it starts again on the same port."""

    def __init__(self) -> None:
        self._receiver = Receiver()
        self._port = 0
        self._runner: web.AppRunner | None = None

    @property
    def receiver(self) -> Receiver:
        return self._receiver

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/logs", self._export)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _export(self, request: web.Request) -> web.Response:
        data = await request.read()
        if data[:2] == b"\x1f\x8b":  # aiohttp inflates by the header itself
            data = gzip.decompress(data)
        assert request.content_type == "application/x-protobuf"
        answer = self._receiver.take(data, {key.lower(): value for key, value in request.headers.items()})
        if answer.code is not None:
            headers = {} if answer.retry_after is None else {"Retry-After": f"{answer.retry_after:g}"}
            return web.Response(status=answer.code, headers=headers)
        return web.Response(body=response(answer), content_type="application/x-protobuf")
