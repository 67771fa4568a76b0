"""Redirects a browser to the login page if it navigates without a usable credential."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

from authz.credentials.core.location import QUOTED_NOTHING
from authz.engine.decide import REFUSED, Decision
from authz.engine.denial import BodyFormat
from authz.policy.model import LoginConfig
from authz.request.identity import RefusalReason
from authz.request.request import Request
from authz.wire import DeniedHttpResponse, denied

MAX_RETURN_CHARACTERS: Final = 2_048
"""The longest return URL; a longer one becomes `/`. Login pages store it in a cookie or a URL."""

MAX_CLEARED: Final = 24
"""The most Set-Cookie lines in one response, about 100 bytes each."""

_NOTHING: Final = frozenset({"", QUOTED_NOTHING})
_AMBIGUOUS: Final = REFUSED[RefusalReason.CREDENTIALS_AMBIGUOUS].reason


@dataclass(frozen=True, slots=True)
class Login:
    """The login page, and the cookies that hold credentials."""

    config: LoginConfig
    cookies: tuple[str, ...]

    def redirect(self, decision: Decision, form: BodyFormat) -> DeniedHttpResponse | None:
        """Return the redirect to the login; None if the client does not navigate or a login would not help.

        If a cookie has several values, or several cookies hold a credential, all of them are deleted: the
        cookie set by the login would otherwise be one more and lead here again (oauth2-proxy#2606).
        """
        request = decision.request
        if request is None or form is not BodyFormat.HTML or not self._leads_there(request):
            return None
        verdict = decision.verdict
        several = self._several(request) if verdict.reason == _AMBIGUOUS else ()
        if verdict.status != 401 and not several:
            return None
        way_back = quote(_return_target(request), safe="/")
        joint = "&" if "?" in self.config.url else "?"
        location = f"{self.config.url}{joint}{self.config.return_parameter}={way_back}"
        headers = {"location": location, "cache-control": "no-store"}
        return denied(302, headers, "", set_cookies=_endings(several, request))

    def _several(self, request: Request) -> Sequence[str]:
        """Return the cookies that make the credential ambiguous; empty if cookies are not the cause."""
        values = {name: set(request.cookie_values(name)) - _NOTHING for name in self.cookies}
        held = [name for name, found in values.items() if found]
        return held if len(held) > 1 else [name for name in held if len(values[name]) > 1]

    def _leads_there(self, request: Request) -> bool:
        navigating = request.header_values("sec-fetch-mode")
        if request.method not in {"GET", "HEAD"} or (navigating and list(navigating) != ["navigate"]):
            return False
        url = self.config.url
        return not (url.startswith("/") and request.raw_path == urlsplit(url).path)


def _return_target(request: Request) -> str:
    r"""Return the requested path and query, which must be a path on this host.

    A path with anomalies is replaced by `/`, because browsers read `//evil.example`, `/\evil.example` and the
    like as another host (CWE-601).
    """
    target = f"{request.raw_path}?{request.query}" if request.query else request.raw_path
    return "/" if request.path.oddities or len(target) > MAX_RETURN_CHARACTERS else target


def _endings(names: Iterable[str], request: Request) -> list[str]:
    """Return Set-Cookie values that delete these cookies for every host and path (RFC 6265 section 5.3)."""
    return [
        f"{name}=; Path={path}{domain}; Max-Age=0{'; Secure' if name.startswith('__') else ''}"
        for name in names
        for domain in _domains(request.host)
        for path in _folders(request)
    ][:MAX_CLEARED]


def _domains(host: str) -> Iterator[str]:
    """Yield the Domain attribute of a host-only cookie, of one for the host, and of each parent domain."""
    yield ""
    labels = host.split(".")
    if host.startswith("[") or labels[-1].isdigit():
        return
    for first in range(len(labels) - 1):
        yield f"; Domain={'.'.join(labels[first:])}"


def _folders(request: Request) -> Iterator[str]:
    """Yield the cookie paths that match the request, the most likely first."""
    yield "/"
    if request.path.oddities:
        return
    path = request.raw_path
    while path.strip("/") and ";" not in path:
        yield path
        # `/app` and `/app/` are different cookie paths, and both match `/app/page` (section 5.1.4).
        path = path[:-1] if path.endswith("/") else path.rpartition("/")[0] + "/"
