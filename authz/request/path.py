"""Splits a request path into segments before it decodes anything, and reports anomalies.

A reader that decodes before it splits sees `/a%2Fb` as `/a/b`, and a URL parser loses the first segment of
`//admin/x` (CVE-2026-26205). So the path is split at `/`, each segment is decoded once, and everything that
another reader might parse differently is reported.
"""

import re
from collections.abc import Callable, Iterator
from enum import IntFlag
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes


class PathAnomaly(IntFlag):
    """A feature of a path that readers parse differently. It is refused unless a rule opts in."""

    EMPTY_SEGMENT = 1
    """`//`: merged by some upstreams (CVE-2021-29492, CVE-2026-26205)."""
    DOT_SEGMENT = 2
    """`.` or `..`, plain or encoded: resolved by most upstreams (CVE-2026-33494, CVE-2019-9901)."""
    ENCODED_SLASH = 4
    """`%2F`: a separator to some, data to others (CVE-2021-29492)."""
    BACKSLASH = 8
    r"""`\` or `%5C`: a separator on some platforms (CVE-2021-29492)."""
    DOUBLE_ENCODING = 16
    """The decoded text still contains an escape, as in `%252F`: some upstreams decode twice."""
    PARAMETERS = 32
    """`;` or `%3B`: path parameters to some, data to others (GHSA-qcxp-gm7m-4j5v)."""
    FRAGMENT = 64
    """`#`: cut off by some upstreams (CVE-2021-32779)."""
    BAD_ESCAPE = 128
    """`%` without two hexadecimal digits after it."""
    NOT_UTF8 = 256
    """Escapes that do not decode to UTF-8, such as overlong forms of `/` and `.` (RFC 3629 section 10)."""
    NOT_ASCII = 512
    """Raw non-ASCII bytes, which RFC 9112 section 3.2 forbids in a request target."""
    CONTROL = 1024
    """A control character or a raw space."""
    NUL = 2048
    """`%00` or a NUL byte, which ends the path in programs written in C."""
    DISGUISED = 4096
    """An anomaly that no rule may accept, hidden by one that some may: `..%2Fadmin` by `%2F`, `%252e%252e` by
    `%25`, `%u002e%u002e` by a bad escape."""

    MASKED = 8192
    """`!`, which Envoy may show for bytes that are not UTF-8, while the upstream gets the bytes."""


NO_ANOMALY: Final = PathAnomaly(0)

NEVER_ACCEPTED: Final = (
    PathAnomaly.DOT_SEGMENT
    | PathAnomaly.NUL
    | PathAnomaly.CONTROL
    | PathAnomaly.NOT_UTF8
    | PathAnomaly.DISGUISED
)
"""Anomalies that no rule may opt in to, because no rule could safely name a reading of them."""

MAX_PATH_CHARACTERS: Final = 65_536
"""The longest path. Envoy's own limit for all headers of a request is 60 KiB by default."""

MAX_DECODINGS: Final = 3
"""How often an upstream may decode again; each pass takes time linear in the length of the path."""

_ODD: Final = re.compile(r"//|/\.{1,2}(?:/|\Z)|[^!$&'()*+,\-./0-9:=@A-Z_a-z~\[\]|^`{}\"<>]")
_PLAIN: Final = re.compile(r"/[/0-9A-Za-z_-]*")
"""Most paths. Without `//` they have no anomaly, which takes half as long to find out as with `_ODD`."""
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_WIDE_ESCAPE: Final = re.compile(r"%[uU][0-9A-Fa-f]{4}")
"""Not an escape by RFC 3986, but IIS decodes it: `%u002e%u002e` is `..` there."""
_CONTROL: Final = re.compile(r"[\x01-\x1f\x7f-\x9f]")
_FRAGMENT: Final = re.compile(r"[#?]")
"""The end of the path for a reader that parses it again after decoding."""
_DOTS: Final = re.compile(r"(?:\A|[/\\])\.{1,2}(?:[/\\;#?]|\Z)")
"""A dot segment for a reader that splits at all kinds of separators and cuts off what may follow a path."""


MAX_ODD_CHARACTERS: Final = 2_048
"""The longest path with anomalies; each of its readings takes time linear in its length."""

MAX_READINGS: Final = 128
"""The most readings of a path; one with more is refused. A path with one anomaly has 2 to 4."""


class Path(NamedTuple):
    """A path as rules see it. This is a tuple because one is created per request.

    `segments` are decoded once; `/` has one empty segment, `/a/` has `a` and an empty one.
    """

    segments: tuple[str, ...]
    oddities: PathAnomaly
    raw: str
    """The path as it was received."""

    def readings(self) -> tuple[tuple[str, ...], ...] | None:
        """Return the segments as each upstream may read them, `segments` first; None if there are too many.

        Upstreams decode again, split at further separators, read what follows `//` as a host, cut off
        fragments and parameters, and merge slashes: each does some of this, in this order. Deny rules are
        tested on every reading, so that an anomaly that one rule accepts does not evade a deny rule.
        """
        return _readings(self) if self.oddities else (self.segments,)


@lru_cache(maxsize=1)
def _readings(path: Path) -> tuple[tuple[str, ...], ...] | None:
    """Return the readings of a path with anomalies, cached because all rules of a request use the same."""
    if sum(map(len, path.segments)) + len(path.segments) > MAX_ODD_CHARACTERS:
        return None
    found = dict.fromkeys((path.segments, *_raw_readings(path.raw)))
    for step in (_without_masks, *_STEPS) if path.oddities & PathAnomaly.MASKED else _STEPS:
        for reading in list(found):
            found[step(reading)] = None
        if len(found) > MAX_READINGS:
            return None
    return tuple(found)


