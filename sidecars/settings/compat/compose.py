"""Settings that several variables make together."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, Final
from urllib.parse import quote, urlsplit

import orjson

from common.configfile import KeyPart
from sidecars.settings.compat.table import Values

Made = tuple[tuple[KeyPart, ...], Any, str]
"""A key path, its value, and the variable to name when the value is wrong."""

LEVELS: Final = {
    **dict.fromkeys(("panic", "fatal", "error"), "error"),
    **dict.fromkeys(("warn", "warning"), "warning"),
    "info": "info",
    **dict.fromkeys(("debug", "trace"), "debug"),
}
"""The level of ours for each of logrus."""


_XDS_TLS_PARTS: Final = {
    "ca_file": "SERVER_TLS_CACERT",
    "cert_file": "CLIENT_TLS_CERT",
    "key_file": "CLIENT_TLS_KEY",
    "server_name": "SERVER_TLS_SAN",
}
"""The variable, after CONFIG_GRPC_XDS_, of each key of `ratelimit.xds.tls`."""


class WrongVariableError(Exception):
    """A value that no setting can be made of."""

    def __init__(self, variable: str, message: str) -> None:
        super().__init__(message)
        self.variable = variable


def _addresses(values: Values, _given: Collection[str]) -> Iterator[Made]:
    yield ("ratelimit", "listen"), [_listen(values)], "GRPC_UDS" if values["GRPC_UDS"] else "GRPC_PORT"
    yield ("ratelimit", "http"), _address(values["HOST"], values["PORT"]), "PORT"
    yield ("admin", "listen"), _address(values["DEBUG_HOST"], values["DEBUG_PORT"]), "DEBUG_PORT"
    if values["USE_PROMETHEUS"]:
        host, _, port = values["PROMETHEUS_ADDR"].rpartition(":")
        yield ("admin", "also_listen"), [_address(host.strip("[]"), port)], "PROMETHEUS_ADDR"


def _log(values: Values, _given: Collection[str]) -> Iterator[Made]:
    level = LEVELS.get(values["LOG_LEVEL"].lower())
    if level is None:
        raise WrongVariableError("LOG_LEVEL", f"expected one of {', '.join(LEVELS)}")
    yield ("log", "level"), level, "LOG_LEVEL"
    is_json = values["LOG_FORMAT"].lower() == "json"
    yield ("log", "format"), "json" if is_json else "console", "LOG_FORMAT"


def _limits(values: Values, _given: Collection[str]) -> Iterator[Made]:
    kind = values["CONFIG_TYPE"].upper()
    if kind == "GRPC_XDS_SOTW":
        yield from _xds(values)
        return
    if kind != "FILE":
        raise WrongVariableError("CONFIG_TYPE", "expected FILE or GRPC_XDS_SOTW")
    yield ("ratelimit", "limits"), [_folder(values)], "RUNTIME_SUBDIRECTORY"
    hidden = "visible" if values["RUNTIME_IGNOREDOTFILES"] else "all"
    yield ("ratelimit", "folder_files"), hidden, "RUNTIME_IGNOREDOTFILES"


def _xds(values: Values) -> Iterator[Made]:
    """The section `ratelimit.xds`."""
    xds = ("ratelimit", "xds")
    # There a URL may begin with the scheme of a gRPC resolver.
    server = values["CONFIG_GRPC_XDS_SERVER_URL"].removeprefix("dns:///").removeprefix("dns:")
    yield (*xds, "server"), server, "CONFIG_GRPC_XDS_SERVER_URL"
    yield (*xds, "node_id"), values["CONFIG_GRPC_XDS_NODE_ID"], "CONFIG_GRPC_XDS_NODE_ID"
    name = "CONFIG_GRPC_XDS_NODE_METADATA"
    if values[name]:
        try:
            metadata = orjson.loads(values[name])
        except orjson.JSONDecodeError:
            metadata = None
        if not isinstance(metadata, dict):
            raise WrongVariableError(name, 'expected a JSON object, as in {"zone": "a"}')
        yield (*xds, "metadata"), metadata, name
    if values["CONFIG_GRPC_XDS_SERVER_USE_TLS"]:
        yield (*xds, "tls"), {}, "CONFIG_GRPC_XDS_SERVER_USE_TLS"
        for key, part in _XDS_TLS_PARTS.items():
            if values[f"CONFIG_GRPC_XDS_{part}"]:
                path = (*xds, "tls", key)
                yield path, values[f"CONFIG_GRPC_XDS_{part}"], f"CONFIG_GRPC_XDS_{part}"
    for key, part in (("backoff_min_seconds", "INITIAL"), ("backoff_max_seconds", "MAX")):
        yield (
            (*xds, key),
            values[f"XDS_CLIENT_BACKOFF_{part}_INTERVAL"],
            f"XDS_CLIENT_BACKOFF_{part}_INTERVAL",
        )
    name = "XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES"
    if values[name]:
        if not (values[name].isascii() and values[name].isdigit()):
            raise WrongVariableError(name, "expected a number of bytes")
        yield (*xds, "max_message_bytes"), int(values[name]), name


def _address(host: str, port: Any) -> str:
    """A listening address; without a host, Go listens on all of them."""
    return f"[{host}]:{port}" if ":" in host else f"{host or '0.0.0.0'}:{port}"


def _listen(values: Values) -> Any:
    path = values["GRPC_UDS"]
    address = f"unix:{path}" if path else _address(values["GRPC_HOST"], values["GRPC_PORT"])
    if not values["GRPC_SERVER_USE_TLS"]:
        return address
    tls = {"cert_file": values["GRPC_SERVER_TLS_CERT"], "key_file": values["GRPC_SERVER_TLS_KEY"]}
    if values["GRPC_CLIENT_TLS_CACERT"]:
        tls["client_ca_file"] = values["GRPC_CLIENT_TLS_CACERT"]
    return {"address": address, "tls": tls}


def _folder(values: Values) -> str:
    root, below, app = (
        values[f"RUNTIME_{part}"].strip() for part in ("ROOT", "SUBDIRECTORY", "APPDIRECTORY")
    )
    # There an empty name means that nothing is loaded and nothing limited, without an error.
    if values["RUNTIME_WATCH_ROOT"] and not below:
        raise WrongVariableError("RUNTIME_SUBDIRECTORY", "is required: the limits are in ROOT/SUBDIRECTORY")
    if not app:
        raise WrongVariableError("RUNTIME_APPDIRECTORY", "must not be empty")
    return "/".join(part.rstrip("/") for part in (root, below, app) if part)


def _redis(values: Values, given: Collection[str]) -> Iterator[Made]:
    yield from _redis_section("redis", "REDIS", values, given)
    # Their default, 10 s, is 500 times as long as Envoy waits.
    if "REDIS_TIMEOUT" in given:
        yield ("ratelimit", "redis_timeout_ms"), round(values["REDIS_TIMEOUT"] * 1000), "REDIS_TIMEOUT"
    if values["REDIS_PERSECOND"]:
        yield from _redis_section("redis_per_second", "REDIS_PERSECOND", values, given)
        yield ("redis_per_second", "max_connections"), max(4, values["REDIS_PERSECOND_POOL_SIZE"]), ""


def _redis_section(section: str, prefix: str, values: Values, given: Collection[str]) -> Iterator[Made]:
    tls, timeout = values[f"{prefix}_TLS"], f"{prefix}_TIMEOUT"
    kind = values[f"{prefix}_TYPE"].upper()
    match kind:
        case "SENTINEL":
            yield from _sentinel(section, prefix, values)
        case "CLUSTER":
            yield from _cluster(section, prefix, values)
        case _:
            yield (section, "url"), _redis_url(prefix, values), f"{prefix}_URL"
            if kind not in {"", "SINGLE"}:
                raise WrongVariableError(f"{prefix}_TYPE", "expected SINGLE, SENTINEL or CLUSTER")
    for key, name in (("ca_file", "CACERT"), ("cert_file", "CLIENT_CERT"), ("key_file", "CLIENT_KEY")):
        if tls and values[f"REDIS_TLS_{name}"]:
            yield (section, key), values[f"REDIS_TLS_{name}"], f"REDIS_TLS_{name}"
    if timeout in given:
        milliseconds = round(values[timeout] * 1000)
        yield (section, "connect_timeout_ms"), milliseconds, timeout
        yield (section, "operation_timeout_ms"), milliseconds, timeout


def _sentinel(section: str, prefix: str, values: Values) -> Iterator[Made]:
    """`MASTER,HOST:PORT,...` as in src/redis/driver_impl.go."""
    master, *sentinels = [part.strip() for part in values[f"{prefix}_URL"].split(",")]
    if not (master and sentinels and all(sentinels)):
        raise WrongVariableError(f"{prefix}_URL", "expected MASTER,HOST:PORT,... for the type SENTINEL")
    # There a password of the Sentinels is theirs alone; without one they are asked without.
    scheme = "rediss" if values[f"{prefix}_TLS"] else "redis"
    ours = _credentials(values[f"{prefix}_AUTH"])
    theirs = _credentials(values[f"{prefix}_SENTINEL_AUTH"])
    yield (section, "url"), f"{scheme}://{ours}{master}/0", f"{prefix}_URL"
    urls = [f"{scheme}://{theirs}{sentinel}" for sentinel in sentinels]
    yield (section, "sentinel", "urls"), urls, f"{prefix}_URL"


def _cluster(section: str, prefix: str, values: Values) -> Iterator[Made]:
    """`HOST:PORT,...` as in src/redis/driver_impl.go."""
    first, *others = [part.strip() for part in values[f"{prefix}_URL"].split(",")]
    if not (first and all(others)):
        raise WrongVariableError(f"{prefix}_URL", "expected HOST:PORT,... for the type CLUSTER")
    scheme = "rediss" if values[f"{prefix}_TLS"] else "redis"
    yield (section, "url"), f"{scheme}://{_credentials(values[f'{prefix}_AUTH'])}{first}/0", f"{prefix}_URL"
    yield (section, "cluster", "nodes"), others, f"{prefix}_URL"


def _redis_url(prefix: str, values: Values) -> str:
    url, kind = values[f"{prefix}_URL"], values[f"{prefix}_SOCKET_TYPE"].lower()
    scheme = "rediss" if values[f"{prefix}_TLS"] or url.startswith("rediss://") else "redis"
    credentials = _credentials(values[f"{prefix}_AUTH"])
    if url.startswith(("redis://", "rediss://")):
        parts = urlsplit(url)
        known, at, place = parts.netloc.rpartition("@")
        return f"{scheme}://{credentials or known + at}{place}{parts.path or '/0'}"
    if kind == "unix":
        if not url.startswith("/"):  # unix is their default, so the type may have been forgotten
            text = f"{url} is not the path of a socket; for a host and port set {prefix}_SOCKET_TYPE=tcp"
            raise WrongVariableError(f"{prefix}_URL", text)
        return f"unix://{credentials}{url}?db=0"
    if kind in {"tcp", "tcp4", "tcp6"}:
        return f"{scheme}://{credentials}{url}/0"
    raise WrongVariableError(f"{prefix}_SOCKET_TYPE", "expected tcp or unix")


def _credentials(auth: str) -> str:
    """`PASSWORD` or `USER:PASSWORD` as they are written in a URL."""
    if not auth:
        return ""
    user, colon, password = auth.partition(":")
    if not colon:
        user, password = "", auth
    return f"{quote(user, safe='')}:{quote(password, safe='')}@"


Composer = Callable[[Values, Collection[str]], Iterator[Made]]
"""Takes the values and the names of the variables that the environment has. May raise WrongVariableError."""

COMPOSERS: Final[tuple[Composer, ...]] = (_addresses, _log, _limits, _redis)
