"""Checks what the settings need on this machine: TLS files, folders of sockets and logs."""

import os
import socket
import ssl
import stat
from collections.abc import Collection, Iterator
from dataclasses import replace
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

from common.configfile import KeyPart
from common.os_errors import in_words
from sidecars.settings.bundle import BundleSettings
from sidecars.settings.load import Reading
from sidecars.settings.per_worker import for_worker
from sidecars.settings.redis import RedisSettings
from sidecars.settings.root import Settings
from sidecars.settings.sessions_api import SessionsApiClient
from sidecars.settings.sinks import (
    FileSinkSettings,
    KafkaSinkSettings,
    OtlpSinkSettings,
    ParquetSinkSettings,
)
from sidecars.transport.api.address import Address, TcpAddress, TlsSettings, UnixAddress

_Path = tuple[KeyPart, ...]
_Finding = tuple[_Path, str]

SECTIONS: Final = ("authz", "ratelimit", "accesslog")


def on_this_machine(reading: Reading, names: Collection[str] = SECTIONS) -> Reading:
    """`reading` with the problems on this machine, too. `names`: the sidecars that run."""
    if reading.settings is None:
        return reading
    found = [
        reading.locate(path, message)
        for path, message in unfit_for_machine(reading.settings)
        if path[0] not in SECTIONS or path[0] in names
    ]
    return replace(reading, problems=(*reading.problems, *found))


def unfit_for_machine(settings: Settings) -> Iterator[_Finding]:
    """What this machine lacks, each once: key paths and messages."""
    found = [*_of_files(settings)]
    for worker in range(settings.workers):
        own = for_worker(settings, worker)
        for path, address in listens(own):
            found += _of_socket(path, address)
        found += _of_outputs(own)
    yield from dict.fromkeys(found)


def _of_files(settings: Settings) -> Iterator[_Finding]:
    for path, address in listens(settings):
        if address.tls is not None:
            yield from _of_tls((*path, "tls"), address.tls)
    if settings.ratelimit is not None:
        path = ("ratelimit", "hash_values", "hmac_key_file")
        yield from _of_file(path, settings.ratelimit.hash_values.hmac_key_file)
    if settings.bundle is not None:
        yield from _of_bundle(settings.bundle)
    yield from _of_redis("redis", settings.redis)
    yield from _of_redis("redis_per_second", settings.redis_per_second)


def _of_bundle(bundle: BundleSettings) -> Iterator[_Finding]:
    for key_id, file in bundle.keys.items():
        yield from _of_file(("bundle", "keys", key_id), file)
    for name in ("headers_file", "ca_file"):
        yield from _of_file(("bundle", name), getattr(bundle, name))
        if bundle.status is not None:
            yield from _of_file(("bundle", "status", name), getattr(bundle.status, name))
    if not bundle.folder.is_dir():
        yield from _of_folder(("bundle", "folder"), bundle.folder)


def open_to_all(settings: Settings) -> Iterator[_Finding]:
    """The ports that every network reaches without TLS: key paths and messages. These are warnings."""
    of_workers = settings.admin.workers if settings.workers > 1 else None
    more = [] if of_workers is None else [(("admin", "workers"), of_workers)]
    for path, address in (*listens(settings), *more):
        whole = isinstance(address, TcpAddress) and _is_every_address(address.host)
        if whole and path[0] == "admin":
            text = "and shows the configuration to everyone: listen on 127.0.0.1"
            yield path, f"{address} is open to every network without TLS, {text}"
        elif whole and address.tls is None:
            text = "and answers everyone as it answers Envoy: add tls, or listen on 127.0.0.1"
            yield path, f"{address} is open to every network without TLS, {text}"


def _is_every_address(host: str) -> bool:
    """Whether a server on `host` is reached over every interface, however that is spelled."""
    try:
        address = ip_address(host)
    except ValueError:
        try:
            return socket.inet_aton(host) == bytes(4)  # `0`, `0.0` and `0x0`, as getaddrinfo reads them
        except OSError:
            return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_unspecified


def listens(settings: Settings) -> Iterator[tuple[_Path, Address]]:
    """Every address that is listened on."""
    yield ("admin", "listen"), settings.admin.listen
    for index, address in enumerate(settings.admin.also_listen):
        yield ("admin", "also_listen", index), address
    for name in SECTIONS:
        section = getattr(settings, name)
        for index, address in enumerate(section.listen if section is not None else ()):
            yield (name, "listen", index), address
    if settings.ratelimit is not None and settings.ratelimit.http is not None:
        yield ("ratelimit", "http"), settings.ratelimit.http
    if settings.authz is not None and settings.authz.sessions_api is not None:
        yield ("authz", "sessions_api", "listen"), settings.authz.sessions_api.listen


def _of_socket(path: _Path, address: Address) -> Iterator[_Finding]:
    if not isinstance(address, UnixAddress) or address.abstract:
        return
    socket = Path(address.path)
    yield from _of_folder(path, socket)
    try:
        mode = socket.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        yield path, f"{socket} exists and is not a socket: name another path, or remove it"


