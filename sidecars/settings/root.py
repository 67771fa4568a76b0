"""The settings file as a whole: one process, its shared parts, and a section for each sidecar it may run."""

from typing import Literal

from pydantic import Field

from common.configfile import Block
from sidecars.settings.accesslog import AccesslogSettings
from sidecars.settings.authz import AuthzSettings
from sidecars.settings.bundle import BundleSettings
from sidecars.settings.process import AdminSettings, DrainSettings, LogSettings, ReloadSettings
from sidecars.settings.ratelimit import RatelimitSettings
from sidecars.settings.redis import RedisSettings
from sidecars.settings.transport import ConnectionSettings


class Settings(Block):
    """Settings of the edge sidecars."""

    transport: Literal["native", "grpcio"] = Field(
        "native",
        description="The gRPC server: our own (native), or grpc.aio as a slower fallback without TLS.",
    )
    connections: ConnectionSettings = Field(
        ConnectionSettings(), description="The limits of peers, and the lifetime of their connections."
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description=(
            "Processes that serve side by side, one for each core to be used. Unix sockets and files need "
            "{worker} in the path; worker N listens on TCP port + N. Envoy lists each as an endpoint."
        ),
    )
    reflection: bool = Field(
        default=True,
        description=(
            "Whether every address serves reflection, for tools such as grpcurl. It shows services and their "
            "messages, which are public, and nothing of the configuration."
        ),
    )
    admin: AdminSettings = AdminSettings()
    """The HTTP server for operators."""
    log: LogSettings = LogSettings()
    """The log of the process."""
    drain: DrainSettings = DrainSettings()
    """The stages and times of a shutdown after SIGTERM."""
    reload: ReloadSettings = ReloadSettings()
    """How changed policy and limits files are found."""
    bundle: BundleSettings | None = Field(
        None,
        description="Signed bundles, pulled from a server. A path in them is written `{bundle}/policy`.",
    )
    redis: RedisSettings | None = Field(None, description="One Redis for all sidecars that need it.")
    redis_per_second: RedisSettings | None = Field(
        None, description="One more Redis, for rate limits with a window of less than a minute."
    )
    authz: AuthzSettings | None = Field(None, description="Who is asking, and may they?")
    ratelimit: RatelimitSettings | None = Field(None, description="How much may they?")
    accesslog: AccesslogSettings | None = Field(None, description="What happened?")
