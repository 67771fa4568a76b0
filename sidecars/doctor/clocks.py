"""Whether the clocks of the parts agree with that of this machine."""

import time
from collections.abc import AsyncIterator, Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp

from sidecars.client.pages import NoAnswerError, Page, url_page
from sidecars.doctor.finding import Finding, fail, ok, warn

WRONG_SECONDS: Final = 30.0
"""Usual leeway of a token's times: beyond it, good tokens are refused or expired ones accepted."""

OFF_SECONDS: Final = 1.0
DATE_SECONDS: Final = 2.0
"""The Date header has whole seconds (RFC 9110 section 5.6.7), and the answer takes time."""


def of_skew(check: str, ahead_seconds: float, *, exact: bool) -> Finding:
    """Return the finding of a clock that is `ahead_seconds` ahead of ours. `exact`: better than a second."""
    fix = "synchronise the clocks: timedatectl, chronyc tracking"
    seen = f"{abs(ahead_seconds):.1f} s {'ahead of' if ahead_seconds > 0 else 'behind'} this machine"
    if abs(ahead_seconds) > WRONG_SECONDS:
        return fail(check, seen, fix)
    if abs(ahead_seconds) > (OFF_SECONDS if exact else OFF_SECONDS + DATE_SECONDS):
        return warn(check, seen, fix)
    return ok(check, "agrees with this machine")


def of_date(check: str, page: Page, now: float) -> Finding | None:
    """Return the finding of the server that sent `page`; None if it has no Date. `now`: Unix seconds."""
    try:
        date = parsedate_to_datetime(page.headers.get("Date", "")).timestamp()
    except ValueError:
        return None
    return of_skew(check, date + 0.5 - now, exact=False)


async def check_key_servers(urls: Iterable[str]) -> AsyncIterator[Finding]:
    """Yield a finding for the clock of each key server, and for each that cannot be reached from here.

    Only the Date is read, so the certificate is not verified: that may need the `ca_file` of the issuer.
    """
    for url in urls:
        check = f"clock of {url.split('/')[2]}"
        try:
            page = await url_page(url, aiohttp.TCPConnector(ssl=False))
        except NoAnswerError as error:
            yield warn(check, f"not known: {error}", f"see that {url} can be fetched from here")
            continue
        finding = of_date(check, page, time.time())
        if finding is not None:
            yield finding


def key_set_urls(config: Mapping[str, object]) -> list[str]:
    """Return the URLs of the key sets in a /config page."""
    found: list[str] = []
    waiting: list[object] = [config]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            url = one.get("url")
            if "age_seconds" in one and isinstance(url, str) and url.startswith("http"):
                found.append(url)
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return list(dict.fromkeys(found))
