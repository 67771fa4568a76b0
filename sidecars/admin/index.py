"""The index page of the admin server: lists every other page, with links for those that answer GET."""

import re
from collections.abc import Iterable
from html import escape, unescape
from typing import Final

from aiohttp import web

OWN_PAGES: Final = ("/metrics", "/healthz", "/readyz", "/config", "/totals", "/version")
"""The pages that every process has."""

_LINK: Final = re.compile(r'<a href="([^"]+)">')
_OTHER: Final = re.compile(r"<li>([A-Z]+ [^<]+)</li>")


def index_page(links: Iterable[str], others: Iterable[str] = (), note: str = "") -> web.Response:
    """A page with `links` (paths that answer GET), `others` (`POST /path`) and a `note` below."""
    items = [f'<li><a href="{escape(path)}">{escape(path)}</a></li>' for path in dict.fromkeys(links)]
    items += [f"<li>{escape(other)}</li>" for other in dict.fromkeys(others)]
    body = "\n".join(["<!doctype html>", "<title>edge-sidecars</title>", "<ul>", *items, "</ul>"])
    return web.Response(text=f"{body}\n{escape(note)}\n" if note else f"{body}\n", content_type="text/html")


def links_in(page: str) -> list[str]:
    """The paths that a page made by `index_page` links to."""
    return [unescape(path) for path in _LINK.findall(page)]


def others_in(page: str) -> list[str]:
    """The pages that such a page names without a link (`POST /path`)."""
    return [unescape(other) for other in _OTHER.findall(page)]
