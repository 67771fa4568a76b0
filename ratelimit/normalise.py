"""One spelling of a host, a path or an address, so that a client finds no second one with its own bucket.

What is merged too eagerly shares a limit; what is not merged has none. So all that some server is known to
take for the same leads to one text. Where servers read one path as several, each of these is a reading, and a
limit is met by any of them.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from ipaddress import AddressValueError, IPv6Address, IPv6Network
from typing import Final
from unicodedata import normalize
from urllib.parse import unquote

from protos.lenient import MARK, mark, original

MAX_DECODINGS: Final = 4
"""How often escapes are decoded. Servers decode once, a proxy before them once more; each pass costs the
length of the text, and clients choose it."""

MAX_PATH_CHARACTERS: Final = 8_192
"""Without the query; what follows is cut off. Clients may send 60 kB; servers commonly answer 414 from 8,000
octets on, the least that RFC 9110 section 4.1 asks for."""

MAX_HOST_CHARACTERS: Final = 1_024
"""DNS has 253; user information and escapes need more."""

IPV6_PREFIX: Final = 64
"""Bits. A site gets at least a /64 (RFC 6177), so each of its hosts can use 2^64 addresses."""

_ALL_BITS: Final = 128
_MAX_DNS_CHARACTERS: Final = 253
_QUERY: Final = re.compile("[?#]")
_END: Final = re.compile("[?#\0]")
_SEPARATOR: Final = re.compile(r"[/\\]")
_WIDE_ESCAPE: Final = re.compile("%u([0-9A-Fa-f]{4})")
"""Matches the bracketed session ids in paths of Microsoft's servers."""

_BLANK: Final = "".join(map(chr, range(0x21))) + "\x7f"
_DOTS: Final = str.maketrans("\u3002\uff61", "..")
"""Ideographic full stops, which separate labels, too (RFC 3490 section 3.1)."""

_LEFT_OUT_AT_END: Final = f".{_BLANK}"
"""Windows opens `login.` as `login`."""


def path_readings(text: str, longest: int = MAX_PATH_CHARACTERS) -> Sequence[str]:
    """What servers may read the path as, the most common reading first.

    A reading is in small letters, decoded, without query, parameters, empty segments and what dot segments
    take away (RFC 3986 section 6.2): `/Login/`, `//login`, `/x/../login`, `/%6cogin`, `/login;v=1`,
    `/login?x` and `/login.` are `/login`. Servers that tell two of them apart are served as one.

    There are others where `..` or an escaped `?` is in the path, or two slashes begin it: see `_others`.
    """
    decoded = _decoded(_QUERY.split(text, maxsplit=1)[0][:longest])
    segments = list(map(_plain_segment, _SEPARATOR.split(decoded)))
    first = _joined(_resolved(segments))
    if ".." not in segments and segments[1:2] != [""] and _END.search(decoded) is None:
        return (first,)
    return tuple(dict.fromkeys((first, *_others(decoded, segments))))


def _others(decoded: str, segments: Sequence[str]) -> Iterable[str]:
    # Cut at an escaped `?`, `#` or NUL before dot segments are resolved: who decodes before parsing.
    cut = _END.split(decoded, maxsplit=1)[0]
    yield _joined(_resolved(map(_plain_segment, _SEPARATOR.split(cut))))
    # An empty segment counts for the `..` behind it: RFC 3986 section 5.2.4, WHATWG URL.
    yield _joined(_resolved(segments, empty=True))
    # Neither resolved nor cut: Express, Starlette, and the routes of an Envoy without `normalize_path`.
    yield f"/{'/'.join(filter(None, segments))}"
    if segments[1:2] == [""]:  # `//host/path` is more than a path (WHATWG URL, PHP)
        yield _joined(_resolved(list(filter(None, segments))[1:]))


def _plain_segment(segment: str) -> str:
    """`segment` without parameters, blanks around it and dots at its end; `..` as it is, `.` as empty."""
    name = segment.partition(";")[0].strip(_BLANK)
    return name if name == ".." else name.rstrip(_LEFT_OUT_AT_END)


