"""Who else on this machine can read secrets, and open or change what only the sidecars and Envoy should."""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from common.os_errors import in_words
from sidecars.doctor.finding import Finding, fail, ok, warn
from sidecars.settings.machine import listens
from sidecars.settings.per_worker import for_worker
from sidecars.settings.root import Settings
from sidecars.settings.sinks import (
    FileSinkSettings,
    KafkaSinkSettings,
    OtlpSinkSettings,
    ParquetSinkSettings,
)
from sidecars.transport.api.address import UnixAddress

_OTHERS_READ: Final = stat.S_IROTH
_OTHERS_WRITE: Final = stat.S_IWOTH


def check_files(settings: Settings, secrets_of_policy: list[Path]) -> Iterator[Finding]:
    """Yield a finding for each secret, socket, spool and log that others can reach, and one if none is."""
    found = [
        *_secrets([*_secret_files(settings), *secrets_of_policy]),
        *_sockets(settings),
        *_outputs(settings),
    ]
    yield from found
    if not found:
        yield ok("files", "secrets, sockets, spools and logs are closed to other users")


def _secret_files(settings: Settings) -> Iterator[Path]:
    for _, address in listens(settings):
        if address.tls is not None:
            yield address.tls.key_file
    if settings.admin.token_file is not None:
        yield settings.admin.token_file
    api = None if settings.authz is None else settings.authz.sessions_api
    yield from () if api is None else (client.token_file for client in api.clients)
    for redis in (settings.redis, settings.redis_per_second):
        if redis is not None:
            yield from filter(None, (redis.password_file, redis.key_file))
            if redis.sentinel is not None and redis.sentinel.password_file is not None:
                yield redis.sentinel.password_file
    for server in () if settings.bundle is None else (settings.bundle, settings.bundle.status):
        if server is not None and server.headers_file is not None:
            yield server.headers_file
    if settings.ratelimit is not None and settings.ratelimit.hash_values.hmac_key_file is not None:
        yield settings.ratelimit.hash_values.hmac_key_file
    for sink in () if settings.accesslog is None else settings.accesslog.sinks:
        if isinstance(sink, KafkaSinkSettings) and sink.properties_file is not None:
            yield sink.properties_file
        if isinstance(sink, OtlpSinkSettings) and sink.headers_file is not None:
            yield sink.headers_file


def _secrets(files: list[Path]) -> Iterator[Finding]:
    for file in dict.fromkeys(files):
        try:
            mode = file.stat().st_mode
        except OSError as error:
            yield fail(
                f"secret {file}", in_words(error), "write the file, readable by the user of the sidecars"
            )
            continue
        if mode & (_OTHERS_READ | _OTHERS_WRITE):
            seen = f"mode {_octal(mode)}: every user of this machine can read it"
            yield fail(f"secret {file}", seen, f"chmod o-rwx {file}, and replace the secret")


def _sockets(settings: Settings) -> Iterator[Finding]:
    addresses = [
        address for worker in range(settings.workers) for _, address in listens(for_worker(settings, worker))
    ]
    for address in dict.fromkeys(addresses):
        if not isinstance(address, UnixAddress) or address.abstract:
            continue
        socket = Path(address.path)
        mode = _mode(socket)
        if mode is not None and mode & _OTHERS_WRITE:
            seen = f"mode {_octal(mode)}: every user of this machine can connect"
            yield warn(f"socket {socket}", seen, f"write unix:{socket}?mode=0660, with Envoy in its group")
        yield from _replaceable(f"folder {socket.parent}", socket.parent, "replace the socket")


def _outputs(settings: Settings) -> Iterator[Finding]:
    for worker in range(settings.workers):
        own = for_worker(settings, worker)
        for sink in () if own.accesslog is None else own.accesslog.sinks:
            if isinstance(sink, FileSinkSettings):
                yield from _readable(f"access log {sink.path}", sink.path)
            if isinstance(sink, ParquetSinkSettings):
                yield from _readable(f"access log {sink.folder}", sink.folder)
            if sink.spool is not None:
                yield from _readable(f"spool {sink.spool.folder}", sink.spool.folder)
        log = None if own.authz is None else own.authz.decisions.log
        if log is not None and log.file is not None:
            yield from _readable(f"decision log {log.file}", log.file)


def _readable(check: str, path: Path) -> Iterator[Finding]:
    mode = _mode(path)
    if mode is None or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return  # a device or a pipe keeps nothing
    reach = _OTHERS_READ | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
    if mode & reach:
        seen = f"mode {_octal(mode)}: every user of this machine can read who asked for what"
        yield warn(check, seen, f"chmod o-rwx {path}")


def _replaceable(check: str, folder: Path, what: str) -> Iterator[Finding]:
    mode = _mode(folder)
    if mode is not None and mode & _OTHERS_WRITE and not mode & stat.S_ISVTX:
        seen = f"mode {_octal(mode)}: every user of this machine can {what}"
        yield fail(check, seen, f"chmod o-w {folder}")


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except OSError:
        return None


def _octal(mode: int) -> str:
    return f"{stat.S_IMODE(mode):04o}"
