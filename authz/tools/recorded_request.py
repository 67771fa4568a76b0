"""A request and its caller, as far as a line of the access log contains them.

Both return recorded values and collect the names of missing ones that are read. The names are those of access
log records.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from authz.request.identity import CredentialKind
from authz.request.request import Request
from authz.wire import write_request

REDACTED: Final = "[redacted]"

_HEADER_FIELDS: Final = {
    "user-agent": "user_agent",
    "referer": "referer",
    "x-forwarded-for": "forwarded_for",
    "x-request-id": "request_id",
    ":authority": "authority",
    "host": "authority",
}
"""Headers with a field of their own; if it is absent, the client did not send the header."""


class UnreadableRecordError(Exception):
    """The record does not contain method, host and path as they were sent."""


class RecordedRequest(Request):
    """A request from a record. `missing` collects values that were read but not recorded.

    Raises UnreadableRecordError, and BadRequestError like every request.
    """

    __slots__ = ("_record", "_unknown_query", "missing")

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._record = record
        self.missing: set[str] = set()
        places = record.get("redacted", ())
        original = "original_" if record.get("original_path") else ""
        path = record.get(f"{original}path", "")
        query = record.get(f"{original}query", "")
        method, authority = record.get("method"), record.get("authority")
        if not method or not authority or not path or record.get("truncated") or REDACTED in path:
            raise UnreadableRecordError
        prefix = f"{original}query."
        self._unknown_query = {place.removeprefix(prefix) for place in places if place.startswith(prefix)}
        whole_path = f"{path}?{query}" if query else path
        super().__init__(write_request(method, authority, whole_path, client=record.get("client_ip", "")))
        self.missing.clear()

    def header_values(self, name: str) -> Sequence[str]:
        """Return the value of the header, if it was logged."""
        return self._values(name)

    def _values(self, name: str) -> Sequence[str]:
        field = _HEADER_FIELDS.get(name)
        logged = self._record.get("request_headers", {})
        value = self._record.get(field, "") if field is not None else logged.get(name)
        if value is None or (isinstance(value, str) and REDACTED in value):
            self.missing.add(f"header {name}")
            return ()
        return (value,) if value else ()

    @property
    def header_names(self) -> Collection[str]:
        """Empty: the record does not say which other headers the request had."""
        return ()

    @property
    def masks_bytes(self) -> bool:
        """False: the access log contains the bytes themselves, escaped."""
        return False

    def _path_as_sent(self, path: str) -> str:
        return path

    def all_headers(self) -> dict[str, list[str]]:
        """Return no headers, because only some were logged."""
        self.missing.add("headers")
        return {}

    def query_values(self, name: str) -> Sequence[str]:
        """Return the values of the parameter, unless it was redacted."""
        if name in self._unknown_query:
            self.missing.add(f"query {name}")
            return ()
        return super().query_values(name)

    def all_query(self) -> dict[str, list[str]] | None:
        """Return every parameter, and note missing ones if some were redacted."""
        if self._unknown_query:
            self.missing.add("query")
        return super().all_query()

    def context_values(self, name: str) -> Sequence[str]:
        """Empty: it is not logged."""
        self.missing.add(f"context {name}")
        return ()

    def all_context(self) -> dict[str, str]:
        """Empty: it is not logged."""
        self.missing.add("context")
        return {}

    @property
    def body(self) -> bytes:
        """Empty: bodies are not logged."""
        self.missing.add("body")
        return b""

    @property
    def peer_principal(self) -> str:
        """Empty: it is not logged as Envoy sent it to authz."""
        self.missing.add("peer of the TLS connection")
        return ""


class RecordedCaller:
    """Has the attributes of an Identity. Subject and kind are known if a credential was verified."""

    __slots__ = ("_kind", "_subject", "missing")

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._kind = str(record.get("authz_credential", ""))
        self._subject = record.get("authz_subject")
        self.missing: set[str] = set()

    @property
    def kind(self) -> CredentialKind:
        """The kind of credential, if one was verified."""
        known = CredentialKind.__members__.get(self._kind.upper())
        if known is not None:
            return known
        self.missing.add("the caller: no credential was verified")
        return CredentialKind.ANONYMOUS

    @property
    def subject(self) -> str:
        """The subject of the caller, if it was recorded."""
        if self._subject is None:
            self.missing.add("subject of the caller")
        return str(self._subject or "")

    @property
    def issuer(self) -> str:
        """Empty: it is not recorded."""
        self.missing.add("issuer of the caller")
        return ""

    @property
    def scopes(self) -> frozenset[str]:
        """Empty: it is not recorded."""
        self.missing.add("scopes of the caller")
        return frozenset()

    @property
    def roles(self) -> frozenset[str]:
        """Empty: it is not recorded."""
        self.missing.add("roles of the caller")
        return frozenset()

    @property
    def audiences(self) -> frozenset[str]:
        """Empty: it is not recorded."""
        self.missing.add("audiences of the caller")
        return frozenset()

    @property
    def claims(self) -> Mapping[str, Any]:
        """Empty: it is not recorded."""
        self.missing.add("claims of the caller")
        return {}
