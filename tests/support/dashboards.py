"""The dashboards of deploy/observability, and what their queries ask for."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tests.support.prometheus import Prometheus
from tests.support.rules import FOLDER

DASHBOARDS: Final[dict[str, dict[str, Any]]] = {
    file.stem: json.loads(file.read_text(encoding="utf-8"))
    for file in sorted((FOLDER / "dashboards").glob("*.json"))
}

_LABELS: Final = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|on|without|ignoring) *\([^)]*\)|\"[^\"]*\"")
_NAME: Final = re.compile(r"(?<![\w:$])([a-zA-Z_:][\w:]*)\b(?! *\()")
_WORDS: Final = {"and", "or", "unless", "offset", "by", "on"}


class Query(NamedTuple):
    """One query of a panel, with variables in it."""

    where: str
    expression: str

    @property
    def filled(self) -> str:
        """The query as Grafana sends it for all hosts, over two seconds."""
        return (
            self.expression.replace("$__rate_interval", "2s").replace("$cluster", ".*").replace("$node", ".*")
        )


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the panels that are not rows."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


QUERIES: Final = [
    Query(f"{name}: {panel['title']} {target['refId']}", target["expr"])
    for name, dashboard in DASHBOARDS.items()
    for panel in panels(dashboard)
    for target in panel["targets"]
]


def metrics_in(expression: str) -> set[str]:
    """Return the names of the series that a query asks for."""
    return {name for name in _NAME.findall(_LABELS.sub(" ", expression)) if name not in _WORDS}


async def without_data(prometheus: Prometheus, began: float) -> set[Query]:
    """Return the queries that returned no data at any time since `began`, in Unix seconds."""
    return {query for query in QUERIES if not await prometheus.over(query.filled, began)}


def is_of_processes(query: Query) -> bool:
    """Return whether only a process with workers, or with TLS, has the data."""
    return any(
        name.startswith(("sidecars_worker_", "sidecars_transport_tls_expiry"))
        for name in metrics_in(query.expression)
    )
