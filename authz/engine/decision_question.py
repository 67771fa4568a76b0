"""Makes a question for the policy tools of a recorded decision: who asked for what."""

from ipaddress import ip_address
from typing import Any, Final

from authz.engine.decision_record import MASK, DecisionRecord, Masking
from authz.request.identity import CredentialKind, RefusalReason
from authz.request.plain_text import plain

_REFUSALS: Final = frozenset(RefusalReason)


def question_of(record: DecisionRecord, masking: Masking) -> dict[str, Any]:
    """Return `request` and `caller` of a decision, as in the request files of `sidecars policy explain`.

    Fields are masked as in the record. Scopes and roles are included, unless the subject is hidden.
    """
    shown = masking.to_dict(record)
    request: dict[str, Any] = {
        name: shown[name] for name in ("method", "host", "path") if name in shown and shown[name] != MASK
    }
    if _is_address(shown.get("client", "")):
        request["client"] = shown["client"]
    return {"request": request, "caller": _caller(record, shown, masking)}


def _caller(record: DecisionRecord, shown: dict[str, Any], masking: Masking) -> dict[str, Any] | None:
    identity = record.identity
    if record.verdict.reason in _REFUSALS:
        return {"refused": record.verdict.reason}
    if identity.kind is CredentialKind.ANONYMOUS:
        return None
    caller: dict[str, Any] = {"kind": identity.kind.value}
    caller |= {name: shown[name] for name in ("subject", "issuer") if name in shown}
    if not masking.hides("subject"):
        lists = {"scopes": identity.scopes, "roles": identity.roles, "audiences": identity.audiences}
        caller |= {name: sorted(filter(None, map(plain, values))) for name, values in lists.items() if values}
    return caller


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
