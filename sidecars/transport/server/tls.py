"""TLS for a listening socket: HTTP/2 by ALPN, client certificates, and files that change while it serves."""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

import structlog

from common.os_errors import in_words
from sidecars.transport.api.address import TlsSettings

_log = structlog.get_logger("sidecars.transport")

_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""The ciphers of TLS 1.2 that HTTP/2 does not forbid (RFC 9113 section 9.2.2)."""


class ServerContext:
    """An SSL context that follows its files.

    A change makes a new one, for the handshakes that begin after it. Sessions belong to the context they were
    made with, so none outlives the files that let its client in. A change that cannot be loaded leaves the
    last good one in service.
    """

    def __init__(
        self, settings: TlsSettings, current: ssl.SSLContext, expiries: Mapping[Path, float], seen: object
    ) -> None:
        self._settings = settings
        self._current = current
        self.expiries = expiries
        """When the first certificate of each file in service expires, in Unix seconds."""
        self._seen = seen
        self._watcher: asyncio.Task[None] | None = None
        self._refused = ""

    @classmethod
    async def load(cls, settings: TlsSettings) -> "ServerContext":
        """Read the files. Raises OSError when they are not usable."""
        # First: a change while the files are read must be seen as one.
        seen = await asyncio.to_thread(_stamps, settings)
        return cls(settings, *await asyncio.to_thread(_build, settings), seen)

    def current(self) -> ssl.SSLContext:
        """The one for a handshake that begins now."""
        return self._current

    @property
    def is_stale(self) -> bool:
        """Whether the files were refused when they were last read, so that the last good ones serve."""
        return bool(self._refused)

    async def reload(self) -> bool:
        """Read the files again; whether they are usable. The last good ones stay where they are not."""
        try:
            self._current, self.expiries = await asyncio.to_thread(_build, self._settings)
        except OSError as error:
            if str(error) != self._refused:  # once, and not at every look
                _log.warning("cannot reload TLS files, keeping the old ones", error=str(error))
            self._refused = str(error)
            return False
        self._refused = ""
        _log.info("TLS files reloaded", certificate=str(self._settings.cert_file))
        return True

    def keep_fresh(self) -> None:
        """Watch the files until `stop`."""
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Stop watching."""
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._settings.reload_seconds)
            seen = await asyncio.to_thread(_stamps, self._settings)
            # A pair that is half replaced does not load: it is tried again until it does.
            if seen == self._seen:
                self._refused = ""  # what was refused in between is gone
            elif await self.reload():
                self._seen = seen


def alert_of(error: ssl.SSLError) -> bytes:
    """What a handshake that ended with `error` has still to send: the alert that tells the client why.

    OpenSSL writes it (RFC 8446 section 6.2). The TLS of asyncio and uvloop drops it with the connection.
    """
    alert: bytes = getattr(error, "alert", b"")
    return alert


class _Context(ssl.SSLContext):
    """A context whose handshakes keep their alert in the error that they end with."""

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **options: Any) -> ssl.SSLObject:  # type: ignore[override]
        session = cast("_Session", super().wrap_bio(incoming, outgoing, **options))
        session.outgoing = outgoing
        return session


class _Session(ssl.SSLObject):
    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            error.alert = self.outgoing.read()  # type: ignore[attr-defined]
            raise


_Context.sslobject_class = _Session


def words(error: ssl.SSLError) -> str:
    """OpenSSL's reason as words, without its source file and line; empty where it gives none."""
    return (error.reason or "").lower().replace("_", " ")


def _build(settings: TlsSettings) -> tuple[ssl.SSLContext, Mapping[Path, float]]:
    """Return the context, and when its files expire. Raises OSError with the files in its text."""
    try:
        return _context(settings), _expiries(settings)
    except OSError as error:  # ssl.SSLError is one, and names no file either
        names = ", ".join(map(str, settings.files))
        if isinstance(error, ssl.SSLError):
            detail = words(error) or "not each of them holds PEM"
        elif error.filename is not None:
            detail = f"{error.filename} cannot be read: {in_words(error)}"
        else:
            detail = in_words(error)
        raise OSError(f"cannot serve TLS with {names}: {detail}") from None


def _context(settings: TlsSettings) -> ssl.SSLContext:
    for file in settings.files:
        with file.open("rb"):
            pass  # OpenSSL would not say which of them cannot be read
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    # No tickets: Envoy's connections are few and long, and anyone with the key of the tickets could read all
    # of them. TLS 1.3 then resumes nothing; TLS 1.2 what this context remembers.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(settings.cert_file, settings.key_file, _refuse_to_ask(settings.key_file))
    if settings.client_ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        # RFC 5280 to the letter, as Python 3.13 and later verify by default: each Python refuses the same.
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(settings.client_ca_file)
        # 10 MB, for those alone who verify clients.
        from sidecars.transport.server.authorities import check_authorities

        check_authorities(settings.client_ca_file)
    return context


def _expiries(settings: TlsSettings) -> Mapping[Path, float]:
    # 10 MB, for those alone who serve TLS: the module ssl tells no dates of a server's own certificate.
    from sidecars.transport.server.authorities import first_expiry

    files = (settings.cert_file, settings.client_ca_file)
    found = {file: first_expiry(file) for file in files if file is not None}
    return {file: at for file, at in found.items() if at is not None}


def _refuse_to_ask(key: Path) -> Callable[[], str]:
    """For a key that needs a password: OpenSSL would ask at the terminal, and wait forever."""

    def refuse() -> str:
        raise OSError(f"{key} is encrypted; write the key without a password (openssl pkey -in OLD -out NEW)")

    return refuse


def _stamps(settings: TlsSettings) -> object:
    """A value that changes when a file is written, replaced, or reached by another symbolic link."""
    stamps: list[tuple[int, int, int] | None] = []
    for path in settings.files:
        try:
            found = path.stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append((found.st_mtime_ns, found.st_ino, found.st_size))
    return stamps
