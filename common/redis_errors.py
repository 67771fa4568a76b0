"""The answer of a Redis that refuses a command."""

from ssl import SSLError
from typing import Final

from redis.exceptions import AuthenticationError, AuthorizationError, BusyLoadingError, ResponseError

from common.os_errors import in_words

_REPEATED: Final = ", with args beginning with"

_ANSWERS: Final = (ResponseError, AuthenticationError, AuthorizationError, BusyLoadingError)


def answer_in(error: BaseException) -> Exception | None:
    """The error that Redis itself answered, if `error` is one or was caused by one; None if Redis is away.

    redis-py counts a wrong password, and a server that is still loading, as lost connections.
    """
    found: BaseException | None = error
    while found is not None and not isinstance(found, _ANSWERS):
        found = found.__cause__
    return found


def error_text(error: BaseException) -> str:
    """The text of `error`, or of the answer that caused it, after its code (NOPERM, READONLY).

    Without the arguments that Redis repeats of a command it does not know: keys hold what clients sent.
    """
    error = answer_in(error) or error
    cause = None if error.__suppress_context__ else error.__context__
    if isinstance(cause, OSError) and not isinstance(cause, SSLError | TimeoutError):
        return f"Redis cannot be reached: {in_words(cause)}"  # redis-py repeats the system's text
    text = str(error).partition(_REPEATED)[0] or type(error).__name__
    code = getattr(error, "status_code", None)
    return f"{code} {text}" if code and not text.startswith(code) else text