def _of_folder(path: _Path, file: Path) -> Iterator[_Finding]:
    if not file.parent.is_dir():
        yield path, f"the folder {file.parent} does not exist; create it"


def _of_file(path: _Path, file: Path | None) -> Iterator[_Finding]:
    """A file that is read."""
    if file is None:
        return
    try:
        with file.open("rb"):
            return
    except OSError as error:
        yield path, f"{file} cannot be read: {in_words(error)}"


def _of_tls(path: _Path, tls: TlsSettings) -> Iterator[_Finding]:
    lacking = [
        *_of_file((*path, "cert_file"), tls.cert_file),
        *_of_file((*path, "key_file"), tls.key_file),
        *_of_file((*path, "client_ca_file"), tls.client_ca_file),
    ]
    yield from lacking
    if not lacking:
        yield from _of_pair(path, tls.cert_file, tls.key_file)
        if tls.client_ca_file is not None:
            yield from _of_client_authorities((*path, "client_ca_file"), tls.client_ca_file)


def _of_pair(path: _Path, certificate: Path, key: Path) -> Iterator[_Finding]:
    wrong = [*_of_authorities((*path, "cert_file"), certificate)]
    yield from wrong
    if wrong:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            yield (*path, "key_file"), f"{key} is not the key of the first certificate in {certificate}"
        else:
            yield (*path, "key_file"), f"{key} holds no PEM private key that can be used without a password"
    except (OSError, ValueError):
        yield (*path, "key_file"), f"{key} holds no PEM private key that can be used without a password"


def _no_password() -> str:
    """Prevents the prompt at the terminal that OpenSSL shows for an encrypted key."""
    return ""


def _of_authorities(path: _Path, file: Path) -> Iterator[_Finding]:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(file)
    except OSError:  # SSLError is one
        yield path, f"{file} holds no PEM certificate"


def _of_client_authorities(path: _Path, file: Path) -> Iterator[_Finding]:
    wrong = [*_of_authorities(path, file)]
    yield from wrong
    if not wrong:
        from sidecars.transport.server.authorities import check_authorities

        try:
            check_authorities(file)
        except OSError as error:
            yield path, str(error)


def _of_redis(section: str, redis: RedisSettings | None) -> Iterator[_Finding]:
    if redis is None:
        return
    for name in ("password_file", "ca_file", "cert_file", "key_file"):
        yield from _of_file((section, name), getattr(redis, name))
    if redis.sentinel is not None:
        yield from _of_file((section, "sentinel", "password_file"), redis.sentinel.password_file)
    if redis.ca_file is not None and os.access(redis.ca_file, os.R_OK):
        yield from _of_authorities((section, "ca_file"), redis.ca_file)
    certificate, key = redis.cert_file, redis.key_file
    if certificate is None or key is None:
        return
    if os.access(certificate, os.R_OK) and os.access(key, os.R_OK):
        yield from _of_pair((section,), certificate, key)


def _of_outputs(settings: Settings) -> Iterator[_Finding]:
    for index, sink in enumerate(settings.accesslog.sinks if settings.accesslog is not None else ()):
        if isinstance(sink, FileSinkSettings):
            yield from _of_output(("accesslog", "sinks", index, "path"), sink.path)
        if isinstance(sink, ParquetSinkSettings):
            yield from _of_folder(("accesslog", "sinks", index, "folder"), sink.folder)
        if isinstance(sink, KafkaSinkSettings):
            yield from _of_file(("accesslog", "sinks", index, "properties_file"), sink.properties_file)
        if isinstance(sink, OtlpSinkSettings):
            for name in ("headers_file", "ca_file"):
                yield from _of_file(("accesslog", "sinks", index, name), getattr(sink, name))
        if sink.spool is not None:
            yield from _of_folder(("accesslog", "sinks", index, "spool", "folder"), sink.spool.folder)
    log = settings.authz.decisions.log if settings.authz is not None else None
    if log is not None and log.file is not None:
        yield from _of_output(("authz", "decisions", "log", "file"), log.file)
    yield from _of_file(("admin", "token_file"), settings.admin.token_file)
    api = settings.authz.sessions_api if settings.authz is not None else None
    for index, client in enumerate(() if api is None else api.clients):
        yield from _of_token_file(("authz", "sessions_api", "clients", index, "token_file"), client)
    if settings.admin.port_file is not None:
        yield from _of_output(("admin", "port_file"), settings.admin.port_file)


def _of_token_file(path: _Path, client: SessionsApiClient) -> Iterator[_Finding]:
    wrong = [*_of_file(path, client.token_file)]
    yield from wrong
    if not wrong:
        try:
            client.token_hashes()
        except (OSError, ValueError) as error:
            yield path, f"{client.token_file} cannot be used: {error}"


def _of_output(path: _Path, file: Path) -> Iterator[_Finding]:
    """A file that is written."""
    if file.is_dir():
        yield path, f"{file} is a folder; expected the path of a file"
    yield from _of_folder(path, file)
