"""The `bundle:` section of the settings file."""

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PlainSerializer, model_validator

from common.configfile import Block, Spelled
from common.urls import Network, ProxyUrl, check_url
from sidecars.settings.listen import ConfigPath


def without_query(url: str) -> str:
    """The URL as it may be shown: a presigned one has its secret in the query."""
    parts = urlsplit(url)
    return parts._replace(query="***").geturl() if parts.query else url


def _is_url(url: str) -> str:
    check_url(url, allow_http=True)
    return url


_Url = Annotated[str, Field(max_length=4096), AfterValidator(_is_url), PlainSerializer(without_query)]
_Text = Annotated[str, Field(min_length=1, max_length=256)]


class ServerSettings(Block):
    """How a server is reached."""

    url: _Url
    """The URL, fetched as it is: no redirect is followed. A presigned one may hold its signature."""
    headers_file: ConfigPath | None = Field(
        None,
        description="A file with NAME: VALUE lines, such as a token, sent with each request; read for each.",
    )
    allow_http: bool = False
    """Whether the URL may be plain http."""
    allow_addresses: tuple[Network, ...] = ()
    """Networks that are not public (loopback, private, link-local) to which the URL may lead."""
    ca_file: ConfigPath | None = None
    """The authorities (PEM) for the server, instead of those of the system. Read at each request."""
    proxy: ProxyUrl | Literal[False] | None = None
    """The proxy to the URL: `http://proxy.example:3128`; false: none. Default: that of the environment."""
    timeout_seconds: float = Field(10.0, gt=0, le=600)
    """The timeout of one request, including name look-up and TLS."""

    @model_validator(mode="after")
    def _https(self) -> Self:
        check_url(self.url, allow_http=self.allow_http)
        return self


class NodeSettings(Block):
    """What this edge is called in status reports, and by which it takes part in staged roll-outs."""

    id: _Text | None = None
    """The name of this edge. Default: that of the host."""
    metadata: dict[_Text, _Text] = Field({}, max_length=64)
    """Facts about this edge, such as `region: eu-1`."""


class StatusSettings(ServerSettings):
    """Where each outcome is reported, as JSON in a POST."""

    interval_seconds: float = Field(
        60.0, ge=1, le=86400, description="How often the status is reported while nothing changes."
    )


class S3Settings(Block):
    """How requests to a private bucket are signed (AWS Signature Version 4). Needs the extra `s3`."""

    region: Annotated[str, Spelled(r"[a-z0-9-]{1,64}", "eu-central-1")]
    """The region of the bucket."""
    credentials_file: ConfigPath
    """A file with lines `access_key_id: ...`, `secret_access_key: ...` and perhaps `session_token: ...`, read
    for each request."""


class BundleSettings(ServerSettings):
    """Signed bundles of policies and limits, pulled from a server. `{bundle}` begins a path in them."""

    s3: S3Settings | None = None
    """How requests are signed, if the URL is one of a private bucket of S3."""
    folder: ConfigPath
    """The folder that keeps the last good bundle over a restart; each process has its own folder in it."""
    staged: bool = False
    """Whether `url` is that of a release file (`sidecars release`), which names the bundle of each edge."""
    keys: dict[_Text, ConfigPath] = Field({}, max_length=100)
    """The public keys or certificates (PEM) that sign bundles, by key id; read with each new bundle."""
    scope: str = Field("", max_length=256)
    """The `scope` that signatures must have."""
    signature_required: bool = True
    """Whether a bundle without a signature is refused. A signature that is there must hold in any case."""
    interval_seconds: float = Field(
        30.0,
        ge=0.05,
        le=86400,
        description="The time between two requests, shortened at random by up to a fifth.",
    )
    long_poll_seconds: int | None = Field(
        None,
        ge=1,
        le=3600,
        description="How long the server may wait for a change before it answers (`Prefer: wait=`).",
    )
    start_seconds: float = Field(
        30.0, ge=0, le=3600, description="How long the start waits for the first bundle, if none is kept."
    )
    max_bytes: int = Field(16 * 1024 * 1024, ge=1024, le=1 << 30)
    """The largest bundle, as it is fetched."""
    max_unpacked_bytes: int = Field(64 * 1024 * 1024, ge=1024, le=1 << 30)
    """The largest bundle when unpacked."""
    max_files: int = Field(10_000, ge=1, le=1_000_000)
    """The most files in a bundle."""
    node: NodeSettings = NodeSettings()
    """The name of this edge, and facts about it."""
    status: StatusSettings | None = None
    """Where each outcome is reported. Nowhere, unless set."""

    @model_validator(mode="after")
    def _has_keys(self) -> Self:
        if self.signature_required and not self.keys:
            raise ValueError(
                "needs keys, by which signatures are verified (or say signature_required: false)"
            )
        return self

    def of_process(self, name: str) -> "BundleSettings":
        """The settings of one process, which keeps its bundle in a folder of that name."""
        changes: dict[str, Any] = {"folder": self.folder / name}
        return self.model_copy(update=changes)
