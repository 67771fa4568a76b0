"""Models of how some recorded servers read names and paths, for spellings that are not recorded.

A test compares each model with every recorded fact of its server.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import unquote, unquote_plus

VALUE: Final = "admin"


def php(text: str) -> Iterator[str]:
    """Return the names under which PHP stores VALUE, in lists too (main/php_variables.c)."""
    held: dict[str, list[str]] = {}
    for piece in text.split("&"):
        name, _, value = piece.partition("=")
        name = unquote_plus(name).lstrip(" ").partition("\0")[0]
        first, bracket, rest = name.partition("[")
        if not first and bracket:
            first, bracket, rest = f"_{rest}", "", ""
        listed = bool(bracket) and "]" in rest
        if bracket and not listed:
            first = f"{first}_{rest}"
        first = re.sub(r"[ .]", "_", first)
        inner = rest.partition("]")[0] if listed else ""
        key = f"{first}.{inner}" if first == "user" and inner == "role" else first
        if not listed or not isinstance(held.get(key), list):
            held[key] = []
        held[key].append(unquote_plus(value))
    return (name for name, values in held.items() if VALUE in values)


def plain(text: str) -> Iterator[str]:
    """Return the names as most servers read them: Go, Flask, Django, Fastify."""
    for piece in text.split("&"):
        name, _, value = piece.partition("=")
        if unquote_plus(value) == VALUE:
            yield unquote_plus(name)


def brackets(text: str, *, dots: bool = False) -> Iterator[str]:
    """Return the names as qs reads them, with or without `allowDots`; the first two parts of nested names."""
    for piece in text.split("&"):
        name, _, value = piece.partition("=")
        if unquote_plus(value) != VALUE:
            continue
        name = unquote_plus(name)
        if dots:
            name = re.sub(r"\.([^.\[]+)", r"[\1]", name)
        parts = [part for part in re.findall(r"[^\[\]]+", name) if not part.isdecimal()]
        if parts:
            yield parts[0]
            yield ".".join(parts[:2])


FIELDS: Final[dict[str, Callable[[str], Iterator[str]]]] = {
    "php": php,
    "go": plain,
    "express4": brackets,
    "koa": lambda text: brackets(text, dots=True),
}


def express(raw: str) -> str:
    """Return the path as Express and koa-router compare it: in lower case, no trailing slash, not decoded."""
    path = re.split(r"[?#]", raw, maxsplit=1)[0].lower()
    return path.removesuffix("/") or "/"


def flask(raw: str) -> str:
    """Return the path as Werkzeug reads it: decoded, then leading slashes merged."""
    return re.sub(r"^/+", "/", unquote(raw.partition("?")[0]))


def whatwg(raw: str) -> str:
    """Return `new URL(raw, base).pathname` of the WHATWG URL standard, without dot segments."""
    raw = re.split(r"[?#]", raw, maxsplit=1)[0].replace("\\", "/")
    if raw.startswith("//"):
        _, slash, rest = raw.lstrip("/").partition("/")
        return f"{slash or '/'}{rest}"
    return raw


def php_path(raw: str) -> str:
    """Return `rawurldecode(parse_url($target, PHP_URL_PATH))`."""
    raw = re.split(r"[?#]", raw, maxsplit=1)[0]
    if raw.startswith("//") and not raw.startswith("///"):
        _, slash, rest = raw[2:].partition("/")
        raw = f"{slash}{rest}"
    return unquote(raw)


def decoded(raw: str) -> str:
    """Return the path as Starlette and aiohttp read it: only decoded."""
    return unquote(raw.partition("?")[0])


PATHS: Final[dict[str, Callable[[str], str]]] = {
    "express5": express,
    "flask": flask,
    "whatwg": whatwg,
    "php": php_path,
    "starlette": decoded,
}
