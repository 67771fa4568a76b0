"""An edge whose Envoy has two listeners: the one of `envoy-test/envoy.yaml`, and one without hardening."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from sidecars.demo.configuration import http_filters, http_manager
from sidecars.demo.edge import Edge, serve_edge
from sidecars.demo.until import until

HARDENED = "edge"
PLAIN = "plain"
LISTENERS = (HARDENED, PLAIN)

HARDENING = (
    "normalize_path",
    "merge_slashes",
    "path_with_escaped_slashes_action",
    "strip_any_host_port",
    "strip_trailing_host_dot",
    "preserve_external_request_id",
    "internal_address_config",
)
"""Settings of the connection manager that the plain listener does not have."""

DOMAIN = "attacks"
"""The domain of the limits of a test, which replace those of the examples."""

Change = Callable[[dict[str, Any]], None]


@asynccontextmanager
async def serve_both(
    folder: Path, manager: Change, limits: str = "", settings: Change = lambda _settings: None
) -> AsyncIterator[Edge]:
    """Run both listeners during the block; `manager` changes the connection manager of each.

    `limits` is a list of descriptors in YAML; with it both listeners use the domain of the test. `settings`
    changes the settings of the sidecars.
    """

    def change(configuration: dict[str, Any], places: Path) -> None:
        listeners = configuration["static_resources"]["listeners"]
        manager(http_manager(listeners[0]))
        if limits:
            file = places / "limits" / "attacks.yaml"
            file.write_text(f"domain: {DOMAIN}\ndescriptors:\n{limits}", encoding="utf-8")
            http_filters(listeners[0])["envoy.filters.http.ratelimit"]["domain"] = DOMAIN
        plain = deepcopy(listeners[0])
        plain["name"] = PLAIN
        settings = http_manager(plain)
        for name in HARDENING:
            settings.pop(name, None)
        settings["common_http_protocol_options"].pop("headers_with_underscores_action")
        settings["preserve_external_request_id"] = True
        listeners.append(plain)

    async with serve_edge(folder, os.environ, change_envoy=change, change_settings=settings) as edge:
        if limits:

            async def loaded() -> bool:
                return await edge.admin.metric("ratelimit_service_config_load_success") >= 2

            await until(loaded, "the limits of the test are loaded")
        yield edge


def rules(text: str) -> Change:
    """Return a function that adds these rules, in YAML, to a policy."""

    def change(policy: dict[str, Any]) -> None:
        policy["rules"] += yaml.safe_load(text)

    return change
