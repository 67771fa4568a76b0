"""Reads Envoy's check request for rules and credentials, and refuses ambiguous requests.

Method, host and path come from attributes that Envoy fills in, never from headers that a client could forge
(`x-forwarded-uri`, `x-envoy-original-path`: CVE-2026-40575, CVE-2023-27487).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from ipaddress import AddressValueError, IPv6Address, ip_address
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote_plus

from authz.request.field_names import MAX_FIELDS, Meanings, Pair, WantedNames, pairs_of, spellings_in
from authz.request.host import MalformedHostError, canonical_host
from authz.request.path import MAX_PATH_CHARACTERS, NO_ANOMALY, PathAnomaly, split_path
from authz.wire import (
    CheckRequest,
    HeaderLine,
    as_bytes_would_read,
    attributes_of,
    context_extensions_of,
    head_of,
    header_map_of,
    http_of,
    ip_address_of,
    lines_of,
    name_of,
    peer_bytes_of,
    peer_of,
    raw_body_of,
    raw_value_of,
    text_body_of,
    value_of,
)

MAX_QUERY_PARAMETERS: Final = MAX_FIELDS
"""The most parameters that are read. Each costs a list entry once a rule or credential needs the query."""

MAX_PARTS: Final = 1_000
"""The most comma-separated parts of a header; with more, a condition on it is unknown."""

_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_NEXT_SCHEME: Final = re.compile(r",[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]+[^ \t=]")
_NOT_ASCII: Final = re.compile(rb"[\x80-\xff]")
_NO_VALUES: tuple[str, ...] = ()
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_NO_LINES: Mapping[str, HeaderLine] = MappingProxyType({})


class BadRequestReason(StrEnum):
    """Why a request is refused with 400 before any rule is evaluated."""

    METHOD = "method_missing"
    METHOD_CASE = "method_not_upper_case"
    HOST = "host_malformed"
    PATH_FORM = "path_form"
    PATH_LENGTH = "path_too_long"
    DUPLICATE_HOST = "duplicate_host"
    DUPLICATE_AUTHORIZATION = "duplicate_authorization"


class BadRequestError(Exception):
    """The request cannot be judged, because other readers might parse it differently."""

    def __init__(self, reason: BadRequestReason, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
        """More about the reason, for operators and never for the client."""


class Request:
    """One check request. It is cheap to create: headers, cookies and query are parsed on first use.

    Raises BadRequestError if method, host or path could be read in several ways.
    """

    __slots__ = (
        "_attributes",
        "_http",
        "_joined",
        "_line_of",
        "_lines",
        "_query",
        "_query_meanings",
        "_query_pairs",
        "_trusted_hops",
        "authorization",
        "body_fields",
        "host",
        "masked_query",
        "method",
        "path",
        "query",
        "raw_path",
    )

    def __init__(self, message: CheckRequest, trusted_hops: int = 0) -> None:
        self._trusted_hops = trusted_hops
        attributes = self._attributes = attributes_of(message)
        http = self._http = http_of(attributes)
        self.method, host, shown = head_of(http)
        # None if the headers came as a map, in which repeated ones are joined by commas.
        lines = self._lines = lines_of(http) or None
        if lines is None:
            self._joined = header_map_of(http)
            self._line_of = _NO_LINES
        else:
            self._joined = _NO_HEADERS
            # The last line of each name; it has fewer entries than lines if a name occurs twice.
            self._line_of = dict(zip(map(name_of, lines), lines, strict=True))
        self.authorization = self._values("authorization")
        """The values of this header, as `header_values` returns them."""
        self._query: Mapping[str, Sequence[str]] | None = None
        self._query_pairs: Sequence[Pair] | None = None
        self._query_meanings: Meanings[str | None] | None = None
        self.masked_query = False
        """Whether a `!` of the query may be what Envoy shows for bytes that are not UTF-8."""
        self.body_fields: Any = None
        """The cached result of `authz.request.body`: a Body or an error."""
        if not self.method:
            raise BadRequestError(BadRequestReason.METHOD)
        # Methods are case-sensitive (RFC 9110 section 9.1), but Django, for one, reads `delete` as DELETE.
        if not self.method.isupper():
            raise BadRequestError(BadRequestReason.METHOD_CASE)
        try:
            self.host = canonical_host(host)
        except MalformedHostError as error:
            raise BadRequestError(BadRequestReason.HOST, str(error)) from None
        self._refuse_duplicates()
        # The query is part of `path`; `http.query` is always empty (CVE-2026-32811).
        as_sent = shown if "!" not in shown else self._path_as_sent(shown)
        path = shown if as_sent is None else as_sent
        raw_path, _, query = path.partition("?")
        self.raw_path, self.query = raw_path, query
        if not raw_path.startswith("/"):
            raise BadRequestError(BadRequestReason.PATH_FORM)
        if len(raw_path) > MAX_PATH_CHARACTERS:
            raise BadRequestError(BadRequestReason.PATH_LENGTH)
        self.path = split_path(raw_path)
        if "#" in query:
            self.path = self.path._replace(oddities=self.path.oddities | PathAnomaly.FRAGMENT)
        if as_sent is not shown:
            self._note_bytes(known=as_sent is not None)

    def _note_bytes(self, *, known: bool) -> None:
        """Mark the path as one with bytes that are not UTF-8, or (not `known`) that may have such bytes."""
        odd = PathAnomaly.NOT_UTF8
        if not known:
            self.masked_query = "!" in self.query
            odd = PathAnomaly.MASKED if "!" in self.raw_path else NO_ANOMALY
        # Known ones count in the query too: a response could not make Envoy remove a parameter of such a
        # name.
        self.path = self.path._replace(oddities=self.path.oddities | odd)

    def _path_as_sent(self, path: str) -> str | None:
        """Return `path` with escaped bytes where Envoy shows `!` for non-UTF-8 bytes (CVE-2023-27488).

        The upstream gets the bytes, which only the raw headers contain. Without those the result is None.
        """
        line = self._line_of.get(":path")
        if line is None:
            return None
        raw = raw_value_of(line)
        try:
            raw.decode()
        except UnicodeDecodeError:
            return _NOT_ASCII.sub(lambda found: b"%%%02X" % found[0][0], raw).decode("ascii")
        return path

    @property
    def masks_bytes(self) -> bool:
        """Whether a `!` in a header may replace a byte that is not UTF-8, which the upstream gets.

        This is so if Envoy sends headers as text (without `encode_raw_headers`).
        """
        return self._lines is None

    def header_values(self, name: str) -> Sequence[str]:
        """Return every value of the header (lower-case name) in order; empty if it is absent.

        Bytes become characters one to one (Latin-1), so that no value can fail to decode (CVE-2023-27488).
        Repeated headers that Envoy joined by commas stay joined. Outer blanks are not part of a value (RFC
        9110 section 5.5) and are stripped: Envoy passes them on from HTTP/2, but HTTP/1 upstreams never see
        them.
        """
        return self.authorization if name == "authorization" else self._values(name)

    @property
    def header_names(self) -> Collection[str]:
        """The lower-case name of each header, without duplicates."""
        return self._joined if self._lines is None else self._line_of

    def _values(self, name: str) -> Sequence[str]:
        lines = self._lines
        if lines is None:
            value = self._joined.get(name)
            return _NO_VALUES if value is None else (as_bytes_would_read(value),)
        line = self._line_of.get(name)
        if line is None:
            return _NO_VALUES
        if len(lines) == len(self._line_of):
            return (value_of(line),)
        return [value_of(line) for line in lines if name_of(line) == name]

    def cookie_values(self, name: str) -> Sequence[str]:
        """Return every value of the cookie of this name in all cookie headers (RFC 6265 section 4.2)."""
        lines = self.header_values("cookie")
        if not lines:
            return _NO_VALUES
        pairs = (pair.partition("=") for line in lines for pair in line.split(";"))
        return [value.strip(" \t") for found, _, value in pairs if found.strip(" \t") == name]

    def query_values(self, name: str) -> Sequence[str]:
        """Return every decoded value of the query parameter, among the first MAX_QUERY_PARAMETERS."""
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
        """Return every query parameter as the most lenient upstreams separate and decode them."""
        if not self.query:
            return ()
        if self._query_pairs is None:
            self._query_pairs = pairs_of(self.query, masked=self.masked_query)
        return self._query_pairs

    def query_meaning(self, folded: str) -> Sequence[str | None]:
        """Return the values that some upstream may read under a folded name (`field_names.fold_members`).

        A value is None if it is unknown (`field_names.pairs_of`).
        """
        if self._query_meanings is None:
            self._query_meanings = Meanings(self.query_pairs())
        return self._query_meanings.under(folded)

    def query_spellings(self, wanted: WantedNames) -> set[str]:
        """Return the names, in the client's spelling, of parameters that an upstream may read as `wanted`.

        This includes parameters that hide one after a `;`, which some upstreams treat as a separator
        (CVE-2021-23336).
        """
        return spellings_in(self.query, wanted) if self.query else set()

    def all_headers(self) -> dict[str, list[str]]:
        """Return every header with all its values, as in `header_values`."""
        if self._lines is None:
            return {name: [as_bytes_would_read(value)] for name, value in self._joined.items()}
        headers: dict[str, list[str]] = {}
        for line in self._lines:
            headers.setdefault(name_of(line), []).append(value_of(line))
        return headers

    def all_query(self) -> dict[str, list[str]] | None:
        """Return every query parameter with its decoded values; None if there are more than are read."""
        if self.has_too_many_parameters:
            return None
        if not self.query:
            return {}
        if self._query is None:
            self._query = _parse_query(self.query)
        return {name: list(values) for name, values in self._query.items()}

    def context_values(self, name: str) -> Sequence[str]:
        """Return the value of this name in the route's `context_extensions`, as a sequence of one or none."""
        value = context_extensions_of(self._attributes).get(name)
        return _NO_VALUES if value is None else (value,)

    def all_context(self) -> dict[str, str]:
        """Return the route's `context_extensions`."""
        return dict(context_extensions_of(self._attributes))

    @property
    def body(self) -> bytes:
        """The part of the body that Envoy sent (`with_request_body`); `authz.request.body` parses it."""
        return raw_body_of(self._http) or text_body_of(self._http).encode()

    @property
    def masks_body(self) -> bool:
        """Whether a `!` in the body may replace a byte that is not UTF-8.

        This is so if Envoy sends the body as text (without `pack_as_bytes`).
        """
        return not raw_body_of(self._http)

    @property
    def peer_principal(self) -> str:
        """The authenticated peer of the TLS connection (attributes.source.principal), or empty."""
        return peer_of(self._attributes).principal

    @property
    def source_address(self) -> str:
        """The IP address at the other end of the connection; empty for a unix socket."""
        return ip_address_of(peer_of(self._attributes))

    @property
    def peer_bytes(self) -> bytes:
        """The other end of the connection as `authz.wire.address_of` reads it, without a certificate."""
        return peer_bytes_of(self._attributes)

    @property
    def client_address(self) -> str:
        """The IP address of the client, from the source address and the trusted hops.

        Without trusted hops it is the source address; `x-forwarded-for` is ignored. With them, entries of
        `x-forwarded-for` are counted from the right, where the source address is the last entry whether Envoy
        appended it (`use_remote_address`) or not. A shorter chain bypassed the trusted hops, so the source
        address is used. The result is empty if a trusted hop wrote something other than an address.
        IPv4-mapped IPv6 addresses are returned as IPv4.
        """
        source = self.source_address
        if not self._trusted_hops:
            return unmapped(source) if ":" in source else source
        chain = [
            entry.strip(" \t") for line in self.header_values("x-forwarded-for") for entry in line.split(",")
        ]
        if not chain or chain[-1] != source:
            chain.append(source)
        client = source if len(chain) <= self._trusted_hops else chain[-1 - self._trusted_hops]
        try:
            return unmapped(client) if client is source else unmapped(str(ip_address(client)))
        except ValueError:
            return ""

    def _refuse_duplicates(self) -> None:
        """Refuse two hosts or credentials: which of them an upstream uses is unknown (CVE-2021-32777)."""
        authorization = self.authorization
        if authorization and (len(authorization) > 1 or _holds_two_credentials(authorization[0])):
            raise BadRequestError(BadRequestReason.DUPLICATE_AUTHORIZATION)
        lines = self._lines
        if lines is None:
            joined = self._joined
            if "host" in joined and _host(joined["host"]) != self.host:
                raise BadRequestError(BadRequestReason.DUPLICATE_HOST)
            return
        known = self._line_of
        both = "host" in known and ":authority" in known
        if both or (
            len(lines) > len(known) and sum(name_of(line) in {"host", ":authority"} for line in lines) > 1
        ):
            raise BadRequestError(BadRequestReason.DUPLICATE_HOST)


