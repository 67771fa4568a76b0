"""Turns an exception of a handler into the status of its call."""

import re
import secrets
from typing import Final

import structlog

from sidecars.transport.api.service import Call, Code, Status, StatusError

_log = structlog.get_logger("sidecars.transport")

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")


def status_of(error: Exception, call: Call) -> Status:
    """The status that `call` ends with when its handler raised `error`.

    A StatusError is the handler's own answer. Anything else is a defect: it is logged whole under an error
    id, with the trace id of the call where it has one, and the peer gets INTERNAL with the error id and
    nothing of the text, which may hold a secret.
    """
    if isinstance(error, StatusError) and error.status.code is not Code.OK:
        return error.status
    error_id = secrets.token_hex(8)
    trace_id = _trace_id(call)
    _log.error("handler failed", error_id=error_id, trace_id=trace_id, method=call.method, exc_info=error)
    return Status(Code.INTERNAL, f"internal error {error_id}")


def _trace_id(call: Call) -> str | None:
    """The trace that the call is a part of (W3C Trace Context, section 3.2.2); None where it has none."""
    found = _TRACEPARENT.fullmatch(str(call.metadata.get("traceparent", "")))
    return found[1] if found else None
