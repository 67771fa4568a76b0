"""Reads messages whose texts hold bytes that are not UTF-8, whole, and without making two of them equal.

Envoy copies bytes that clients choose into texts: a header into a rate-limit descriptor, a request id into
the access log, a server name into a check request (envoyproxy/envoy#5141, #22996, #32607). A parser of
proto3 refuses the whole message for one such byte, so a client would choose what is limited and logged.

Here such a byte becomes a mark and two hexadecimal digits. The mark is U+10FFFF, a noncharacter that Unicode
reserves for use inside a program; if a text holds the mark itself, the letter `s` follows it. Different bytes
therefore make different texts, and a text that is UTF-8 stays as it is. `shown` turns it into text for
people.

A common message costs nothing: only messages that protobuf refused are read a second time.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, TypeVar

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from protos.wire import WireError, field_with, fields

MARK: Final = "\U0010ffff"
"""Precedes the two digits of each byte that is not UTF-8."""

MARK_BYTES: Final = MARK.encode()
"""MARK in a message."""

MOST_LEVELS: Final = 100
"""How deep messages may be nested: the limit of protobuf's own parsers."""

_MARK_ITSELF: Final = f"{MARK}s"
_MARKED: Final = re.compile(f"{MARK}(s|[0-9A-F]{{2}})")
_NOT_UTF8: Final = re.compile("[\udc80-\udcff]")
_ANY: Final = "google.protobuf.Any"
_TYPE_URL, _VALUE = 1, 2

_M = TypeVar("_M", bound=Message)


def parse(kind: type[_M], data: bytes) -> _M:
    """The message in `data`. Texts that differ in `data` differ in it. Raises DecodeError."""
    if MARK_BYTES not in data:
        try:
            return kind.FromString(data)
        except DecodeError:
            pass
    return parse_refused(kind, data)


def parse_refused(kind: type[_M], data: bytes) -> _M:
    """As `parse`, for bytes that protobuf has refused. Raises DecodeError if a text is not the reason."""
    return kind.FromString(_marked(data, kind.DESCRIPTOR, MOST_LEVELS))


def mark(text: bytes) -> str:
    """`text` decoded, with its bytes that are not UTF-8 marked. Different bytes make different texts."""
    if text.isascii():
        return text.decode("ascii")
    decoded = text.decode("utf-8", "surrogateescape").replace(MARK, _MARK_ITSELF)
    return _NOT_UTF8.sub(_marked_byte, decoded)


def original(text: str) -> bytes:
    """The bytes that `mark` turns into `text`."""
    if MARK not in text:
        return text.encode()
    return _MARKED.sub(_surrogate, text).encode("utf-8", "surrogateescape")


def is_marked(text: str) -> bool:
    """Whether `text` holds a byte that is not UTF-8."""
    return MARK in text and any(found[1] != "s" for found in _MARKED.finditer(text))


def shown(text: str) -> str:
    r"""`text` for people: a byte that is not UTF-8 as `\xff`, and in such a text a backslash as `\\`.

    Any other text stays as it is, so two texts look alike only if one is marked and the other is not: code
    that shows a text also says which of the two it is (`is_marked`).
    """
    if MARK not in text:
        return text
    if is_marked(text):
        text = text.replace("\\", "\\\\")
    return _MARKED.sub(_shown_byte, text)


def _marked_byte(found: re.Match[str]) -> str:
    return f"{MARK}{ord(found[0]) - 0xDC00:02X}"


def _surrogate(found: re.Match[str]) -> str:
    return MARK if found[1] == "s" else chr(0xDC00 + int(found[1], 16))


def _shown_byte(found: re.Match[str]) -> str:
    return MARK if found[1] == "s" else f"\\x{found[1].lower()}"


@cache
def _texts_and_messages(descriptor: Any) -> Mapping[int, Any]:
    """The fields of a message that may hold a text: None for a text, else the type of the submessage."""
    return {
        field.number: field.message_type
        for field in descriptor.fields
        if field.type in {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE}
    }


def _marked(data: bytes, descriptor: Any, levels: int) -> bytes:
    if not levels:
        raise WireError(f"messages in messages, deeper than {MOST_LEVELS}")
    is_any = descriptor.full_name == _ANY
    inner = _parts_of_any(data) if is_any else _texts_and_messages(descriptor)
    parts = []
    for number, content, whole in fields(data):
        if content is None or number not in inner:
            parts.append(whole)
            continue
        message = inner[number]
        try:
            better = mark(content).encode() if message is None else _marked(content, message, levels - 1)
        except WireError:
            if not is_any:
                raise
            better = content  # the value is not of its type: it stays as it came
        parts.append(whole if better == content else field_with(number, better))
    return b"".join(parts)


def _parts_of_any(data: bytes) -> Mapping[int, Any]:
    """The fields of an Any as `_texts_and_messages` tells them: its value is known where its type is."""
    type_url = b""
    for number, content, _ in fields(data):
        if number == _TYPE_URL and content is not None:
            type_url = content
    try:
        name = mark(type_url).rpartition("/")[2]
        return {_TYPE_URL: None, _VALUE: descriptor_pool.Default().FindMessageTypeByName(name)}
    except KeyError:
        return {_TYPE_URL: None}
