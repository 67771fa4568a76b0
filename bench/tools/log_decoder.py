"""Turns the messages of a file into lines, for callgrind: `python -m bench.tools.log_decoder ORDER`.

The order is JSON: `file`; `redact` as in the settings; `requests`, whether requests are counted as metrics.
"""

import sys
from pathlib import Path
from struct import Struct

import orjson

from accesslog.records.counters import EntryCounters
from accesslog.records.decoder import EntryDecoder, Rules
from accesslog.records.requests import RequestCounters
from accesslog.records.sample import Sampling
from sidecars.settings.accesslog import RedactSettings

_LENGTH = Struct(">I")
_NOW = 1_790_000_000.0


def packed(messages: list[bytes]) -> bytes:
    """The messages as the file has them."""
    return b"".join(_LENGTH.pack(len(message)) + message for message in messages)


def unpacked(data: bytes) -> list[bytes]:
    """The messages of such a file."""
    messages = []
    at = 0
    while at < len(data):
        start = at + _LENGTH.size
        at = start + _LENGTH.unpack_from(data, at)[0]
        messages.append(data[start:at])
    return messages


def decode(messages: list[bytes], redact: RedactSettings, *, requests: bool = False) -> int:
    """Make the line of every entry, and return the number of lines."""
    rules = Rules(redact.redaction(), Sampling(), requests=RequestCounters() if requests else None)
    decoder = EntryDecoder(rules, EntryCounters(), lambda: _NOW, lambda: 0.5)
    return sum(len(batch.lines) for message in messages for batch in decoder.read(message))


if __name__ == "__main__":
    order = orjson.loads(sys.argv[1])
    settings = RedactSettings(**order["redact"])
    sent = unpacked(Path(order["file"]).read_bytes())
    print(decode(sent, settings, requests=order["requests"]))
