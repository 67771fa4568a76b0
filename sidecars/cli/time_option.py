"""Times on the command line."""

from datetime import UTC, datetime

import typer


def unix_seconds(text: str, option: str) -> float:
    """The time `text` in ISO 8601; UTC unless it has an offset. Raises BadParameter for `option`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        message = f"{text!r}: expected a time, as in 2026-01-31T08:30Z"
        raise typer.BadParameter(message, param_hint=option) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