def _resolved(segments: Iterable[str], *, empty: bool = False) -> list[str]:
    """What is left once each `..` has taken away the segment before it; `empty`: empty ones, too."""
    names: list[str] = []
    for segment in segments:
        if segment == "..":
            del names[-1:]
        elif segment or empty:
            names.append(segment)
    return names


def _joined(names: Iterable[str]) -> str:
    path = "/".join(filter(None, names))
    return f"/{_END.split(path, maxsplit=1)[0].rstrip(f'/{_LEFT_OUT_AT_END}')}"


def host_readings(text: str, longest: int = MAX_HOST_CHARACTERS) -> Sequence[str]:
    """The one reading of a host: without user information, port and trailing dots (RFC 9110 section 4.2).

    `API.example.com`, `api.example.com.`, `api.example.com:443` and `x@api.example.com` are
    `api.example.com`; an IPv6 address is written as RFC 5952 wants it, in brackets and without a zone; a name
    in another script as DNS has it (`xn--`).
    """
    host = _compatible(_decoded(text[:longest])).rpartition("@")[2].strip(_BLANK)
    literal = host[1:].partition("]")[0] if host.startswith("[") else host
    try:
        address = IPv6Address(literal.partition("%")[0])
    except AddressValueError:
        return (_dns_name(host.partition(":")[0].rstrip(_LEFT_OUT_AT_END)),)
    return (str(address.ipv4_mapped or f"[{address}]"),)


def _compatible(host: str) -> str:
    """`host` with the plain forms of full-width letters, dots and colons (RFC 3490, RFC 3491).

    A host with bytes that are not UTF-8 is not a DNS name, so it stays as it is.
    """
    if host.isascii() or MARK in host:
        return host
    return normalize("NFKC", host).translate(_DOTS).casefold()


def _dns_name(host: str) -> str:
    if host.isascii() or len(host) > _MAX_DNS_CHARACTERS:
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def _decoded(text: str) -> str:
    """`text` in small letters, its escapes decoded; bytes that are not UTF-8 are marked however they came."""
    if "%" not in text and text.isascii():
        return text.lower()
    decoded = original(text).decode("utf-8", "surrogateescape")
    for _ in range(MAX_DECODINGS):
        if "%" not in decoded:
            break
        if "%u" in decoded:
            decoded = _WIDE_ESCAPE.sub(_wide_character, decoded)
        decoded = unquote(decoded, errors="surrogateescape")
    return mark(decoded.casefold().encode("utf-8", "surrogateescape"))


def _wide_character(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return escape[0] if "\ud800" <= character <= "\udfff" else character


def address_readings(text: str, prefix: int = IPV6_PREFIX) -> Sequence[str]:
    """The one reading of a client address: an IPv4 address, or the first `prefix` bits of an IPv6 address.

    An IPv4-mapped address is the IPv4 address (RFC 4291 section 2.5.5.2). A network, such as Envoy's
    `masked_remote_address` sends, keeps a shorter prefix. Text that is not an address stays as it is.
    """
    text = text.strip(_BLANK)
    if ":" not in text:
        return (text,)
    address, slash, length = text.removeprefix("[").partition("/")
    try:
        found = IPv6Address(address.removesuffix("]").partition("%")[0])
        bits = min(prefix, int(length)) if slash else prefix
        if found.ipv4_mapped is not None and not slash:
            return (str(found.ipv4_mapped),)
        return (str(found) if bits == _ALL_BITS else str(IPv6Network((int(found), bits), strict=False)),)
    except ValueError:
        return (text,)


Normalisers = Mapping[str, Callable[[str], Sequence[str]]]


def normalisers(max_path: int, max_host: int, ipv6_prefix: int) -> Normalisers:
    """Return what each value of `normalise` of a descriptor does.

    It looks at so many characters of a path or host, and at so many bits of an IPv6 address.
    """
    return {
        "host": partial(host_readings, longest=max_host),
        "path": partial(path_readings, longest=max_path),
        "address": partial(address_readings, prefix=ipv6_prefix),
    }
