"""The settings of one worker, made from those of all; and what several workers cannot share.

The rule: a unix socket or a file that each worker has for itself has `{worker}` in its path, which becomes
the worker's number, from 0. A TCP port is that of worker 0, and worker N listens on port + N.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from common.configfile import KeyPart, key_path_text
from sidecars.settings.root import Settings
from sidecars.settings.sinks import FileSinkSettings, ParquetSinkSettings, SinkSettings
from sidecars.transport.api.address import Address, TcpAddress, UnixAddress

PLACEHOLDER: Final = "{worker}"

_SECTIONS: Final = ("authz", "ratelimit", "accesslog")

_Path = tuple[KeyPart, ...]


def for_worker(settings: Settings, worker: int) -> Settings:
    """The `settings` of worker number `worker`, which is 0 where there is only one."""
    changes: dict[str, Any] = {}
    for name in _SECTIONS:
        section = getattr(settings, name)
        if section is not None:
            listen = tuple(address_of(address, worker) for address in section.listen)
            changes[name] = section.model_copy(update={"listen": listen})
    if "accesslog" in changes:
        sinks = tuple(_own_sink(sink, worker) for sink in changes["accesslog"].sinks)
        own_log: dict[str, Any] = {"sinks": sinks}
        if worker:
            own_log["envoy_admin"] = None  # its counters would be summed
        changes["accesslog"] = changes["accesslog"].model_copy(update=own_log)
    if "authz" in changes:
        changes["authz"] = _with_own_sessions_api(_with_own_decision_log(changes["authz"], worker), worker)
    if "ratelimit" in changes:
        # Each worker is one more that counts for itself while the shared store is away.
        ratelimit = changes["ratelimit"]
        http = None if ratelimit.http is None else address_of(ratelimit.http, worker)
        given = ratelimit.replicas
        own = {"replicas": None if given is None else given * settings.workers, "http": http}
        changes["ratelimit"] = ratelimit.model_copy(update=own)
    own_admin = settings.admin.workers
    if settings.workers > 1 and own_admin is not None:
        changes["admin"] = settings.admin.model_copy(
            update={"listen": address_of(own_admin, worker), "also_listen": (), "port_file": None}
        )
    return settings.model_copy(update=changes)


def address_of(address: Address, worker: int) -> Address:
    """Where worker number `worker` listens; port 0 stays: each is given a free one."""
    if isinstance(address, TcpAddress):
        return replace(address, port=address.port + worker) if address.port else address
    return replace(address, path=address.path.replace(PLACEHOLDER, str(worker)))


def validate_for_workers(settings: Settings) -> Iterator[tuple[_Path, str]]:
    """What in `settings` cannot work with as many workers as they ask for: key paths and messages."""
    yield from clashes(settings)
    if settings.workers == 1:
        return
    yield from _without_placeholder(settings)
    if settings.authz is not None and settings.authz.session_admin:
        text = (
            f"cannot be with workers: {settings.workers}, as a session in memory is known to one worker "
            "only; keep sessions in Redis, where `sidecars session` reaches them without this"
        )
        yield ("authz", "session_admin"), text


def _listens(settings: Settings) -> Iterator[tuple[_Path, Address]]:
    """Every address that each worker has for itself."""
    for name in _SECTIONS:
        section = getattr(settings, name)
        if section is not None:
            yield from (((name, "listen", index), address) for index, address in enumerate(section.listen))
    if settings.ratelimit is not None and settings.ratelimit.http is not None:
        yield ("ratelimit", "http"), settings.ratelimit.http
    if settings.authz is not None and settings.authz.sessions_api is not None:
        yield ("authz", "sessions_api", "listen"), settings.authz.sessions_api.listen
    if settings.admin.workers is not None:
        yield ("admin", "workers"), settings.admin.workers


def _files(settings: Settings) -> Iterator[tuple[_Path, Path]]:
    """Every file that each worker has for itself."""
    if settings.accesslog is not None:
        for index, sink in enumerate(settings.accesslog.sinks):
            if isinstance(sink, FileSinkSettings):
                yield ("accesslog", "sinks", index, "path"), sink.path
            if isinstance(sink, ParquetSinkSettings):
                yield ("accesslog", "sinks", index, "folder"), sink.folder
            if sink.spool is not None:
                yield ("accesslog", "sinks", index, "spool", "folder"), sink.spool.folder
    if settings.authz is not None:
        log = settings.authz.decisions.log
        if log is not None and log.file is not None:
            yield ("authz", "decisions", "log", "file"), log.file


def _without_placeholder(settings: Settings) -> Iterator[tuple[_Path, str]]:
    for path, address in _listens(settings):
        if isinstance(address, UnixAddress) and PLACEHOLDER not in address.path:
            example = _example(address.path)
            yield path, f"with workers: {settings.workers} each needs a socket of its own: write {example}"
    for path, file in _files(settings):
        if PLACEHOLDER not in str(file):
            example = _example(file.name)
            yield path, f"with workers: {settings.workers} each needs a file of its own: write {example}"


def clashes(settings: Settings) -> Iterator[tuple[_Path, str]]:
    """Addresses that two workers or two sections need: key paths and messages, one for each pair."""
    admin = settings.admin
    taken: list[tuple[_Path, int, Address]] = [(("admin", "listen"), 0, admin.listen)]
    for index, address in enumerate(admin.also_listen):
        also: _Path = ("admin", "also_listen", index)
        for other_path, _, other in taken:
            if _same_place(address, other):
                yield also, _clash(address, 0, other_path, 0, several=False)
        taken.append((also, 0, address))
    several = settings.workers > 1
    for path, address in _listens(settings):
        if _free_port(address):
            if path == ("admin", "workers"):
                yield path, "needs a port: no client would know the one that the kernel picks"
            continue
        if several and isinstance(address, UnixAddress) and PLACEHOLDER not in address.path:
            continue  # told already
        found: dict[_Path, str] = {}
        own = [(worker, address_of(address, worker)) for worker in range(settings.workers)]
        for worker, one in own:
            if isinstance(one, TcpAddress) and one.port > 65535:
                yield path, f"worker {worker} would listen on port {one.port}; the last one is 65535"
                break
            for other_path, other_worker, other in taken:
                if _same_place(one, other) and other_path not in found:
                    found[other_path] = _clash(one, worker, other_path, other_worker, several=several)
        yield from ((path, message) for message in found.values())
        taken += ((path, worker, one) for worker, one in own)


def _clash(address: Address, worker: int, other: _Path, other_worker: int, *, several: bool) -> str:
    where = key_path_text(other)
    if not several:
        return f"{address} is taken by {where}"
    owner = (
        where
        if where.startswith(("admin.listen", "admin.also_listen"))
        else f"worker {other_worker} of {where}"
    )
    return f"{address}, for worker {worker}, is taken by {owner}; worker N listens on port + N"


def _same_place(one: Address, other: Address) -> bool:
    """Whether only one of two servers can have it."""
    if not (isinstance(one, TcpAddress) and isinstance(other, TcpAddress)):
        return one == other
    return one.port == other.port != 0 and (_covers(one.host, other.host) or _covers(other.host, one.host))


def _covers(one: str, other: str) -> bool:
    """Whether a server on host `one` takes the port of host `other`."""
    if one == "0.0.0.0":
        return ":" not in other
    if one == "::":
        return ":" in other or other == "localhost"
    return one == other or (one == "localhost" and other in {"127.0.0.1", "::1"})


def _free_port(address: Address) -> bool:
    return isinstance(address, TcpAddress) and not address.port


def _example(text: str) -> str:
    stem, dot, suffix = text.rpartition(".")
    return f"{stem}.{PLACEHOLDER}.{suffix}" if dot and "/" not in suffix else f"{text}.{PLACEHOLDER}"


def _with_own_decision_log(authz: Any, worker: int) -> Any:
    log = authz.decisions.log
    if log is None or log.file is None:
        return authz
    own = log.model_copy(update={"file": _path_of(log.file, worker)})
    return authz.model_copy(update={"decisions": authz.decisions.model_copy(update={"log": own})})


def _with_own_sessions_api(authz: Any, worker: int) -> Any:
    api = authz.sessions_api
    if api is None:
        return authz
    own = api.model_copy(update={"listen": address_of(api.listen, worker)})
    return authz.model_copy(update={"sessions_api": own})


def _own_sink(sink: SinkSettings, worker: int) -> SinkSettings:
    changes: dict[str, Any] = {}
    if isinstance(sink, FileSinkSettings):
        changes["path"] = _path_of(sink.path, worker)
    if isinstance(sink, ParquetSinkSettings):
        changes["folder"] = _path_of(sink.folder, worker)
    if sink.spool is not None:
        folder = _path_of(sink.spool.folder, worker)
        changes["spool"] = sink.spool.model_copy(update={"folder": folder})
    return sink.model_copy(update=changes)


def _path_of(path: Path, worker: int) -> Path:
    return Path(str(path).replace(PLACEHOLDER, str(worker)))
