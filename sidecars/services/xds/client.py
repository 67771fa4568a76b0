"""The ADS client: one stream to a management server, opened again whenever it ends."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Any, Final

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from common.configfile import ConfigError
from common.os_errors import in_words
from protos.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from sidecars.services.xds.conversation import TYPE_URL, Conversation, backoff_seconds
from sidecars.services.xds.limits import SentLimits, sent_limits
from sidecars.settings.xds import XdsSettings, XdsTlsSettings

STREAM: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"

KEEPALIVE_MS: Final = 30_000
"""An idle stream is pinged so often: else a server that is gone without a word is never noticed."""

KEEPALIVE_TIMEOUT_MS: Final = 10_000

CONNECT_SECONDS: Final = 10.0

_LONGEST_DETAILS: Final = 500

_log = structlog.get_logger("sidecars.ratelimit")


class Result(StrEnum):
    """What became of a response: the label of a metric."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"


class XdsClient:
    """Receives limits, gives them to `use`, and tells the server whether they are in service.

    `use` raises ConfigError for limits that it refuses: the ones before stay in service. `headers` are read
    for each stream, and may raise OSError. `random` is in [0, 1).
    """

    def __init__(
        self,
        settings: XdsSettings,
        use: Callable[[SentLimits], Awaitable[None]],
        *,
        agent: str,
        headers: Callable[[], Mapping[str, str]],
        random: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._use = use
        self._headers = headers
        self._random = random
        self._clock = clock
        self._conversation = Conversation(settings.node_id, settings.cluster, settings.metadata, agent)
        self._failures = 0
        self._logged = ""
        """The trouble in the log, which has each once."""
        self.connected = False
        """Whether a stream is open."""
        self.responses = dict.fromkeys(Result, 0)
        self.rejection = ""
        """Why the last response was rejected; empty if it was accepted, or there was none."""
        self.trouble = ""
        """Why the last stream ended; empty while one is open."""

    @property
    def version(self) -> str:
        """The version of the last limits that were accepted from the server."""
        return self._conversation.version

    async def run(self) -> None:
        """Keep a stream open, until cancelled."""
        settings = self._settings
        while True:
            begun = self._clock()
            trouble = await self._stream()
            lasted = self._clock() - begun
            self._failures = 1 if lasted >= settings.backoff_max_seconds else self._failures + 1
            if trouble != self._logged:
                _log.warning("management server is away, limits stay", server=settings.server, error=trouble)
            self.trouble = self._logged = trouble
            most = settings.backoff_max_seconds
            await asyncio.sleep(
                backoff_seconds(self._failures, settings.backoff_min_seconds, most, self._random())
            )

    async def _stream(self) -> str:
        """Serve one stream to its end, and return why it ended."""
        try:
            metadata = tuple((name.lower(), value) for name, value in self._headers().items())
            async with self._channel() as channel:
                call: Any = channel.stream_stream(STREAM)(metadata=metadata)
                async with asyncio.timeout(CONNECT_SECONDS):
                    await call.write(self._conversation.first().SerializeToString())
                self.connected, self.trouble = True, ""
                async for message in call:
                    answer = await self._answer(message)
                    await call.write(answer.SerializeToString())
                return "the server ended the stream"
        except grpc.aio.AioRpcError as error:
            details = (error.details() or "")[:_LONGEST_DETAILS]
            return f"{error.code().name}: {details}" if details else error.code().name
        except TimeoutError:
            return "no connection in time"
        except (asyncio.InvalidStateError, grpc.aio.UsageError):  # written to a stream that has just ended
            return "the server ended the stream"
        except OSError as error:
            return f"{error.filename or self._settings.server}: {in_words(error)}"
        finally:
            self.connected = False

    async def _answer(self, message: bytes) -> DiscoveryRequest:
        if self._logged:
            _log.info("management server answers again", server=self._settings.server)
        self._failures, self._logged = 0, ""
        try:
            response = DiscoveryResponse.FromString(message)
        except DecodeError:
            return self._reject(DiscoveryResponse(), "the message is not a DiscoveryResponse")
        if response.type_url != TYPE_URL:
            return self._reject(response, f"expected resources of {TYPE_URL}, found {response.type_url!r}")
        try:
            # In a thread, as thousands of limits take a second, and requests go on.
            sent = await asyncio.to_thread(sent_limits, response.version_info, response.resources)
            await self._use(sent)
        except ConfigError as error:
            return self._reject(response, str(error))
        self.responses[Result.ACCEPTED] += 1
        self.rejection = ""
        _log.info("limits of the management server are in service", version=response.version_info)
        return self._conversation.accepted(response)

    def _reject(self, response: DiscoveryResponse, reason: str) -> DiscoveryRequest:
        self.responses[Result.REJECTED] += 1
        self.rejection = reason
        _log.error(
            "limits of the management server are rejected, the ones before stay",
            version=response.version_info,
            error=reason,
        )
        return self._conversation.rejected(response, reason)

    def _channel(self) -> grpc.aio.Channel:
        settings = self._settings
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ]
        if settings.tls is None:
            return grpc.aio.insecure_channel(settings.server, options)
        if settings.tls.server_name:
            options.append(("grpc.ssl_target_name_override", settings.tls.server_name))
        return grpc.aio.secure_channel(settings.server, _credentials(settings.tls), options)


def _credentials(tls: XdsTlsSettings) -> grpc.ChannelCredentials:
    """Credentials of the files as they are now. Raises OSError."""
    roots, key, chain = (
        None if file is None else file.read_bytes() for file in (tls.ca_file, tls.key_file, tls.cert_file)
    )
    return grpc.ssl_channel_credentials(roots, key, chain)
