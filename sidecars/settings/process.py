"""The sections that concern the process and not one sidecar: admin, log, drain, reload."""

from typing import Literal

from pydantic import Field

from common.configfile import Block
from sidecars.settings.listen import ConfigPath, PlainAddress
from sidecars.transport.api.address import TcpAddress


class AdminSettings(Block):
    """The HTTP server for operators. It shows the configuration, so it belongs on loopback."""

    listen: PlainAddress = Field(TcpAddress("127.0.0.1", 9090), validate_default=True)
    also_listen: tuple[PlainAddress, ...] = Field((), description="Further addresses with the same pages.")
    port_file: ConfigPath | None = Field(
        None, description="The TCP port is written to this file once it is bound; for port 0."
    )
    workers: PlainAddress | None = Field(
        None,
        description=(
            "With several workers `listen` answers for all of them; here each answers for itself, on a path "
            "with {worker} or on port + its number. Default: a private unix socket."
        ),
    )


class LogSettings(Block):
    """The process's own log, on stderr: stdout is left to the access log's stdout sink."""

    format: Literal["json", "console"] = "json"
    """`json` for machines, `console` for people."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe level that is logged."""


class DrainSettings(Block):
    """How SIGTERM ends the process: after about the sum of the three at the latest."""

    drain_delay_seconds: float = Field(
        1,
        ge=0,
        le=3600,
        description=(
            "Time to serve everything, but report not ready and NOT_SERVING. "
            "At least one interval of the health checks."
        ),
    )
    grace_seconds: float = Field(
        10, ge=0, le=3600, description="Time for calls and streams in flight to finish."
    )
    flush_seconds: float = Field(5, ge=0, le=3600, description="Time for each sidecar to flush and close.")


class ReloadSettings(Block):
    """How changed policy and limits files are found. SIGHUP reloads in any case."""

    watch: bool = Field(default=True, description="Reload when a file changes, without SIGHUP.")
    interval_seconds: float = Field(
        2, ge=0.05, le=3600, description="How often files are polled for changes; inotify misses NFS."
    )
