"""Host patterns and path templates of rules."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from authz.request.host import MalformedHostError, canonical_host
from authz.request.path import MAX_PATH_CHARACTERS, split_path

MAX_TEMPLATE_SEGMENTS: Final = 64
"""The most segments of a template: more than any API has. It bounds the depth of the index."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")
_NAMED: Final = re.compile(r"\{([^{}:=]+)(:.*)?\}")
_REGULAR_EXPRESSION: Final = re.compile(r"\([^()]*\|[^()]*\)|\.\+|\[[^\]]*\][+?]|^\^|[^/]\$$")
_OTHER_VARIABLE: Final = re.compile(
    r":([A-Za-z_][\w-]*)(?:\([^/]*\))?[?*+]?|<(?:\w+:)?([A-Za-z_][\w-]*)>|\[(?:\.{3})?(\w+)\]"
)
"""Variables as other routers write them: `:id` (Express), `<id>` and `<int:id>` (Flask), `[id]` (Next)."""
_VARIABLE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(=\*\*)?\}")


@dataclass(frozen=True, slots=True)
class HostPattern:
    """`api.example.com`, `*.example.com` (every name below it, at any depth) or `*` (every host)."""

    name: str
    """The host, or what follows `*.`; empty for every host."""
    wildcard: bool = False

    def __str__(self) -> str:
        if not self.wildcard:
            return self.name
        return f"*.{self.name}" if self.name else "*"


EVERY_HOST: Final = HostPattern("", wildcard=True)


@dataclass(frozen=True, slots=True)
class Template:
    """A path template such as `/users/{id}` or `/files/{rest=**}`.

    `segments` are plain text, or None for any one segment that is not empty. With `rest`, any number of
    segments may follow, including none: `/files/{rest=**}` covers `/files` too.
    """

    text: str
    segments: tuple[str | None, ...]
    rest: bool = False
    variables: tuple[str, ...] = ()
    """The names of the variables in order, ending with that of the rest if it has one."""
    names: tuple[str, ...] = ()
    """The name of each variable segment; empty for `*`."""
    rest_name: str = ""
    """The name of the rest; empty for `**`."""

    def __str__(self) -> str:
        return self.text

    def bind(self, path: Sequence[str], *, any_case: bool = False) -> dict[str, str] | None:
        """Return the decoded variables of a path; None if the template does not cover it.

        The rest is all remaining segments, joined by slashes. With `any_case`, plain segments are compared
        without case.
        """
        plain = len(self.segments)
        if len(path) < plain or (len(path) > plain and not self.rest):
            return None
        values = []
        for wanted, segment in zip(self.segments, path, strict=False):
            if wanted is None:
                if not segment:
                    return None
                values.append(segment)
            elif wanted != segment and not (any_case and wanted.casefold() == segment.casefold()):
                return None
        named = {name: value for name, value in zip(self.names, values, strict=True) if name}
        if self.rest_name:
            named[self.rest_name] = "/".join(path[plain:])
        return named

    def other_ends(self) -> Iterator["Template"]:
        """Yield the templates that upstreams which ignore a trailing slash also match.

        They serve `/users/` as `/users`, and Fastify serves it as `/users/{id}` with an empty variable.
        """
        if self.rest or len(self.segments) < 2:
            return
        *above, last = self.segments
        if last is None:
            yield replace(self, segments=(*above, ""), names=self.names[:-1])
        elif not last:
            yield replace(self, segments=tuple(above))

    def without_case(self) -> "Template":
        """Return the template with its plain segments in folded case."""
        segments = tuple(None if segment is None else segment.casefold() for segment in self.segments)
        return self if segments == self.segments else replace(self, segments=segments)


EVERY_PATH: Final = Template("/**", (), rest=True)


def parse_host(value: Any) -> HostPattern:
    """Parse a host pattern. Raises ValueError that says what would be right."""
    if value == "*":
        return EVERY_HOST
    if not isinstance(value, str) or not value.isascii():
        raise ValueError(f"{value!r}: a host is ASCII text; an internationalised name is written as xn--...")
    name = value.removeprefix("*.")
    try:
        canonical = canonical_host(name)
    except MalformedHostError:
        message = f"{value!r}: expected a host name, *.NAME or *, as in api.example.com or *.example.com"
        raise ValueError(message) from None
    if canonical != name.lower().removesuffix("."):
        raise ValueError(f"{value!r}: write the host as {canonical}, without a port: ports are not compared")
    return HostPattern(canonical, wildcard=name != value)


def parse_template(value: Any) -> Template:
    """Parse a path template. Raises ValueError that says what would be right."""
    if not isinstance(value, str) or not value.startswith("/") or len(value) > MAX_PATH_CHARACTERS:
        raise ValueError(f"{value!r}: a path begins with /, as in /users/{{id}}")
    pieces = value[1:].split("/")
    if len(pieces) > MAX_TEMPLATE_SEGMENTS:
        raise ValueError(f"{value!r}: a path has at most {MAX_TEMPLATE_SEGMENTS} segments")
    segments: list[str | None] = []
    variables: list[str] = []
    names: list[str] = []
    rest, rest_name = False, ""
    for piece in pieces:
        if rest:
            raise ValueError(f"{value!r}: ** matches everything that follows, so it must be the last segment")
        variable = _VARIABLE.fullmatch(piece)
        if variable:
            variables.append(variable[1])
            rest = bool(variable[2])
            rest_name = variable[1] if rest else ""
        else:
            rest = piece == "**"
        if not rest:
            if variable or piece == "*":
                names.append(variable[1] if variable else "")
            segments.append(None if variable or piece == "*" else _literal(value, piece))
    if "" in segments[:-1] or (rest and "" in segments):
        raise ValueError(f"{value!r}: an empty segment (//) never matches")
    if len(set(variables)) < len(variables):
        raise ValueError(f"{value!r}: duplicate variable")
    return Template(value, tuple(segments), rest, tuple(variables), tuple(names), rest_name)


def _literal(template: str, piece: str) -> str:
    if _PLAIN.fullmatch(piece):
        return piece
    other = _OTHER_VARIABLE.fullmatch(piece)
    if other:
        name = re.sub(r"\W", "_", other[1] or other[2] or other[3])
        raise ValueError(
            f"{template!r}: a variable is written {{{name}}}; {piece} would match only that literal text"
        )
    named = _NAMED.fullmatch(piece)
    if named and named[2]:
        raise ValueError(f"{template!r}: a variable has no pattern: write {{{named[1]}}}, test it in when")
    if named:
        name = re.sub(r"\W", "_", named[1])
        raise ValueError(f"{template!r}: a variable's name has letters, digits and _, as in {{{name}}}")
    if _REGULAR_EXPRESSION.search(piece):
        raise ValueError(
            f"{template!r}: a path is not a regular expression: write {{name}}, or several paths"
        )
    if any(character in piece for character in "{}*"):
        raise ValueError(f"{template!r}: {{name}}, {{name=**}}, * and ** match whole segments")
    if "%" in piece:
        raise ValueError(
            f"{template!r}: write the character itself, not its escape: segments are decoded first"
        )
    if any(character in piece for character in "?#\\") or not piece.isprintable():
        raise ValueError(f"{template!r}: ?, #, \\ and control characters are never part of a segment")
    if split_path(f"/{piece}").segments[0] in {".", ".."}:
        raise ValueError(f"{template!r}: dot segments are always refused")
    return piece
