"""A template of Sovereign that serves the routes of `sidecars edge build` unchanged."""

from typing import Any


def call(edge: dict[str, Any], **_: Any) -> list[dict[str, Any]]:
    """Return the resources; `edge` is the context of that name in sovereign.yaml."""
    resources: list[dict[str, Any]] = edge["routes"]
    return resources
