"""A request path, cut into segments before anything is decoded.

Whoever decodes first and splits later sees `/a%2Fb` as `/a/b`, and whoever hands the path to a URL
parser loses the first segment of `//admin/x` (CVE-2026-26205). So: split at `/`, then decode each
segment once, and name everything that another reader might understand differently.
"""

import re
from collections.abc import Callable, Iterator
from enum import IntFlag
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes


class PathAnomaly(IntFlag):
    """What makes a path mean different things to different readers. Refused unless a rule opts in."""

    EMPTY_SEGMENT = 1
    """`//`: merged by some upstreams (CVE-2021-29492, CVE-2026-26205)."""
    DOT_SEGMENT = 2
    """`.` or `..`, plain or encoded: resolved by most upstreams (CVE-2026-33494, CVE-2019-9901)."""
    ENCODED_SLASH = 4
    """`%2F`: a separator to some, data to others (CVE-2021-29492)."""
    BACKSLASH = 8
    r"""`\` or `%5C`: a separator on some platforms (CVE-2021-29492)."""
    DOUBLE_ENCODING = 16
    """What is decoded still holds an escape, as in `%252F`: some upstreams decode twice."""
    PARAMETERS = 32
    """`;` or `%3B`: path parameters to some, data to others (GHSA-qcxp-gm7m-4j5v)."""
    FRAGMENT = 64
    """`#`: cut off by some upstreams (CVE-2021-32779)."""
    BAD_ESCAPE = 128
    """`%` without two hexadecimal digits behind it."""
    NOT_UTF8 = 256
    """Escapes that give no UTF-8: overlong forms of `/` and `.` hide there (RFC 3629 section 10)."""
    NOT_ASCII = 512
    """Raw bytes beyond ASCII, which no request target may have (RFC 9112 section 3.2)."""
    CONTROL = 1024
    """A control character or a raw space."""
    NUL = 2048
    """`%00` or a NUL byte: ends the path for whatever is written in C."""
    DISGUISED = 4096
    """What no rule may accept, behind what some may: `..%2Fadmin` behind `%2F`, `%252e%252e` behind `%25`,
    `%u002e%u002e` behind a bad escape."""

    MASKED = 8192
    """`!`, where Envoy may show it for bytes that are not UTF-8: the upstream gets the bytes."""


NO_ANOMALY: Final = PathAnomaly(0)

NEVER_ACCEPTED: Final = (
    PathAnomaly.DOT_SEGMENT
    | PathAnomaly.NUL
    | PathAnomaly.CONTROL
    | PathAnomaly.NOT_UTF8
    | PathAnomaly.DISGUISED
)
"""No rule may opt in to these: there is no reading of them that a rule could safely name."""

MAX_PATH_CHARACTERS: Final = 65_536
"""Envoy's own limit for all headers of a request is 60 KiB by default, so a longer path is a mistake."""

MAX_DECODINGS: Final = 3
"""How often an upstream is thought to decode again; each pass costs the length of the path."""

_ODD = re.compile(r"//|/\.{1,2}(?:/|\Z)|[^!$&'()*+,\-./0-9:=@A-Z_a-z~\[\]|^`{}\"<>]")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_WIDE_ESCAPE = re.compile(r"%[uU][0-9A-Fa-f]{4}")
"""No escape by RFC 3986, but IIS decodes it: `%u002e%u002e` is `..` there."""
_CONTROL = re.compile(r"[\x01-\x1f\x7f-\x9f]")
_FRAGMENT = re.compile(r"[#?]")
"""Text after one of these is not part of the path for a reader that parses it again after decoding."""
_DOTS = re.compile(r"(?:\A|[/\\])\.{1,2}(?:[/\\;#?]|\Z)")
"""A dot segment to whoever splits at separators of every kind and cuts off what may follow a path."""


MAX_ODD_CHARACTERS: Final = 2_048
"""A longer path that readers differ about is refused: each of its readings costs as much as its length."""

MAX_READINGS: Final = 128
"""Ways to read one path; a path with more of them is refused. A rule that accepts one oddity meets 2 to 4."""


class Path(NamedTuple):
    """A path as rules see it. A tuple, because one is made for each request.

    `segments` are decoded once; `/` has one empty segment, `/a/` has `a` and an empty one.
    """

    segments: tuple[str, ...]
    oddities: PathAnomaly
    raw: str
    """As it came."""

    def readings(self) -> tuple[tuple[str, ...], ...] | None:
        """The segments that each upstream would make of the path, `segments` first; None: too many to try.

        Upstreams decode again, split at further separators, take what follows `//` for a host, cut off
        fragments and parameters, and merge slashes: each of them some of this, in this order. Deny rules
        are tried on every reading, so that an oddity that one rule accepts does not get around another
        rule that denies.
        """
        return _readings(self) if self.oddities else (self.segments,)


@lru_cache(maxsize=1)
def _readings(path: Path) -> tuple[tuple[str, ...], ...] | None:
    """The readings of an odd path. The last ones are kept: all rules of a request ask for the same."""
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
    """The path to those who cut it before they decode it: `%5C`, `%23` and `%3B` are data to them."""
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
    """`//host/path` as a URL parser reads it: `/path` (RFC 3986 section 4.2, CVE-2026-26205)."""
    return (segments[2:] or ("",)) if len(segments) > 1 and not segments[0] else segments


def _without_host(segments: tuple[str, ...]) -> tuple[str, ...]:
    """`///host/path` as the WHATWG URL standard reads it, which takes any number of slashes: `/path`."""
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
    """Without dot segments (RFC 3986 section 5.2.4)."""
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
"""What an upstream may do to the segments, in order. Each upstream does some of it."""


def split_path(raw: str) -> Path:
    """The path `raw` (without its query), which begins with `/`, in segments."""
    if _ODD.search(raw) is None:
        return Path(tuple(raw[1:].split("/")), NO_ANOMALY, raw)
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
    """One segment decoded once, and what is odd about it.

    What no rule may accept is looked for in every further decoding, too: whoever accepts `%25` in
    a path has not accepted `%252e%252e`.
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
