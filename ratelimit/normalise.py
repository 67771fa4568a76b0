"""One spelling of a host or a path, so that a client finds no second one with a bucket of its own.

What is merged too eagerly shares a limit; what is not merged has none. So every reading counts that some
server is known to have, and all of them lead to one text.
"""

import re
from collections.abc import Callable, Mapping
from ipaddress import AddressValueError, IPv6Address
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote

from protos.lenient import mark, original

MAX_DECODINGS: Final = 4
"""How often escapes are decoded. Servers decode once, a proxy before them once more; each pass costs the
length of the text, and clients choose it."""

_END: Final = re.compile("[?#\0]")
_SEPARATOR: Final = re.compile(r"[/\\]")
_BLANK: Final = "".join(map(chr, range(0x21))) + "\x7f"


def normal_path(text: str) -> str:
    """The path in small letters, decoded, without query, parameters, empty and dot segments.

    `/Login/`, `//login`, `/x/../login`, `/%6cogin`, `/login;v=1`, `/login?x` and `/login.` are `/login`.
    Servers that tell two of them apart are served as one: RFC 3986 section 6.2, and what is known of
    servers that do not (`authz.path` names them one by one).
    """
    decoded = _decoded(text)
    names: list[str] = []
    for segment in _SEPARATOR.split(_END.split(decoded, maxsplit=1)[0]):
        name = segment.partition(";")[0].strip(_BLANK)
        if name == "..":
            del names[-1:]
        elif name := name.rstrip(f".{_BLANK}"):  # Windows opens `login.` as `login`
            names.append(name)
    return f"/{'/'.join(names)}"


def normal_host(text: str) -> str:
    """The host in small letters, without user information, port and trailing dots (RFC 9110 section 4.2).

    `API.example.com`, `api.example.com.`, `api.example.com:443` and `x@api.example.com` are
    `api.example.com`; an IPv6 address is written as RFC 5952 wants it, in brackets.
    """
    host = _decoded(text).rpartition("@")[2].strip(_BLANK)
    literal = host[1:].partition("]")[0] if host.startswith("[") else host
    try:
        return f"[{IPv6Address(literal)}]"
    except AddressValueError:
        return host.partition(":")[0].rstrip(f".{_BLANK}")


def _decoded(text: str) -> str:
    """`text` in small letters, its escapes decoded; bytes that are not UTF-8 are marked however they came."""
    decoded = original(text).decode("utf-8", "surrogateescape")
    for _ in range(MAX_DECODINGS):
        if "%" not in decoded:
            break
        decoded = unquote(decoded, errors="surrogateescape")
    return mark(decoded.casefold().encode("utf-8", "surrogateescape"))


NORMALISERS: Final[Mapping[str, Callable[[str], str]]] = MappingProxyType(
    {"host": normal_host, "path": normal_path}
)
"""What `normalise` of a descriptor may be."""
