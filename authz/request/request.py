"""The request as rules and credentials see it: Envoy's check request, read with suspicion.

Everything is read from the attributes that Envoy itself filled in, never from headers that a client
could forge (`x-forwarded-uri`, `x-envoy-original-path`: CVE-2026-40575, CVE-2023-27487).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address, ip_address
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote_plus

from authz.request.field_names import MAX_FIELDS, Meanings, Pair, WantedNames, pairs_of, spellings_in
from authz.request.path import MAX_PATH_CHARACTERS, NO_ANOMALY, PathAnomaly, split_path
from protos.authz_pb2 import CheckRequest
from protos.core_pb2 import HeaderValue

MAX_QUERY_PARAMETERS: Final = MAX_FIELDS
"""Each costs a list entry once a rule or credential looks at the query."""

MAX_PARTS: Final = 1_000
"""Of a header that a list stands in, separated by commas; with more, a rule about it cannot be told."""

MAX_HOST_CHARACTERS: Final = 262
"""A DNS name of 253 characters, a trailing dot, a colon and a port; a longer host cannot be looked up."""

_DNS_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_PORT = re.compile(r"(?::[0-9]{0,5})?")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_NEXT_SCHEME = re.compile(r",[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]+[^ \t=]")
_NAME_OF = attrgetter("key")  # half the time of a comprehension, and it is done for every request
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_NO_VALUES: tuple[str, ...] = ()
_BLANKS: Final = " \t"

HOSTS_REMEMBERED: Final = 1_024
"""Spellings of hosts whose canonical form is remembered: more than one Envoy usually serves."""


class BadRequestReason(StrEnum):
    """Why a request is refused with 400 before any rule is looked at."""

    METHOD = "method_missing"
    METHOD_CASE = "method_not_upper_case"
    HOST = "host_malformed"
    PATH_FORM = "path_form"
    PATH_LENGTH = "path_too_long"
    DUPLICATE_HOST = "duplicate_host"
    DUPLICATE_AUTHORIZATION = "duplicate_authorization"


class BadRequestError(Exception):
    """The request cannot be judged, because other readers might understand it differently."""

    def __init__(self, reason: BadRequestReason, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
        """For operators, never for the client."""


class Request:
    """One check request. Cheap to make: headers, cookies and query are looked at when somebody asks.

    Raises BadRequestError when method, host or path cannot be understood in exactly one way.
    """

    __slots__ = (
        "_authorization",
        "_http",
        "_line_of",
        "_lines",
        "_query",
        "_query_meanings",
        "_query_pairs",
        "_trusted_hops",
        "body_fields",
        "host",
        "masked_query",
        "message",
        "method",
        "path",
        "query",
        "raw_path",
    )

    def __init__(self, message: CheckRequest, trusted_hops: int = 0) -> None:
        self.message = message
        self._trusted_hops = trusted_hops
        http = self._http = message.attributes.request.http
        # None: the headers came as a map, one value a name, repeated ones joined by a comma.
        self._lines: list[HeaderValue] | None = list(http.header_map.headers) or None
        # The last line of each name; where a name comes twice there are fewer than lines.
        self._line_of: dict[str, HeaderValue] = (
            {} if self._lines is None else dict(zip(map(_NAME_OF, self._lines), self._lines, strict=True))
        )
        self._query: Mapping[str, Sequence[str]] | None = None
        self._query_pairs: Sequence[Pair] | None = None
        self._query_meanings: Meanings[str | None] | None = None
        self.masked_query = False
        """Whether a `!` of the query may be what Envoy shows for bytes that are not UTF-8."""
        self.body_fields: Any = None
        """What `authz.body` read, kept for the next who asks."""
        self.method = http.method
        if not self.method:
            raise BadRequestError(BadRequestReason.METHOD)
        # Methods have a case (RFC 9110 section 9.1), but not to all: Django takes `delete` for DELETE.
        if not self.method.isupper():
            raise BadRequestError(BadRequestReason.METHOD_CASE)
        self.host = canonical_host(http.host)
        self._refuse_duplicates()
        # The query sits inside `path`; `http.query` is always empty (CVE-2026-32811).
        told = http.path
        as_sent = told if "!" not in told else self._path_as_sent(told)
        path = told if as_sent is None else as_sent
        self.raw_path, _, self.query = path.partition("?")
        if self.raw_path[:1] != "/":
            raise BadRequestError(BadRequestReason.PATH_FORM)
        if len(self.raw_path) > MAX_PATH_CHARACTERS:
            raise BadRequestError(BadRequestReason.PATH_LENGTH)
        self.path = split_path(self.raw_path)
        if "#" in self.query:
            self.path = self.path._replace(oddities=self.path.oddities | PathAnomaly.FRAGMENT)
        if as_sent is not told:
            self._note_bytes(known=as_sent is not None)

    def _note_bytes(self, *, known: bool) -> None:
        """Take the path for one with bytes that are not UTF-8, or (not `known`) that may have some."""
        odd = PathAnomaly.NOT_UTF8
        if not known:
            self.masked_query = "!" in self.query
            odd = PathAnomaly.MASKED if "!" in self.raw_path else NO_ANOMALY
        # Known ones count in the query, too: Envoy could not be told to remove a parameter with such a name.
        self.path = self.path._replace(oddities=self.path.oddities | odd)

    def _path_as_sent(self, path: str) -> str | None:
        """`path`, but where Envoy put `!` for bytes that are no UTF-8 (CVE-2023-27488) with these, escaped.

        The upstream gets the bytes. The raw headers have them; without those the value cannot be known: None.
        """
        line = self._line_of.get(":path")
        if line is None:
            return None
        raw = line.raw_value
        try:
            raw.decode()
        except UnicodeDecodeError:
            return _NOT_ASCII.sub(lambda found: b"%%%02X" % found[0][0], raw).decode("ascii")
        return path

    @property
    def masks_bytes(self) -> bool:
        """Whether a `!` in a header may be what Envoy shows for a byte that is not UTF-8.

        It is, where Envoy sends the headers as text (without `encode_raw_headers`): the upstream gets the
        byte.
        """
        return self._lines is None

    def header_values(self, name: str) -> Sequence[str]:
        """Every value of the header (lower-case name), in order; empty when it is absent.

        Bytes become characters one to one (Latin-1), so that no value can fail to decode
        (CVE-2023-27488). Where Envoy joined repeated headers by commas, they stay joined. Blanks around a
        value are no part of it (RFC 9110 section 5.5): Envoy passes them on where they come over HTTP/2, and
        an upstream that speaks HTTP/1 never sees them.
        """
        return self._authorization if name == "authorization" else self._values(name)

    @property
    def header_names(self) -> Collection[str]:
        """The name of each header, in lower case and once."""
        return self._http.headers if self._lines is None else self._line_of

    def _values(self, name: str) -> Sequence[str]:
        lines = self._lines
        if lines is None:
            value = self._http.headers.get(name)
            return _NO_VALUES if value is None else (_as_bytes_would_read(value),)
        line = self._line_of.get(name)
        if line is None:
            return _NO_VALUES
        if len(lines) == len(self._line_of):
            return (_value_of(line),)
        return [_value_of(line) for line in lines if line.key == name]

    def cookie_values(self, name: str) -> Sequence[str]:
        """Every value of the cookie of this name, over all cookie headers (RFC 6265 section 4.2)."""
        lines = self.header_values("cookie")
        if not lines:
            return _NO_VALUES
        pairs = (pair.partition("=") for line in lines for pair in line.split(";"))
        return [value.strip(" \t") for found, _, value in pairs if found.strip(" \t") == name]

    def query_values(self, name: str) -> Sequence[str]:
        """Every decoded value of the query parameter; parameters beyond a bound do not count."""
        if not self.query:
            return _NO_VALUES
        if self._query is None:
            self._query = _parse_query(self.query)
        return self._query.get(name, _NO_VALUES)

    @property
    def has_too_many_parameters(self) -> bool:
        """Whether the query has more parameters than are read."""
        query = self.query
        return query.count("&") >= MAX_QUERY_PARAMETERS or (
            ";" in query and query.count("&") + query.count(";") >= MAX_QUERY_PARAMETERS
        )

    def query_pairs(self) -> Sequence[Pair]:
        """Every query parameter as the most lenient upstreams separate and decode them."""
        if not self.query:
            return ()
        if self._query_pairs is None:
            self._query_pairs = pairs_of(self.query, masked=self.masked_query)
        return self._query_pairs

    def query_meaning(self, folded: str) -> Sequence[str | None]:
        """The values of the parameters that some upstream may read under a name, given in its folded form.

        None is a value that cannot be known (`field_names.fold_members`, `field_names.pairs_of`).
        """
        if self._query_meanings is None:
            self._query_meanings = Meanings(self.query_pairs())
        return self._query_meanings.under(folded)

    def query_spellings(self, wanted: WantedNames) -> set[str]:
        """How the client spelled those of its query parameters that some upstream reads as one `wanted`.

        Also those that hide one behind a `;`: to some upstreams it separates parameters (CVE-2021-23336).
        """
        return spellings_in(self.query, wanted) if self.query else set()

    def all_headers(self) -> dict[str, list[str]]:
        """Every header with all its values, as `header_values` gives them."""
        if self._lines is None:
            return {name: [_as_bytes_would_read(value)] for name, value in self._http.headers.items()}
        headers: dict[str, list[str]] = {}
        for line in self._lines:
            headers.setdefault(line.key, []).append(_value_of(line))
        return headers

    def all_query(self) -> dict[str, list[str]] | None:
        """Every query parameter with all its values, decoded; None where there are more than are read."""
        if self.has_too_many_parameters:
            return None
        if not self.query:
            return {}
        if self._query is None:
            self._query = _parse_query(self.query)
        return {name: list(values) for name, values in self._query.items()}

    def context_values(self, name: str) -> Sequence[str]:
        """What the route has under this name in its `context_extensions`: one value, or none."""
        value = self.message.attributes.context_extensions.get(name)
        return _NO_VALUES if value is None else (value,)

    def all_context(self) -> dict[str, str]:
        """All that the route has in its `context_extensions`."""
        return dict(self.message.attributes.context_extensions)

    @property
    def body(self) -> bytes:
        """What Envoy sent of the body (`with_request_body`); `authz.body` reads it."""
        return self._http.raw_body or self._http.body.encode()

    @property
    def masks_body(self) -> bool:
        """Whether a `!` of the body may be what Envoy shows for a byte that is not UTF-8.

        It is, where Envoy sends the body as text (without `pack_as_bytes`).
        """
        return not self._http.raw_body

    @property
    def peer_principal(self) -> str:
        """The authenticated peer of the TLS connection (attributes.source.principal), or empty."""
        return self.message.attributes.source.principal

    @property
    def source_address(self) -> str:
        """The IP address at the other end of the connection; empty for a unix socket."""
        return self.message.attributes.source.address.socket_address.address

    @property
    def client_address(self) -> str:
        """The true client's IP address, by source address and trusted hops.

        Without trusted hops it is the source address, whatever `x-forwarded-for` says. With them it is
        counted from the right, the source address being the last entry whether Envoy appended it
        (`use_remote_address`) or not. A chain shorter than that came around the trusted hops: the
        source address again. Empty where a trusted hop wrote something else than an address.
        IPv4 addresses are written as such, also where the listener reports them as IPv6.
        """
        source = self.source_address
        if not self._trusted_hops:
            return unmapped(source) if ":" in source else source
        chain = [
            entry.strip(" \t") for line in self.header_values("x-forwarded-for") for entry in line.split(",")
        ]
        if not chain or chain[-1] != source:
            chain.append(source)
        told = source if len(chain) <= self._trusted_hops else chain[-1 - self._trusted_hops]
        try:
            return unmapped(told) if told is source else unmapped(str(ip_address(told)))
        except ValueError:
            return ""

    def _refuse_duplicates(self) -> None:
        """Which of two values an upstream would take cannot be known (CVE-2021-32777)."""
        authorization = self._authorization = self._values("authorization")
        if len(authorization) > 1 or (authorization and _holds_two_credentials(authorization[0])):
            raise BadRequestError(BadRequestReason.DUPLICATE_AUTHORIZATION)
        lines = self._lines
        if lines is not None:
            known = self._line_of
            both = "host" in known and ":authority" in known
            if both or (
                len(lines) > len(known) and sum(line.key in {"host", ":authority"} for line in lines) > 1
            ):
                raise BadRequestError(BadRequestReason.DUPLICATE_HOST)
            return
        other_host = self._http.headers.get("host")
        if other_host is not None and canonical_host(other_host) != self.host:
            raise BadRequestError(BadRequestReason.DUPLICATE_HOST)


def _value_of(line: HeaderValue) -> str:
    return line.raw_value.decode("latin-1").strip(_BLANKS) or _as_bytes_would_read(line.value)


def _holds_two_credentials(authorization: str) -> bool:
    """Whether the value is two that Envoy joined by a comma: it joins this header even in raw form.

    Within one credential a comma stands between parameters, `name=value` (RFC 9110 section 11.4), so
    only a second one has a word and a space behind its comma.
    """
    return "," in authorization and _NEXT_SCHEME.search(_QUOTED.sub("", authorization)) is not None


@lru_cache(maxsize=HOSTS_REMEMBERED)
def canonical_host(host: str) -> str:
    """The host in lower case, without its port and one trailing dot; an IPv6 literal keeps its brackets.

    Raises BadRequestError for what is no host: empty, several joined by a comma, with user
    information (RFC 9110 section 4.2.4), or outside letters, digits, `-`, `_` and `.` (an
    internationalised name travels as A-labels).
    """
    if len(host) <= MAX_HOST_CHARACTERS and host.isascii():
        host = host.lower()
        if _DNS_NAME.fullmatch(host):
            return host
        if host.startswith("["):
            return _canonical_ipv6(host)
        name, colon, port = host.partition(":")
        name = name.removesuffix(".")
        if _PORT.fullmatch(colon + port) and _DNS_NAME.fullmatch(name):
            return name
    raise _malformed(host)


def _malformed(host: str) -> BadRequestError:
    # The text before an @ may be a password.
    user, _, name = host.rpartition("@")
    detail = f"host {name[:MAX_HOST_CHARACTERS]!r}{' with user information' if user else ''}"
    return BadRequestError(BadRequestReason.HOST, detail)


def _canonical_ipv6(host: str) -> str:
    literal, bracket, port = host[1:].partition("]")
    try:
        address = IPv6Address(literal)
    except AddressValueError:
        raise _malformed(host) from None
    if not bracket or not _PORT.fullmatch(port) or address.scope_id is not None:
        raise _malformed(host)
    return f"[{address}]"


def unmapped(address: str) -> str:
    """The IPv4 address that an IPv4-mapped IPv6 address holds (RFC 4291 section 2.5.5.2), or what was given.

    A dual-stack listener reports 192.0.2.1 as ::ffff:192.0.2.1.
    """
    try:
        mapped = IPv6Address(address).ipv4_mapped
    except AddressValueError:
        return address
    return address if mapped is None else str(mapped)


def _as_bytes_would_read(value: str) -> str:
    return (value if value.isascii() else value.encode().decode("latin-1")).strip(_BLANKS)


def _parse_query(query: str) -> Mapping[str, Sequence[str]]:
    values: dict[str, list[str]] = {}
    for pair in query.split("&", MAX_QUERY_PARAMETERS)[:MAX_QUERY_PARAMETERS]:
        name, _, value = pair.partition("=")
        values.setdefault(unquote_plus(name), []).append(unquote_plus(value))
    return MappingProxyType(values)
