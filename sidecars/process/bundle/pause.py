"""How long an edge waits between two requests for its bundle, so that a fleet does not ask in bursts."""

from typing import Final

from sidecars.settings.bundle import BundleSettings

RETRY_SECONDS: Final = 1.0
"""The shortest pause after a failed request, unless the interval is shorter."""

RETRY_SHARE: Final = 1 / 8
"""The pause after the first failed request as a part of the interval; it doubles up to the interval. A short
outage makes a few times as many requests as usual for any interval: with a fixed first pause it
would be as many times as the pause fits into the interval."""

MIN_LONG_POLL_SECONDS: Final = 0.5
"""The shortest time between two long polls: a server that answers at once must not be asked in a loop."""


def pause_seconds(
    settings: BundleSettings,
    random: float,
    *,
    failures: int = 0,
    took_seconds: float = 0.0,
    held: bool = False,
) -> float:
    """Return the seconds from the end of a request to the next one.

    `random` is in [0, 1); `failures` are those in a row; `took_seconds` is what the last request took; `held`
    says whether the server holds requests until something changes.
    """
    interval = settings.interval_seconds
    if failures:
        first = max(RETRY_SECONDS, interval * RETRY_SHARE)
        backoff = min(interval, first * 2.0 ** min(failures - 1, 16))
        return backoff * (1 - 0.5 * random)
    if held and settings.long_poll_seconds is not None:
        return max(0.0, MIN_LONG_POLL_SECONDS - took_seconds)
    return interval * (1 - 0.2 * random)
