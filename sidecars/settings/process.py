"""The sections that concern the process and not one sidecar: admin, log, drain, reload."""

from typing import Annotated, Final, Literal

from pydantic import Field

from common.configfile import Block, Spelled
from sidecars.settings.listen import ConfigPath, PlainAddress, is_loopback
from sidecars.transport.api.address import TcpAddress

MIN_TOKEN_CHARACTERS: Final = 16
"""A shorter token could be guessed: the admin port does not limit attempts."""


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
    console: bool = Field(default=True, description="Whether /console/ has pages for people.")
    hosts: tuple[Annotated[str, Spelled(r"[A-Za-z0-9._-]+", "edge-1.example.com")], ...] = Field(
        (),
        description="Names by which browsers reach these pages, in addition to localhost, IP addresses "
        "and the names in its addresses. "
        "Others are refused, as they may come by DNS rebinding; /metrics, /healthz and /readyz are answered "
        "under each name.",
    )
    token_file: ConfigPath | None = Field(
        None,
        description="File with a token of at least 16 characters; read at each request. If set, pages need "
        "it (`Authorization: Bearer`, or as a password), except /metrics, /healthz, /readyz, and any page on "
        "a unix socket. The console needs it where an address is not loopback.",
    )

    @property
    def exposed(self) -> bool:
        """Whether another machine may reach one of the addresses."""
        return any(
            isinstance(address, TcpAddress) and not is_loopback(address.host)
            for address in (self.listen, *self.also_listen)
        )

    @property
    def listen_hosts(self) -> frozenset[str]:
        """The hosts of the TCP addresses, by which our own commands and the supervisor ask."""
        addresses = (self.listen, *self.also_listen, self.workers)
        return frozenset(address.host for address in addresses if isinstance(address, TcpAddress))

    @property
    def token(self) -> str:
        """The content of `token_file`. Raises OSError, and ValueError for a short one."""
        token = "" if self.token_file is None else self.token_file.read_text(encoding="utf-8").strip()
        if len(token) < MIN_TOKEN_CHARACTERS:
            raise ValueError(f"it holds fewer than {MIN_TOKEN_CHARACTERS} characters")
        return token

    @property
    def client_headers(self) -> dict[str, str]:
        """The headers with which our own clients ask. Raises as `token`."""
        return {} if self.token_file is None else {"Authorization": f"Bearer {self.token}"}


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
