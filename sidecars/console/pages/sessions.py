"""Sessions and revocations, where the settings let the admin port show them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from sidecars.console.source import Source, SourceError

MAX_SHOWN: Final = 100
_NOT_ALLOWED: Final = frozenset({404, 405})


async def show(source: Source, query: Mapping[str, str]) -> dict[str, Any]:
    """Return the sessions, of one subject if the page names it, and the revocations."""
    subject = query.get("subject", "").strip()
    asked = {"limit": str(MAX_SHOWN)} | ({"subject": subject} if subject else {})
    return {
        "subject": subject,
        "most": MAX_SHOWN,
        "sessions": await _listed(source, "/authz/sessions", asked),
        "revocations": await _listed(source, "/authz/revocations", {}),
    }


async def _listed(source: Source, path: str, query: Mapping[str, str]) -> dict[str, Any]:
    try:
        found = await source.get(path, query)
    except SourceError as error:
        if error.status in _NOT_ALLOWED:
            return {"rows": [], "columns": [], "problem": "", "allowed": False}
        return {"rows": [], "columns": [], "problem": str(error), "allowed": True}
    rows = [{name: _shown(name, value) for name, value in row.items()} for row in found[:MAX_SHOWN]]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {"rows": rows, "columns": columns, "problem": "", "allowed": True}


def _shown(name: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, int | float) and not isinstance(value, bool) and name.endswith(_TIMES):
        return (
            datetime.fromtimestamp(value, UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
        )
    return "" if value is None else str(value)


_TIMES: Final = ("_at", "until", "before", "created", "expires")
