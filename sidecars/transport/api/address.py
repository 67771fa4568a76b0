"""Where a server listens, with what TLS, and whom it trusts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

from annotated_types import Ge, Le

DEFAULT_SOCKET_MODE: Final = 0o660
"""Owner and group may connect: Envoy usually runs as another user of the same group. All others may not."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """The files of a server for TLS 1.2 and 1.3, with HTTP/2 by ALPN."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}
    """pydantic's ConfigDict for a section of the settings file, as a plain mapping."""

    cert_file: Path
    """PEM certificate chain, the server's own certificate first."""
    key_file: Path
    """PEM private key of `cert_file`, without a password."""
    client_ca_file: Path | None = None
    """PEM authorities. If set, each client must show a certificate that one of them signed."""
    reload_seconds: Annotated[float, Ge(0.05), Le(3600)] = 10.0
    """How often the files are checked for changes; later handshakes use the new content."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The certificate, the key and, if set, the authorities."""
        optional = [self.client_ca_file] if self.client_ca_file is not None else []
        return (self.cert_file, self.key_file, *optional)


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP endpoint; port 0 asks the kernel for a free one."""

    host: str
    port: int
    tls: TlsSettings | None = field(default=None, compare=False)
    """TLS of the address; not part of equality, because it does not change the endpoint."""
    trusted: bool | None = field(default=None, compare=False)
    """Whether peers may reset calls as often as they like; None: only with mTLS."""

    @property
    def trusts_peers(self) -> bool:
        """Whether peers are trusted: `trusted` if set, else whether they must show a certificate."""
        return _asks_for_certificates(self.tls) if self.trusted is None else self.trusted

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix socket: a file with a mode or, if the path starts with `@`, an abstract name (Linux).

    Abstract names have no mode: any local user in the network namespace may connect (unix(7)).
    """

    path: str
    mode: int = DEFAULT_SOCKET_MODE
    tls: TlsSettings | None = field(default=None, compare=False)
    trusted: bool | None = field(default=None, compare=False)
    """Whether peers may reset calls as often as they like. None: yes for a file, whose mode restricts who may
    connect; for an abstract name, which any local user may connect to, only with mTLS."""

    def __str__(self) -> str:
        return f"unix:{self.path}"

    @property
    def abstract(self) -> bool:
        """Whether the socket has a name in the kernel and no file."""
        return self.path.startswith("@")

    @property
    def trusts_peers(self) -> bool:
        """Whether peers are trusted: `trusted` if set, else whether the file mode or mTLS restricts them."""
        if self.trusted is not None:
            return self.trusted
        return not self.abstract or _asks_for_certificates(self.tls)


Address = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """`HOST:PORT`, `[IPV6]:PORT`, `unix:PATH`, `unix:PATH?mode=0660` or `unix:@NAME` as an address.

    Raises ValueError, whose text says what would be right.
    """
    if text.startswith("unix:"):
        return _parse_unix(text.removeprefix("unix:"), text)
    if remedy := _of_other_tools(text):
        raise ValueError(f"{text!r}: {remedy}")
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]") and _is_ipv6(host[1:-1]):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:9001")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535 or _NOT_OF_A_HOST & {*host}:
        raise ValueError(f"{text!r}: expected HOST:PORT (0-65535), unix:PATH or unix:@NAME")
    return TcpAddress(host, int(port))


_NOT_OF_A_HOST: Final = frozenset(" \t\r\n/@?#[]")

_TARGETS: Final = ("tcp", "tcp4", "tcp6", "ipv4", "ipv6", "dns", "http", "https", "grpc", "grpcs")
"""What other tools write before HOST:PORT, with two slashes or none (gRPC name resolution, URLs)."""


def _of_other_tools(text: str) -> str:
    """What to write for an address as other tools have it; empty for any other text."""
    scheme, colon, rest = text.partition(":")
    path = rest.removeprefix("//")
    if "unix" in scheme.lower() and colon:
        name = "@" if "abstract" in scheme.lower() else ""
        return f"a unix socket is written unix:{name}{path}"
    if text.startswith(("/", "./", "../", "~", "@")) or text.endswith((".sock", ".socket")):
        return f"a unix socket is written unix:{text}"
    if path != rest or (scheme.lower() in _TARGETS and ":" in rest):
        found = path.strip("/")
        right = (
            f"{found} (HOST:PORT)" if found.rpartition(":")[2].isdecimal() and ":" in found else "HOST:PORT"
        )
        return f"expected {right}, without {text[: len(text) - len(path)]}"
    host, _, port = text.rpartition(":")
    if host in {"", "*"} and port.isdecimal():
        return f"expected HOST:PORT, as in 127.0.0.1:{port}; all addresses are written [::]:{port}"
    return ""


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True


def _asks_for_certificates(tls: TlsSettings | None) -> bool:
    return tls is not None and tls.client_ca_file is not None


def _parse_unix(rest: str, text: str) -> UnixAddress:
    path, question, query = rest.partition("?")
    if path.startswith("///"):
        path = f"/{path.lstrip('/')}"  # unix:///run/a.sock, as URLs have it
    elif path.startswith("//"):
        name = path[2:]
        whole = "" if name.startswith("@") else f"unix:/{name} or "
        raise ValueError(f"{text!r}: expected {whole}unix:{name}, without //")
    elif path.startswith("~"):
        raise ValueError(f"{text!r}: expected the whole path; ~ is not expanded here")
    if not path or path == "@":
        raise ValueError(f"{text!r}: expected a path, as in unix:/run/sidecars/authz.sock")
    # sockaddr_un holds 108 bytes on Linux, the last one NUL (unix(7)).
    if len(path.encode()) > 107:
        raise ValueError(f"{text!r}: a unix socket path has at most 107 bytes")
    if not question:
        return UnixAddress(path)
    name, _, value = query.partition("=")
    try:
        mode = int(value, 8)
    except ValueError:
        mode = -1
    if name != "mode" or not 0 <= mode <= 0o777:
        raise ValueError(f"{text!r}: expected ?mode= with an octal file mode, as in ?mode=0660")
    if path.startswith("@"):
        raise ValueError(
            f"{text!r}: an abstract name has no file and so no mode: any local user in the network namespace "
            "may connect. To restrict access: expected a path, as in unix:/run/authz.sock?mode=0660"
        )
    return UnixAddress(path, mode)
