"""The alert rules of deploy/observability, for the tests of rules, dashboards and runbooks."""

import re
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).parents[2] / "deploy" / "observability"
RUNBOOK_BASE: Final = "https://docs.example.com/edge-sidecars/runbooks/"

RULES: Final[list[dict[str, Any]]] = [
    rule
    for file in sorted((FOLDER / "alerts").glob("*.yaml"))
    for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
"""Every rule of every file, in order."""

ALERTS: Final = [rule for rule in RULES if "alert" in rule]


def page_of(alert: str) -> str:
    """Return the name of the runbook of an alert: RedisAway has redis-away."""
    return re.sub(r"(?<!^)([A-Z])", r"-\1", alert).lower()