def _raw_readings(raw: str) -> Iterator[tuple[str, ...]]:
    """Yield the readings of upstreams that cut the path before decoding: `%5C`, `%23` and `%3B` are data."""
    texts = {raw: None}
    for sign, other in _RAW_STEPS:
        for text in list(texts):
            texts[sign.sub(other, text)] = None
    return (tuple(map(_unescaped, text[1:].split("/"))) for text in texts)


def _without_masks(segments: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(segment.replace("!", "") for segment in segments)


def _decoded_again(segments: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(_unescaped, segments))


def _split_at(separator: str) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    return lambda segments: tuple(part for segment in segments for part in segment.split(separator))


def _without_authority(segments: tuple[str, ...]) -> tuple[str, ...]:
    """Read `//host/path` like a URL parser, as `/path` (RFC 3986 section 4.2, CVE-2026-26205)."""
    return (segments[2:] or ("",)) if len(segments) > 1 and not segments[0] else segments


def _without_host(segments: tuple[str, ...]) -> tuple[str, ...]:
    """Read `///host/path` like the WHATWG URL standard, which skips any number of slashes: as `/path`."""
    first = next((place for place, segment in enumerate(segments) if segment), len(segments))
    return (segments[first + 1 :] or ("",)) if first else segments


def _without_fragment(segments: tuple[str, ...]) -> tuple[str, ...]:
    for place, segment in enumerate(segments):
        cut = _FRAGMENT.split(segment, maxsplit=1)[0]
        if cut != segment:
            return (*segments[:place], cut)
    return segments


def _without_parameters(segments: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(segment.partition(";")[0] for segment in segments)


def _merged(segments: tuple[str, ...]) -> tuple[str, ...]:
    return (*(segment for segment in segments[:-1] if segment), segments[-1])


def _resolved(segments: tuple[str, ...]) -> tuple[str, ...]:
    """Remove dot segments (RFC 3986 section 5.2.4)."""
    resolved: list[str] = []
    for segment in segments:
        if segment == "..":
            del resolved[-1:]
        elif segment != ".":
            resolved.append(segment)
    if segments[-1] in {".", ".."} or not resolved:
        resolved.append("")
    return tuple(resolved)


_RAW_STEPS: Final = (
    (re.compile(r"(?s)#.*"), ""),
    (re.compile(r"\\"), "/"),
    (re.compile(r";[^/]*"), ""),
)
_STEPS: Final = (
    *[_decoded_again] * MAX_DECODINGS, _split_at("/"), _split_at("\\"), _without_authority,
    _without_host, _without_fragment, _without_parameters, _merged, _resolved,
)  # fmt: skip
"""The transformations that upstreams may apply to the segments, in order. Each upstream applies some."""


_new: Final = tuple.__new__
"""Makes a named tuple of all its fields, for half of what its own constructor costs."""


def split_path(raw: str) -> Path:
    """Split the path `raw`, which begins with `/` and has no query."""
    if (_PLAIN.fullmatch(raw) is not None and "//" not in raw) or _ODD.search(raw) is None:
        return _new(Path, (tuple(raw[1:].split("/")), NO_ANOMALY, raw))
    return _split_odd(raw)


def _split_odd(raw: str) -> Path:
    oddities = NO_ANOMALY
    if not raw.isascii():
        oddities |= PathAnomaly.NOT_ASCII
    if "#" in raw:
        oddities |= PathAnomaly.FRAGMENT
    if " " in raw:
        oddities |= PathAnomaly.CONTROL
    segments = []
    for piece in raw[1:].split("/"):
        segment, found = _decode(piece)
        oddities |= found
        segments.append(segment)
    if "" in segments[:-1]:
        oddities |= PathAnomaly.EMPTY_SEGMENT
    return Path(tuple(segments), oddities, raw)


def _decode(piece: str) -> tuple[str, PathAnomaly]:
    """Decode one segment once and return it with its anomalies.

    Anomalies that no rule may accept are also searched in every further decoding: a rule that accepts `%25`
    in a path does not accept `%252e%252e`.
    """
    segment, oddities = _decode_once(piece)
    again = segment
    for _ in range(MAX_DECODINGS):
        if not _ESCAPE.search(again):
            break
        again, found = _decode_once(again)
        if found & NEVER_ACCEPTED:
            oddities |= PathAnomaly.DISGUISED
    if _WIDE_ESCAPE.search(again):
        oddities |= PathAnomaly.DISGUISED
    return segment, oddities


def _unescaped(piece: str) -> str:
    return unquote_to_bytes(piece).decode("utf-8", "replace") if "%" in piece else piece


def _decode_once(piece: str) -> tuple[str, PathAnomaly]:
    oddities = NO_ANOMALY
    if _BAD_ESCAPE.search(piece):
        oddities |= PathAnomaly.BAD_ESCAPE
    segment = piece
    if "%" in piece:
        data = unquote_to_bytes(piece)
        try:
            segment = data.decode()
        except UnicodeDecodeError:
            segment = data.decode("utf-8", "replace")
            oddities |= PathAnomaly.NOT_UTF8
        if "/" in segment:
            oddities |= PathAnomaly.ENCODED_SLASH
        if _ESCAPE.search(segment):
            oddities |= PathAnomaly.DOUBLE_ENCODING
    if segment in {".", ".."} or segment.partition(";")[0] in {".", ".."}:
        oddities |= PathAnomaly.DOT_SEGMENT
    elif _DOTS.search(segment):
        oddities |= PathAnomaly.DISGUISED
    if ";" in segment:
        oddities |= PathAnomaly.PARAMETERS
    if "\\" in segment:
        oddities |= PathAnomaly.BACKSLASH
    if "\0" in segment:
        oddities |= PathAnomaly.NUL
    if _CONTROL.search(segment):
        oddities |= PathAnomaly.CONTROL
    return segment, oddities
