"""What is told of a decision afterwards: to the ring of recent decisions and to the decision log.

An account holds no header but the request id, no query and no body. Secrets in host, path and request id are
redacted as in the access log; what can still be personal (the caller, the client's address, segments of the
path) is masked where the settings say so. Both happen when it is told, not when it is kept.
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
from common.redaction import Secrets
from protos.authz_pb2 import AttributeContext, CheckRequest

MAX_PATH_CHARACTERS: Final = 1_024
"""Kept of a path, so that a thousand accounts stay below a few MB whatever clients send."""

MAX_ID_CHARACTERS: Final = 128
"""Kept of a request id and a host: Envoy's ids have 36 characters, but a client may send its own."""

MAX_DETAIL_CHARACTERS: Final = 400
"""The most characters kept of a detail, which may hold an issuer or audience that a client wrote."""

MASK: Final = "***"

NAMES: Final = (
    *("time", "decision_id", "request_id", "outcome", "reason", "status", "rule", "policy_revision"),
    *("detail", "subject", "issuer", "credential", "method", "host", "path", "client"),
    *("shadow_outcome", "shadow_rule"),
)
"""Every name that an account may have, in order."""


class DecisionRecord(NamedTuple):
    """A decision and what was asked. A tuple, because one is made for each request.

    The decision's own parts and not the decision, which holds the request with its credential.
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
    """As it was sent, without the query."""
    request_id: str
    client: str
    """The address of the peer of the connection."""
    detail: str
    """More about the reason: which claim, which issuer, which condition."""


def record_of(request: Request, decision: Decision, now: float) -> DecisionRecord:
    """The account of a decision about `request`."""
    verdict, number, revision, identity, credential, shadow, _, detail = decision
    ids = request.header_values("x-request-id")
    return DecisionRecord(
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
        request.source_address,
        detail[:MAX_DETAIL_CHARACTERS],
    )


def account_of_unreadable(message: CheckRequest, decision: Decision, now: float) -> DecisionRecord:
    """The account of a decision about a message that makes no request."""
    http = message.attributes.request.http
    return DecisionRecord(
        now,
        decision.id,
        decision.verdict,
        decision.shadow,
        decision.revision,
        decision.identity,
        decision.credential,
        http.method[:MAX_ID_CHARACTERS],
        http.host[:MAX_ID_CHARACTERS],
        http.path.partition("?")[0][:MAX_PATH_CHARACTERS],
        _request_id(http)[:MAX_ID_CHARACTERS],
        message.attributes.source.address.socket_address.address,
        decision.detail[:MAX_DETAIL_CHARACTERS],
    )


def _request_id(http: AttributeContext.HttpRequest) -> str:
    for header in http.header_map.headers:
        if header.key == "x-request-id":
            return header.raw_value.decode("latin-1") or header.value
    return http.headers.get("x-request-id", "")


class Masking:
    """What is left out of accounts, and what is replaced: secrets by `[redacted]`, what is masked by `***`.

    `names` are left out, `masked` replaced. Replaced too are segments of a path that match one of the
    patterns (RE2) as a whole, decoded or not. `secrets` are those of the access log.
    Raises ValueError for a name that no account has and for what is no pattern.
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
            raise ValueError(f"no account has {', '.join(unknown)}; known: {', '.join(NAMES)}")
        self._patterns = tuple(compile_pattern(pattern) for pattern in segments)
        self.secrets = secrets or Secrets()
        """May be replaced: a policy that is reloaded may read its credentials from other names."""

    def tell(self, record_of: DecisionRecord) -> dict[str, Any]:
        """The account as names and values: text without control characters, and one number: the status.

        A subject or issuer that cannot be carried unchanged is left out.
        """
        verdict, shadow, identity = record_of.verdict, record_of.shadow, record_of.identity
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record_of.at, UTC).isoformat(timespec="milliseconds"),
            "decision_id": record_of.id,
            "request_id": escaped(self.secrets.value(record_of.request_id, "", [])),
            "outcome": verdict.outcome.value,
            "reason": verdict.reason,
            "status": verdict.status,
            "rule": verdict.rule,
            "policy_revision": record_of.revision,
            "detail": self._detail(record_of.detail),
            "subject": plain(identity.subject),
            "issuer": plain(identity.issuer),
            "credential": record_of.credential,
            "method": escaped(record_of.method),
            "host": escaped(self.secrets.authority(record_of.host, "", [])),
            "path": self._path(record_of.path),
            "client": escaped(record_of.client),
            "shadow_outcome": shadow.outcome.value if shadow is not None else "",
            "shadow_rule": shadow.rule if shadow is not None else "",
        }
        return {
            name: MASK if name in self._masked else value
            for name, value in told.items()
            if value and name not in self._hidden
        }

    def detail(self, text: str) -> str:
        """The detail of a decision alone, as `tell` has it; empty where it is left out."""
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
