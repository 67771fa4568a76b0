"""What becomes of an exception that a handler did not mean to raise."""

import secrets

import structlog

from sidecars.transport.service import Code, Status, StatusError

_log = structlog.get_logger("sidecars.transport")


def status_of(error: Exception, method: str) -> Status:
    """The status a call ends with when its handler raised `error`.

    A StatusError is the handler's own answer. Anything else is a defect: it is logged whole under an error
    id, and the peer gets INTERNAL with that id and nothing of the text, which may hold a secret.
    """
    if isinstance(error, StatusError) and error.status.code is not Code.OK:
        return error.status
    error_id = secrets.token_hex(8)
    _log.error("handler failed", error_id=error_id, method=method, exc_info=error)
    return Status(Code.INTERNAL, f"internal error {error_id}")
