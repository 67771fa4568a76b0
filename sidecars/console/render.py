"""The templates, and how values look in them."""

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER: Final = Path(__file__).parent
STATIC: Final = FOLDER / "static"

PAGES: Final = (
    ("overview", "Overview", "./"),
    ("decisions", "Decisions", "decisions"),
    ("limits", "Limits", "limits"),
    ("logs", "Logs", "logs"),
    ("sessions", "Sessions", "sessions"),
    ("configuration", "Configuration", "configuration"),
    ("playground", "Playground", "playground"),
)
"""The name, title and path of each page, in the order of the navigation."""

UNKNOWN: Final = "\N{EN DASH}"
MAX_SHOWN_CHARACTERS: Final = 300


class Renderer:
    """Makes pages of templates. Every value is escaped."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,  # the templates are those of the package
        )
        self._environment.filters |= {"number": number, "duration": duration, "clock": clock, "short": short}
        self._environment.filters["json"] = as_json
        self._environment.globals |= {"pages": PAGES, "version": _static_version()}

    def page(self, name: str, **values: Any) -> str:
        """Return the page of the template `name`."""
        return self._environment.get_template(f"{name}.html").render(page=name, **values)


def number(value: float | None) -> str:
    """Return a number for people: `12,345` or `1.2`."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}"


def duration(seconds: float | None) -> str:
    """Return seconds for people: `85 µs`, `1.2 ms`, `3.4 s`, `5 min`."""
    if seconds is None:
        return UNKNOWN
    if seconds == float("inf"):
        return "over 1 s"
    for factor, unit, limit in ((1e6, "µs", 1e-3), (1e3, "ms", 1.0), (1.0, "s", 120.0)):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def clock(text: Any) -> str:
    """Return the time of day of an ISO time, for a column; other texts unchanged."""
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text)
    return at.strftime("%H:%M:%S.") + f"{at.microsecond // 1000:03}"


def short(text: Any, characters: int = MAX_SHOWN_CHARACTERS) -> str:
    """Return the text, cut where it is longer."""
    text = str(text)
    return text if len(text) <= characters else f"{text[:characters]}…"


def as_json(value: Any) -> str:
    """Return a value as indented JSON; markup in it is escaped by the template."""
    return orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode()


def static_files() -> Mapping[str, bytes]:
    """Return the static files by name: few and small, so they are read once."""
    return {file.name: file.read_bytes() for file in sorted(STATIC.iterdir()) if file.is_file()}


def _static_version() -> str:
    return sha256(b"".join(static_files().values())).hexdigest()[:12]
