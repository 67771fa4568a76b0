"""The variables of a request in an expression, in every way that an upstream may read the request.

A deny rule tests each reading, so that `/public%2fadmin`, `ROLE=admin` and `role[]=admin` do not evade it. An
allow rule tests the request as received, and does not match if another reading differs in something that the
expression names. Only what the expression names is read in several ways.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Final

from authz.policy.types.paths import EXACT, PathMatching, without_case
from authz.policy.types.pattern import Template
from authz.request.field_names import WantedNames, fold_members, fold_name, members
from authz.request.header_names import fold, names_alike
from authz.request.request import MAX_PARTS, Request

MAX_COMBINED: Final = 64
"""The most readings of path, headers, query and body together; with more, the expression fails."""


MAX_DEPTH: Final = 32
"""The most names within the name of a form field: qs reads 5, Rack 32, PHP 64. The library recurses."""

Reading = Mapping[str, Any]
"""The variables of an expression, or some of them."""
Readings = Callable[[Request], Sequence[Reading]]

PATH_VARIABLES: Final = frozenset({"path", "segments", "vars"})

_MEMBER: Final = re.compile(r"\.\s*([A-Za-z_]\w*)\b(?!\s*\()")
_KEY: Final = re.compile(r"""\[\s*(["'])(.*?)\1\s*\]|(["'])([^"']*)\3\s*in\b""")
_ABOVE: Final = re.compile(
    r"""(?:\[\s*(["'])(.*?)\1\s*\]|\.\s*([A-Za-z_]\w*))\s*(?=\[|\.\s*[A-Za-z_]\w*\b(?!\s*\())"""
)
_TEXT: Final = re.compile(r"""(["'])(.*?)\1""")
_WHOLE: Final = re.compile(
    r"""\b(?:headers|query|body)(?:\b(?!\s*[.\[])|\s*\.\s*\w+\s*\(|\s*\[(?!\s*(["'])[^"'\\]*\1\s*\]))"""
    r"""|\'{3}|"{3}"""
)
"""A map that is used as a whole: `query.exists(name, ...)`, `size(headers)`, `query[name]`."""
_IN_MAP: Final = re.compile(r"""(["'])[^"'\\]*\1\s*in\s*(?:headers|query|body)\b""")


class UnknownError(Exception):
    """A value that the expression uses is unknown, because upstreams read it differently."""


class Named:
    """The names that an expression uses in headers, query and body."""

    __slots__ = ("_above", "headers", "keys", "names", "wanted", "whole")

    def __init__(self, text: str) -> None:
        found = set(_MEMBER.findall(text))
        found |= {one or other for _, one, _, other in _KEY.findall(text)}
        self.whole = _WHOLE.search(_IN_MAP.sub("", text)) is not None
        """Whether the expression iterates over all names and compares them with texts."""
        if self.whole:
            found |= {literal for _, literal in _TEXT.findall(text)}
        self.names = frozenset(found)
        """Each name as the expression spells it."""
        self._above = {one or other for _, one, other in _ABOVE.findall(text)}
        """Names whose members the expression uses: `user` in `body.user.role`."""
        self.wanted = WantedNames(sorted(found))
        self.keys = frozenset(map(fold_name, found))
        """The folded names, for keys of JSON, which have no members."""
        self.headers = names_alike(tuple(sorted(found)))

    def spelled(self, name: str) -> str:
        """Return the name as the expression spells it; the name itself if the expression does not use it."""
        if name in self.names:
            return name
        return self.wanted.by_folded.get(fold_members(name), (name,))[0]

    def place(self, name: str) -> tuple[str, ...]:
        """Return the key path of a form field, as deep as the expression uses it: `role[x]` is in `role`."""
        parts: list[str] = []
        found = members(name)
        if len(found) > MAX_DEPTH:
            raise UnknownError
        for part in map(self.spelled, found):
            parts.append(part)
            if part in self.names and part not in self._above:
                break
        return tuple(parts)


def path_readings(names: Sequence[str], templates: Sequence[Template], matching: PathMatching) -> Readings:
    """Return a reader of `path`, `segments` and `vars`: those that a template covers, or the path as sent."""
    templates = matching.templates(templates)
    any_case = matching.any_case
    binds = "vars" in names

    def variables(segments: tuple[str, ...], bound: Mapping[str, str]) -> Reading:
        found: dict[str, Any] = {"vars": bound} if binds else {}
        if "path" in names:
            found["path"] = "/" + "/".join(segments)
        if "segments" in names:
            found["segments"] = list(segments)
        return found

    def read(request: Request) -> Sequence[Reading]:
        path = request.path
        if not path.oddities and not any_case and not matching.any_slash:
            return (variables(path.segments, bind(templates, path.segments) if binds else {}),)
        readings = matching.readings(path)
        if readings is None:
            raise UnknownError
        found = []
        for segments in readings:
            bound = matching.bind(templates, segments)
            if bound is None:
                continue
            found.append(variables(segments, bound))
            if any_case and (lower := without_case(segments)) != segments:
                found.append(variables(lower, bound))
        return found or (variables(path.segments, {}),)

    return read


def bind(templates: Sequence[Template], segments: Sequence[str]) -> Mapping[str, str]:
    """Return the variables of the first template that covers the path; a rest keeps its slashes."""
    return EXACT.bind(templates, tuple(segments)) or {}


def header_readings(named: Named, *, denies: bool) -> Readings:
    """Return a reader of `headers`, also with headers that a CGI server reads under a name in use."""

    def read(request: Request) -> Sequence[Reading]:
        others = named.headers.among(request.header_names)
        wanted = (*named.names, *others)
        first = with_parts(request.all_headers() if named.whole else _present(wanted, request.header_values))
        if request.masks_bytes:
            _refuse_masks(first)
        if not others:
            return ({"headers": first},)
        if not denies:
            raise UnknownError
        second = {name: list(values) for name, values in first.items()}
        for other in others:
            for name in named.names:
                if fold(name) == fold(other):
                    second.setdefault(name, []).extend(first[other])
        return ({"headers": first}, {"headers": second})

    return read


def _present(names: Iterable[str], values_of: Callable[[str], Sequence[str]]) -> dict[str, list[str]]:
    """Return the names that have values. Only these are converted, so other input of a client is free."""
    found = {}
    for name in names:
        values = values_of(name)
        if values:
            found[name] = list(values)
    return found


def _refuse_masks(headers: Mapping[str, Sequence[str]]) -> None:
    if any("!" in value for values in headers.values() for value in values):
        raise UnknownError


def query_readings(named: Named, *, denies: bool) -> Readings:
    """Return a reader of `query`, also as the most lenient upstreams read it, with `;` as a separator."""

    def read(request: Request) -> Sequence[Reading]:
        first = request.all_query() if named.whole else _present(named.names, request.query_values)
        if first is None or request.has_too_many_parameters:
            raise UnknownError
        meant = _meant(request, named)
        if all(first.get(name) == values for name, values in meant.items()):
            return ({"query": first},)
        if not denies:
            raise UnknownError
        return ({"query": first}, {"query": {**first, **meant}})

    return read


def _meant(request: Request, named: Named) -> dict[str, list[str]]:
    """Return the values that an upstream may read under each name in use, or under every name if needed."""
    found: dict[str, list[str | None]] = {}
    for folded, names in named.wanted.by_folded.items():
        values = request.query_meaning(folded)
        if values:
            found.update((name, list(values)) for name in names)
    if named.whole:
        for name, value in request.query_pairs():
            if name not in named.names:
                found.setdefault(name, []).append(value)
    known = {name: [value for value in values if value is not None] for name, values in found.items()}
    if any(len(known[name]) < len(values) for name, values in found.items()):
        raise UnknownError
    return known


def combined(several: Sequence[Sequence[Reading]]) -> Iterator[Reading]:
    """Yield each combination of readings of several variables. Raises UnknownError if there are too many."""
    number = 1
    for readings in several:
        number *= len(readings)
    if number > MAX_COMBINED:
        raise UnknownError
    for combination in product(*several):
        merged: dict[str, Any] = {}
        for reading in combination:
            merged.update(reading)
        yield merged


def with_parts(headers: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Return the values as sent, followed by the parts of those that contain a comma.

    Values joined by commas mean the same as several lines (RFC 9110 section 5.3), so an expression that looks
    for one of them must find it (CVE-2026-26308). Raises UnknownError for too many parts.
    """
    found: dict[str, Sequence[str]] = {}
    for name, lines in headers.items():
        joined = [line for line in lines if "," in line]
        if sum(line.count(",") for line in joined) >= MAX_PARTS:
            raise UnknownError
        found[name] = (
            [*lines, *(part.strip(" \t") for line in joined for part in line.split(","))] if joined else lines
        )
    return found
