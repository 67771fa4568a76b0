"""A request that cannot be judged, read only to respond in the right format and for the right origin."""

from contextlib import suppress
from typing import Final

from authz.request.host import MalformedHostError, canonical_host
from authz.request.path import MAX_PATH_CHARACTERS, NO_ANOMALY, Path, split_path
from authz.request.request import BadRequestError, Request
from authz.wire import CheckRequest, attributes_of, head_of, http_of

_NO_PATH: Final = Path((), NO_ANOMALY, "")


class UnreadableRequest(Request):
    """A request that is read without any checks. It must never reach a rule."""

    __slots__ = ()

    def __init__(self, message: CheckRequest) -> None:
        with suppress(BadRequestError):  # the headers are read before the checks
            super().__init__(message)
        _, host, path = head_of(http_of(attributes_of(message)))
        self.authorization = ()
        self.host = _host(host)
        self.raw_path, _, self.query = path.partition("?")
        usual = self.raw_path[:1] == "/" and len(self.raw_path) <= MAX_PATH_CHARACTERS
        self.path = split_path(self.raw_path) if usual else _NO_PATH


def _host(host: str) -> str:
    try:
        return canonical_host(host)
    except MalformedHostError:
        return ""
