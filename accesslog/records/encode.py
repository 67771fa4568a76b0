"""Encodes a record as one line of JSON of bounded length."""

from typing import Any, Final

import orjson

from accesslog.records.fields import FIELDS

MAX_RECORD_BYTES: Final = 64 * 1024
"""A usual record has 2 kB. Envoy takes 60 kB of request headers, all of which a setting may have it log; the
collectors that read the lines commonly stop at 64 kB or more."""

_LONGEST_TEXT: Final = 1024
"""The length to which texts are cut in a record that is too large: enough to recognise them."""

_SHORT_TEXT: Final = 128
"""A shorter length, used where the first is not enough. A client must not be able to keep its request
out of the log."""

_LONGEST_LIST: Final = 64
"""Items: client certificates have a handful of names, requests a handful of descriptors."""

_OPEN_MAPS: Final = (
    "metadata",
    "filter_state",
    "ratelimit_metadata",
    "ratelimit_descriptors",
    "response_trailers",
    "response_headers",
    "request_headers",
    "tags",
)

_OPTIONS: Final = orjson.OPT_APPEND_NEWLINE


def json_line(record: dict[str, Any], max_bytes: int = MAX_RECORD_BYTES) -> bytes | None:
    """`record` as a line, its fields in the order of `FIELDS`; None where `max_bytes` are not enough.

    A record that is too large has its long texts and lists cut and, if that is not enough, its maps left out,
    the least telling first, and its texts cut shorter; `truncated` then says so.
    """
    record = {name: record[name] for name in FIELDS if name in record}
    line = orjson.dumps(record, option=_OPTIONS)
    if len(line) <= max_bytes:
        return line
    record = {name: _cut(value, _LONGEST_TEXT) for name, value in record.items()}
    record["truncated"] = True
    for name in (None, *_OPEN_MAPS):
        if name is not None and record.pop(name, None) is None:
            continue
        line = orjson.dumps(record, option=_OPTIONS)
        if len(line) <= max_bytes:
            return line
    line = orjson.dumps(_cut(record, _SHORT_TEXT), option=_OPTIONS)
    return line if len(line) <= max_bytes else None


def _cut(value: Any, longest: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= longest else f"{value[:longest]}..."
    if isinstance(value, dict):
        return {_cut(key, longest): _cut(inner, longest) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_cut(inner, longest) for inner in value[:_LONGEST_LIST]]
    return value
