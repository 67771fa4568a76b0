"""TLS of accepted sockets: counted from their accept, bounded in time, reported if it fails.

asyncio's own TLS servers keep one context, and do not report which handshakes fail, and why.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import structlog

from common.os_errors import in_words
from sidecars.transport.http2.errors import Reason
from sidecars.transport.server.connection_manager import ConnectionManager
from sidecars.transport.server.protocol import CLOSE_SECONDS, SocketProtocol, peer_name
from sidecars.transport.server.tls import alert_of, words

ACCEPTS_AT_ONCE: Final = 100
"""The most sockets accepted before others have their turn, as with asyncio's servers."""

ACCEPT_AGAIN_SECONDS: Final = 1.0
"""The pause when accept fails: a process that is out of descriptors would ask as fast as it can."""

LAST_READ_BYTES: Final = 16 * 1024
MAX_LAST_READS: Final = 16
"""The most bytes read from a refused client: more than it sends before it learns of the refusal."""

_NOT_TLS: Final = frozenset(
    {
        "BAD_PROTOCOL_VERSION_NUMBER",
        "HTTPS_PROXY_REQUEST",
        "HTTP_REQUEST",
        "PACKET_LENGTH_TOO_LONG",
        "RECORD_LAYER_FAILURE",
        "UNEXPECTED_MESSAGE",
        "WRONG_VERSION_NUMBER",
    }
)
"""What OpenSSL finds wrong with the first bytes of a peer that speaks something else."""

_log = structlog.get_logger("sidecars.transport")


class TlsServer:
    """Accepts on `listening` until `close`; each handshake asks `context` for its own."""

    def __init__(
        self,
        manager: ConnectionManager,
        listening: socket.socket,
        context: Callable[[], ssl.SSLContext],
        *,
        trusted: bool,
    ) -> None:
        self._manager = manager
        self._listening = listening
        self._trusted = trusted
        self._context = context
        self._again: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Accept no more. Handshakes that have begun go on."""
        if self._again is not None:
            self._again.cancel()
        self._manager.loop.remove_reader(self._listening.fileno())

    def _listen(self) -> None:
        self._again = None
        self._manager.loop.add_reader(self._listening.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                accepted, name = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors, or of memory
                _log.error("cannot accept", error=in_words(error), again_seconds=ACCEPT_AGAIN_SECONDS)
                self._manager.loop.remove_reader(self._listening.fileno())
                self._again = self._manager.loop.call_later(ACCEPT_AGAIN_SECONDS, self._listen)
                return
            accepted.setblocking(False)
            self._begin(accepted, peer_name(name))

    def _begin(self, accepted: socket.socket, peer: str) -> None:
        manager = self._manager
        handoff = _TlsHandoff(manager, peer, trusted=self._trusted)
        if not manager.admit(handoff.protocol):
            manager.refused(Reason.TOO_MANY_CONNECTIONS, "too many connections", peer)
            accepted.close()
            return

        def ended(task: asyncio.Task[None]) -> None:
            if task.cancelled():
                accepted.close()  # before it had begun, perhaps
            if not handoff.opened:
                manager.disconnected(handoff.protocol)

        task = manager.loop.create_task(self._handshake(accepted, handoff))
        task.add_done_callback(ended)
        manager.handshake_began(task)

    async def _handshake(self, accepted: socket.socket, handoff: "_TlsHandoff") -> None:
        manager = self._manager
        ours = _duplicate(accepted)  # the loop closes its own before a failure is known here
        try:
            await manager.loop.connect_accepted_socket(
                lambda: handoff,
                accepted,
                ssl=self._context(),
                ssl_handshake_timeout=manager.preface_timeout_seconds,
                ssl_shutdown_timeout=CLOSE_SECONDS,
            )
        except ssl.SSLError as error:
            manager.refused(Reason.TLS_HANDSHAKE, _what_failed(error), handoff.peer)
            if ours is not None and error.reason not in _NOT_TLS:
                await _tell(manager.loop, ours, alert_of(error))
        except ConnectionAbortedError:  # by the loop, when the time is over
            detail = f"no TLS handshake within {manager.preface_timeout_seconds:g} s"
            manager.refused(Reason.SLOW_START, detail, handoff.peer)
        except OSError:
            pass  # it hung up, as the probe of a load balancer does: that breaks no rule
        finally:
            if ours is not None:
                ours.close()


def _duplicate(accepted: socket.socket) -> socket.socket | None:
    """A duplicate of the socket; None if the process is out of descriptors."""
    try:
        return accepted.dup()
    except OSError:
        return None


async def _tell(loop: asyncio.AbstractEventLoop, to: socket.socket, alert: bytes) -> None:
    """Send the alert, and give the client a moment to read it.

    It also reads what the client sent after its certificate: closing with unread input resets the connection,
    and a reset may overtake the alert.
    """
    with suppress(OSError):  # TimeoutError is one
        to.send(alert)
        to.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(CLOSE_SECONDS):
            for _ in range(MAX_LAST_READS):
                if not await loop.sock_recv(to, LAST_READ_BYTES):
                    break


class _TlsHandoff(asyncio.Protocol):
    """Lets a socket in whose handshake is over, into the hands of its `SocketProtocol`."""

    __slots__ = ("_manager", "opened", "peer", "protocol")

    def __init__(self, manager: ConnectionManager, peer: str, *, trusted: bool) -> None:
        self._manager = manager
        self.peer = peer
        self.protocol = SocketProtocol(manager, trusted=trusted)
        self.opened = False
        """Whether the handshake was completed: the end of the socket is told here or by `protocol` then."""

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        """Ours only until here, unless it is turned away."""
        self.opened = True
        transport = cast("asyncio.Transport", made)
        session: ssl.SSLObject = transport.get_extra_info("ssl_object")
        if session.selected_alpn_protocol() != "h2":
            self._reject(transport, Reason.TLS_WITHOUT_H2, "the TLS handshake did not agree on h2 by ALPN")
        elif session.session_reused and _has_expired(session.getpeercert()):
            # TLS 1.2 resumes what was agreed on up to two hours ago, and looks at no date.
            detail = "client certificate refused: certificate has expired"
            self._reject(transport, Reason.TLS_HANDSHAKE, detail)
        else:
            transport.set_protocol(self.protocol)
            self.protocol.connection_made(transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        """A socket that was turned away is closed."""
        self._manager.disconnected(self.protocol)

    def _reject(self, transport: asyncio.Transport, reason: Reason, detail: str) -> None:
        self._manager.refused(reason, detail, self.peer)
        transport.close()  # in TLS with a close_notify, so that the client sees an end and no accident


def _has_expired(certificate: dict[str, Any] | None) -> bool:
    return certificate is not None and ssl.cert_time_to_seconds(certificate["notAfter"]) < time.time()


_EXTENSION_HINTS: Final = {
    85: " (RFC 5280 section 4.2.1.1; sign it with authorityKeyIdentifier=keyid)",
    86: " (RFC 5280 section 4.2.1.2; make the authority with subjectKeyIdentifier=hash)",
}
"""What to change in a certificate that lacks an extension, by OpenSSL's X509_V_ERR code."""


def _what_failed(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"client certificate refused: {error.verify_message}{_EXTENSION_HINTS.get(error.verify_code, '')}"
        )
    reason = error.reason or ""
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "the client shows no certificate"
    if reason in _NOT_TLS:
        return f"what it sends is not TLS ({words(error)})"
    if "_ALERT_" in reason:
        return f"the client ends the handshake: {words(error).partition(' alert ')[2]}"
    return words(error) or str(error)
