"""How this process reaches other servers: the certificate authorities it trusts, and the proxy it uses.

Only this module reads the environment of the process: SSL_CERT_FILE and SSL_CERT_DIR (by OpenSSL), and
HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, as curl and most other clients do.
"""

import re
import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment

from common.configfile import ConfigError
from common.os_errors import in_words

VERIFY_FLAGS: Final = ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
"""Strict RFC 5280, and an intermediate authority may be a trust anchor: the default since Python 3.13, set
here so that every Python accepts and refuses the same certificates."""

_PORTS: Final = {"http": 80, "https": 443}
"""The default ports of the schemes that a proxy may have."""

_LIST: Final = re.compile(r"[,\s]+")
"""The separators of NO_PROXY: commas, and whitespace as in curl."""


class OutboundError(ValueError):
    """The environment names a proxy that cannot be used."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and the headers sent to it."""

    url: str
    """The URL without user name and password, so that it may be shown."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers that authenticate this process to the proxy."""


def authorities(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that trusts the authorities in `ca_file` only, or those of the system if it is None.

    Blocks while it reads the file. Raises OSError for a file that cannot be read or holds no certificate.
    """
    return _system_authorities() if ca_file is None else _context(ca_file)


@cache
def _system_authorities() -> ssl.SSLContext:
    return _context(None)


def _context(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    context.verify_flags |= VERIFY_FLAGS
    context.set_alpn_protocols(["http/1.1"])
    return context


def check_ca_file(path: Path | None) -> None:
    """Raise ConfigError for a file of authorities that cannot be used."""
    if path is None:
        return
    try:
        _context(path)
    except ssl.SSLError:
        raise ConfigError.of(path, "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)") from None
    except OSError as error:
        raise ConfigError.of(path, f"cannot be read: {in_words(error)}") from error


def proxy_for(url: str, configured: str | Literal[False] | None) -> Proxy | None:
    """Return the proxy for `url`: the `configured` one, none for False, that of the environment for None.

    Raises OutboundError.
    """
    if configured is not None:
        return Proxy(configured) if configured else None
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = getproxies_environment()
    name = parts.scheme if proxies.get(parts.scheme) else "all"
    found = proxies.get(name)
    port = parts.port or _PORTS.get(parts.scheme)
    if not found or _is_this_host(host) or _is_direct(host, port, proxies.get("no", "")):
        return None
    return _parsed(found if "://" in found else f"http://{found}", f"{name.upper()}_PROXY")


def _is_this_host(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _is_direct(host: str, port: int | None, no_proxy: str) -> bool:
    """Return whether NO_PROXY lists the host: by name, `.parent`, `host:port`, address, network or `*`."""
    names = {host, f"{host}:{port}", f"[{host}]", f"[{host}]:{port}"}
    for listed in filter(None, _LIST.split(no_proxy.lower())):
        parent = listed.lstrip("*.")
        if listed == "*" or listed in names or (parent and host.endswith(f".{parent}")):
            return True
        try:
            if ip_address(host) in ip_network(listed, strict=False):
                return True
        except ValueError:
            continue
    return False


def _parsed(text: str, variable: str) -> Proxy:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in _PORTS:
        raise OutboundError(f"the proxy of the environment ({variable}) is not http://HOST:PORT")
    host = f"[{host}]" if ":" in host else host
    headers = {}
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        # aiohttp sends it as Proxy-Authorization, in the CONNECT or in the request itself.
        headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    return Proxy(f"{parts.scheme}://{host}" + (f":{port}" if port is not None else ""), headers)
