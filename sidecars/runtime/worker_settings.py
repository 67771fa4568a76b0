"""The settings of one worker, made from those of all; and what several workers cannot share.

The rule: a unix socket or a file that each worker has for itself has `{worker}` in its path, which becomes
the worker's number, from 0. A TCP port is that of worker 0, and worker N listens on port + N.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from configfile import KeyPart
from sidecars.runtime.settings.accesslog import FileSinkSettings
from sidecars.runtime.settings.root import Settings
from sidecars.transport.address import Address, TcpAddress, UnixAddress

PLACEHOLDER = "{worker}"

_SECTIONS = ("authz", "ratelimit", "accesslog")

_Path = tuple[KeyPart, ...]


def for_worker(settings: Settings, worker: int) -> Settings:
    """`settings` as worker number `worker` is to follow them; number 0 where there is only one."""
    changes: dict[str, Any] = {}
    for name in _SECTIONS:
        section = getattr(settings, name)
        if section is not None:
            listen = tuple(address_of(address, worker) for address in section.listen)
            changes[name] = section.model_copy(update={"listen": listen})
    if "accesslog" in changes:
        sinks = tuple(
            sink.model_copy(update={"path": _path_of(sink.path, worker)})
            if isinstance(sink, FileSinkSettings)
            else sink
            for sink in changes["accesslog"].sinks
        )
        changes["accesslog"] = changes["accesslog"].model_copy(update={"sinks": sinks})
    if "authz" in changes:
        changes["authz"] = _with_own_decision_log(changes["authz"], worker)
    if "ratelimit" in changes:
        # Each worker is one more that counts for itself while the shared store is away.
        replicas = changes["ratelimit"].replicas * settings.workers
        changes["ratelimit"] = changes["ratelimit"].model_copy(update={"replicas": replicas})
    own_admin = settings.admin.workers
    if settings.workers > 1 and own_admin is not None:
        changes["admin"] = settings.admin.model_copy(
            update={"listen": address_of(own_admin, worker), "port_file": None}
        )
    return settings.model_copy(update=changes)


def address_of(address: Address, worker: int) -> Address:
    """Where worker number `worker` listens; port 0 stays: each is given a free one."""
    if isinstance(address, TcpAddress):
        return replace(address, port=address.port + worker) if address.port else address
    return replace(address, path=address.path.replace(PLACEHOLDER, str(worker)))


def unfit_for_workers(settings: Settings) -> Iterator[tuple[_Path, str]]:
    """What in `settings` cannot work with as many workers as they ask for: key paths and messages."""
    if settings.workers == 1:
        return
    yield from _without_placeholder(settings)
    yield from _clashes(settings)
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
    if settings.admin.workers is not None:
        yield ("admin", "workers"), settings.admin.workers


def _files(settings: Settings) -> Iterator[tuple[_Path, Path]]:
    """Every file that each worker has for itself."""
    if settings.accesslog is not None:
        for index, sink in enumerate(settings.accesslog.sinks):
            if isinstance(sink, FileSinkSettings):
                yield ("accesslog", "sinks", index, "path"), sink.path
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


def _clashes(settings: Settings) -> Iterator[tuple[_Path, str]]:
    taken: dict[Address, str] = {}
    if not _free_port(settings.admin.listen):
        taken[settings.admin.listen] = "admin.listen"
    for path, address in _listens(settings):
        if _free_port(address):
            if path == ("admin", "workers"):
                yield path, "needs a port: nobody would know the one that the kernel picks"
            continue
        if isinstance(address, UnixAddress) and PLACEHOLDER not in address.path:
            continue  # told already
        for worker in range(settings.workers):
            own = address_of(address, worker)
            if isinstance(own, TcpAddress) and own.port > 65535:
                yield path, f"worker {worker} would listen on port {own.port}; the last one is 65535"
                break
            other = taken.setdefault(own, f"worker {worker} of {path[0]}")
            if other != f"worker {worker} of {path[0]}":
                yield path, f"{own}, for worker {worker}, is that of {other}; worker N listens on port + N"
                break


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


def _path_of(path: Path, worker: int) -> Path:
    return Path(str(path).replace(PLACEHOLDER, str(worker)))
