"""The settings, the state of each sidecar, and what became of each reload."""

from collections.abc import Mapping
from typing import Any

from sidecars.console.source import Source, of_each_worker


async def show(source: Source, _query: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration of each worker, and all reloads, newest first."""
    answer = await source.get("/config")
    workers = of_each_worker(answer)
    reloads = [
        {"worker": number, "sidecar": name, **reload}
        for number, config in workers
        for name, state in (config or {}).get("sidecars", {}).items()
        for reload in state.get("reloads", ())
    ]
    reloads.sort(key=lambda reload: str(reload["at"]), reverse=True)
    known = [(number, config) for number, config in workers if config]
    return {
        "reloads": reloads,
        "states": [
            {
                "worker": number,
                "name": name,
                "listening": state["listening"],
                "revision": state["state"].get("revision"),
                "warnings": state["state"].get("warnings", ()),
                "state": state["state"],
            }
            for number, config in known
            for name, state in config["sidecars"].items()
        ],
        "redis": [
            (number, name, config[name])
            for number, config in known
            for name in ("redis", "redis_per_second")
            if config.get(name)
        ],
        # Each worker has those of the others, except for numbers in paths and ports.
        "settings": known[0][1]["settings"] if known else {},
        "silent": [number for number, config in workers if not config],
        "several": bool(workers and workers[0][0]),
    }
