"""Header blocks: decoded once, then known by their bytes.

A block that puts nothing into the dynamic table is a pure function of its bytes and of the table. Clients
send the same block call after call, so what it asks for is remembered until the table changes. We announce a
table of no bytes, which never changes. A block that differs from an earlier one only in the values of its
metadata, such as a tracing header, is recognised by a template.
"""

from collections.abc import Mapping
from contextlib import suppress
from itertools import chain
from typing import Final

from hpack.exceptions import HPACKError
from hpack.table import HeaderTable

from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Code, Method, Status
from sidecars.transport.http2.errors import GoAwayError, Reason
from sidecars.transport.http2.frames import ErrorCode
from sidecars.transport.http2.header_block import (
    FIELD_OVERHEAD_BYTES,
    MAX_KNOWN_BLOCK_BYTES,
    HeaderBlock,
    header_list_too_large,
    read_block,
)
from sidecars.transport.http2.header_template import HeaderTemplate, Kind, kind_of
from sidecars.transport.http2.headers import (
    HeaderListTooLargeError,
    MalformedRequestError,
    RequestHead,
    check_trailers,
    read_request,
)

ANNOUNCED_TABLE_BYTES: Final = 0
"""SETTINGS_HEADER_TABLE_SIZE. Without a table, the blocks of two calls differ only where their fields do."""

MAX_KNOWN_BLOCKS: Final = 32
"""Blocks remembered for a connection. Envoy needs one for each method; a client that never repeats a block
gains nothing."""

MAX_TEMPLATES: Final = 8
"""Templates remembered for a connection. Envoy needs one for each method and set of header names."""


class HeaderDecoder:
    """The header blocks of one connection, in the order they came."""

    __slots__ = (
        "_max_list_bytes",
        "_max_table_bytes",
        "_methods",
        "_most_bytes",
        "_table",
        "_templates",
        "known",
    )

    def __init__(self, methods: Mapping[bytes, Method], limits: Limits) -> None:
        self._methods = methods
        self._max_list_bytes = limits.max_header_list_bytes
        self._most_bytes = limits.absolute_max_header_list_bytes
        self._table: HeaderTable | None = None
        self._max_table_bytes = HeaderTable.DEFAULT_SIZE
        """What the peer may set the size of the table to."""
        self._templates: dict[Kind, tuple[HeaderTemplate, RequestHead]] = {}
        """The template and the request of each kind of block; true of the table as it is, too."""
        self.known: dict[bytes, RequestHead] = {}
        """Requests by their block, true of the table as it is. Read on the hot path; written here only."""

    def settings_acknowledged(self) -> None:
        """Let the peer have no larger table than announced (RFC 7541 section 6.3).

        One that keeps the table that it has is understood nevertheless: some clients ignore the setting, such
        as .NET's, and RFC 9113 section 4.3.1 would end their connections.
        """
        self._max_table_bytes = ANNOUNCED_TABLE_BYTES

    def request(self, block: bytes) -> RequestHead:
        """The request of a block that is not in `known`.

        A block that is too large gives a request with a refusal. Raises GoAwayError, or MalformedRequestError
        with the table still in step.
        """
        for template, known in self._templates.values():
            if template.fits(block):
                return known
        try:
            decoded = self._decode(block)
        except HeaderListTooLargeError as error:
            return RequestHead.refused(Status(Code.RESOURCE_EXHAUSTED, str(error)))
        request = read_request(decoded.fields, self._methods)
        if not decoded.changed and len(block) <= MAX_KNOWN_BLOCK_BYTES:
            self._remember(block, decoded, request)
        return request

    def trailers(self, block: bytes) -> None:
        """Decode trailers, which hold nothing for us. Raises as `request` does."""
        try:
            check_trailers(self._decode(block).fields)
        except HeaderListTooLargeError as error:
            raise MalformedRequestError(str(error)) from None

    def discard(self, block: bytes) -> None:
        """Keep the table in step with a block whose request is not served. Raises GoAwayError."""
        with suppress(HeaderListTooLargeError):
            self._decode(block)

    def _decode(self, block: bytes) -> HeaderBlock:
        table = self._table
        if table is None:
            table = self._table = HeaderTable()
        try:
            most = self._most_bytes // FIELD_OVERHEAD_BYTES
            decoded = read_block(block, table, self._max_table_bytes, most)
        except (IndexError, HPACKError) as error:
            raise GoAwayError(
                ErrorCode.COMPRESSION_ERROR, Reason.HEADER_BLOCK, f"cannot decode a header block: {error}"
            ) from None
        if decoded.changed:
            self.known.clear()
            self._templates.clear()
        fields = decoded.fields
        list_bytes = sum(map(len, chain.from_iterable(fields))) + FIELD_OVERHEAD_BYTES * len(fields)
        if list_bytes > self._max_list_bytes:
            if list_bytes > self._most_bytes:
                raise header_list_too_large(self._most_bytes)
            raise HeaderListTooLargeError(list_bytes, self._max_list_bytes)
        return decoded

    def _remember(self, block: bytes, decoded: HeaderBlock, request: RequestHead) -> None:
        if len(self.known) >= MAX_KNOWN_BLOCKS:
            self.known.clear()
        self.known[block] = request
        if request.metadata_refused:
            return
        templates = self._templates
        kind = kind_of(decoded.fields)
        earlier = templates.pop(kind, None)
        holes: frozenset[int] = frozenset() if earlier is None else earlier[0].holes_for(decoded)
        found = HeaderTemplate(block, decoded, holes)
        if found.most_list_bytes <= self._max_list_bytes:
            if holes:
                request.template, request.memory_bytes = found, found.memory_bytes
            if len(templates) >= MAX_TEMPLATES:
                del templates[next(iter(templates))]
            templates[kind] = (found, request)