def _holds_two_credentials(authorization: str) -> bool:
    """Whether the value is two credentials that Envoy joined by a comma, which it does even for raw headers.

    Commas within one credential separate parameters, `name=value` (RFC 9110 section 11.4), so only before a
    second credential is a comma followed by a word and a space.
    """
    return "," in authorization and _NEXT_SCHEME.search(_QUOTED.sub("", authorization)) is not None


def _host(text: str) -> str:
    try:
        return canonical_host(text)
    except MalformedHostError as error:
        raise BadRequestError(BadRequestReason.HOST, str(error)) from None


def unmapped(address: str) -> str:
    """Return the IPv4 address of an IPv4-mapped one (RFC 4291 section 2.5.5.2), or the address itself.

    A dual-stack listener reports 192.0.2.1 as ::ffff:192.0.2.1.
    """
    try:
        mapped = IPv6Address(address).ipv4_mapped
    except AddressValueError:
        return address
    return address if mapped is None else str(mapped)


def _parse_query(query: str) -> Mapping[str, Sequence[str]]:
    values: dict[str, list[str]] = {}
    for pair in query.split("&", MAX_QUERY_PARAMETERS)[:MAX_QUERY_PARAMETERS]:
        name, _, value = pair.partition("=")
        values.setdefault(unquote_plus(name), []).append(unquote_plus(value))
    return MappingProxyType(values)
