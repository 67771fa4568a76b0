"""The client side of HTTP/1.1 (RFC 9112), one request in flight."""

from collections.abc import Sequence

from bench.openloop.client import Ended
from bench.tools.load import LoadError

MAX_HEAD_BYTES = 64 * 1024
_BODILESS = (b"204", b"304")


class Http1Client:
    """Sends the given requests, each as bytes, in turn."""

    def __init__(self, requests: Sequence[bytes]) -> None:
        self.streams = 1
        self.exhausted = False
        self._requests = requests
        self._tag = -1
        self._pending = False
        self._data = b""
        self._until_close = ""

    def opening(self) -> bytes:
        """Nothing: the client begins with a request."""
        return b""

    def call(self, number: int) -> bytes:
        """Return the bytes of the next request."""
        self._tag += 1
        self._pending = True
        return self._requests[number % len(self._requests)]

    def feed(self, data: bytes) -> tuple[Sequence[Ended], bytes]:
        """Return the call if its response is complete."""
        self._data = self._data + data if self._data else data
        head_end = self._data.find(b"\r\n\r\n")
        if head_end < 0:
            if len(self._data) > MAX_HEAD_BYTES:
                raise LoadError("the response has a head of more than 64 KiB")
            return (), b""
        head = self._data[: head_end + 2].lower()
        if not head.startswith(b"http/1."):
            raise LoadError(f"not a response of HTTP/1: {self._data[:40]!r}")
        status = head[9:12]
        if status.startswith(b"1"):
            rest, self._data = self._data[head_end + 4 :], b""
            return self.feed(rest) if rest else ((), b"")
        end = self._body_end(head, head_end + 4)
        if end is None:
            failure = _failure(status)
            self._until_close = failure or "ok"
            return (), b""
        if end < 0 or len(self._data) < end:
            return (), b""
        self._data = self._data[end:]
        self._pending = False
        self.exhausted = b"\r\nconnection: close\r\n" in head
        return (Ended(self._tag, _failure(status)),), b""

    def closed(self) -> Sequence[Ended]:
        """Return the call in flight, if any: a response without a length ends here."""
        if not self._pending:
            return ()
        self._pending = False
        failure = self._until_close.removeprefix("ok") if self._until_close else "closed without a response"
        return (Ended(self._tag, failure),)

    def _body_end(self, head: bytes, start: int) -> int | None:
        """Return where the response ends: -1 if that is not known yet, None if at the close (section 6.3)."""
        if head[9:12] in _BODILESS:
            return start
        if b"\r\ntransfer-encoding:" in head:
            return _chunks_end(self._data, start)
        at = head.find(b"\r\ncontent-length:")
        if at < 0:
            return None
        return start + int(head[at + 17 : head.index(b"\r\n", at + 17)])


def _failure(status: bytes) -> str:
    return "" if status < b"400" else f"HTTP {status.decode()}"


def _chunks_end(data: bytes, at: int) -> int:
    """Return the end of a chunked body (section 7.1); -1 if it is not complete."""
    while (line_end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line_end].partition(b";")[0], 16)
        at = line_end + 2 + size + 2
        if size == 0:
            trailers_end = data.find(b"\r\n\r\n", line_end)
            return trailers_end + 4 if trailers_end >= 0 else -1
    return -1
