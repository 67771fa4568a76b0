"""The record of a decision, for `/decisions` and the decision log.

A record holds no header but the request id, no query and no body. Secrets in host, path and request id are
redacted as in the access log; personal data (the caller, the client's address, segments of the path) is
masked where the settings say so. Both happen when a record is read, not when it is stored.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from authz.engine.decide import Decision
from authz.policy.conditions.regular_expressions import compile_pattern
from authz.policy.rule import Verdict
from authz.request.identity import Identity
from authz.request.plain_text import escaped, plain
from authz.request.request import Request
from authz.wire import CheckRequest, address_of, attributes_of, first_value, head_of, http_of, peer_bytes_of
from common.redaction import Secrets

MAX_PATH_CHARACTERS: Final = 1_024
"""The most characters kept of a path, so that a thousand records stay below a few MB."""

MAX_ID_CHARACTERS: Final = 128
"""The most characters kept of a request id or host: Envoy's ids have 36, but a client may send its own."""

MAX_DETAIL_CHARACTERS: Final = 400
"""The most characters kept of a detail, which may hold an issuer or audience that a client wrote."""

MASK: Final = "***"

NAMES: Final = (
    *("time", "decision_id", "request_id", "outcome", "reason", "status", "rule", "policy_revision"),
    *("detail", "subject", "issuer", "credential", "method", "host", "path", "client"),
    *("shadow_outcome", "shadow_rule"),
)
"""Every field that a record may have, in order."""


_new: Final = tuple.__new__
"""Makes a named tuple of all its fields, for half of what its own constructor costs."""


class DecisionRecord(NamedTuple):
    """A decision and the request it was about. This is a tuple because one is created per request.

    It copies the parts of the decision, because the decision itself holds the request with its credential.
    """

    at: float
    """Unix seconds."""
    id: str
    verdict: Verdict
    shadow: Verdict | None
    revision: str
    identity: Identity
    credential: str
    method: str
    host: str
    path: str
    """The path as it was sent, without the query."""
    request_id: str
    peer: bytes
    """The peer of the connection, which few readers want to know: decoded when it is read."""
    detail: str
    """More about the reason: which claim, which issuer, which condition."""


def record_of(request: Request, decision: Decision, now: float) -> DecisionRecord:
    """Return the record of a decision about `request`; `now` is in unix seconds."""
    verdict, number, revision, identity, credential, shadow, _, detail = decision
    ids = request.header_values("x-request-id")
    fields = (
        now,
        number,
        verdict,
        shadow,
        revision,
        identity,
        credential,
        request.method,
        request.host,
        request.raw_path[:MAX_PATH_CHARACTERS],
        ids[0][:MAX_ID_CHARACTERS] if ids else "",
        request.peer_bytes,
        detail[:MAX_DETAIL_CHARACTERS],
    )
    return _new(DecisionRecord, fields)


def record_of_unreadable(message: CheckRequest, decision: Decision, now: float) -> DecisionRecord:
    """Return the record of a decision about a message that cannot be read as a request."""
    attributes = attributes_of(message)
    http = http_of(attributes)
    method, host, path = head_of(http)
    return DecisionRecord(
        now,
        decision.id,
        decision.verdict,
        decision.shadow,
        decision.revision,
        decision.identity,
        decision.credential,
        method[:MAX_ID_CHARACTERS],
        host[:MAX_ID_CHARACTERS],
        path.partition("?")[0][:MAX_PATH_CHARACTERS],
        first_value(http, "x-request-id")[:MAX_ID_CHARACTERS],
        peer_bytes_of(attributes),
        decision.detail[:MAX_DETAIL_CHARACTERS],
    )


class Masking:
    """Removes and masks fields of records: secrets become `[redacted]`, masked values `***`.

    `omit` names the fields to remove, `masked` those to mask. Path segments that match one of `segments`
    (RE2 patterns) as a whole, decoded or not, are masked too. `secrets` are those of the access log.
    Raises ValueError for an unknown field name or an invalid pattern.
    """

    __slots__ = ("_hidden", "_masked", "_patterns", "secrets")

    def __init__(
        self,
        omit: Iterable[str] = (),
        masked: Iterable[str] = (),
        segments: Sequence[str] = (),
        secrets: Secrets | None = None,
    ) -> None:
        self._hidden = frozenset(omit)
        self._masked = frozenset(masked)
        unknown = sorted((self._hidden | self._masked) - set(NAMES))
        if unknown:
            raise ValueError(
                f"a decision record has no field {', '.join(unknown)}; known: {', '.join(NAMES)}"
            )
        self._patterns = tuple(compile_pattern(pattern) for pattern in segments)
        self.secrets = secrets or Secrets()
        """Replaceable, because a reloaded policy may read credentials from other headers or parameters."""

    def to_dict(self, record: DecisionRecord) -> dict[str, Any]:
        """Return the record as a dictionary: a numeric status, all else text without control characters.

        Fields without a value are omitted, and so is a subject or issuer with control characters.
        """
        verdict, shadow, identity = record.verdict, record.shadow, record.identity
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.at, UTC).isoformat(timespec="milliseconds"),
            "decision_id": record.id,
            "request_id": escaped(self.secrets.value(record.request_id, "", [])),
            "outcome": verdict.outcome.value,
            "reason": verdict.reason,
            "status": verdict.status,
            "rule": verdict.rule,
            "policy_revision": record.revision,
            "detail": self._detail(record.detail),
            "subject": plain(identity.subject),
            "issuer": plain(identity.issuer),
            "credential": record.credential,
            "method": escaped(record.method),
            "host": escaped(self.secrets.authority(record.host, "", [])),
            "path": self._path(record.path),
            "client": escaped(address_of(record.peer)),
            "shadow_outcome": shadow.outcome.value if shadow is not None else "",
            "shadow_rule": shadow.rule if shadow is not None else "",
        }
        return {
            name: MASK if name in self._masked else value
            for name, value in fields.items()
            if value and name not in self._hidden
        }

    def hides(self, name: str) -> bool:
        """Whether the field is omitted or masked."""
        return name in self._hidden or name in self._masked

    def detail(self, text: str) -> str:
        """Return only the detail of a decision, as `to_dict` renders it; empty if it is omitted."""
        if "detail" in self._hidden:
            return ""
        return MASK if "detail" in self._masked else self._detail(text[:MAX_DETAIL_CHARACTERS])

    def _detail(self, detail: str) -> str:
        return escaped(self.secrets.value(detail, "", []))

    def _path(self, path: str) -> str:
        path = self.secrets.path(path, "", [])
        if self._patterns:
            path = "/".join([MASK if self._matches(piece) else piece for piece in path.split("/")])
        return escaped(path)

    def _matches(self, piece: str) -> bool:
        decoded = unquote(unquote(piece)) if "%" in piece else piece
        return any(
            pattern.fullmatch(text) is not None for pattern in self._patterns for text in {piece, decoded}
        )
