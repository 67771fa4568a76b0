"""The `xds` section of ratelimit: a management server that sends limits."""

import json
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, Field, model_validator

from common.configfile import Block
from sidecars.settings.listen import ConfigPath

MAX_MESSAGE_BYTES: Final = 4_194_304
"""What gRPC reads by default: about 40,000 limits."""


def _server(server: str) -> str:
    host, colon, port = server.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("expected HOST:PORT, as in control-plane:18000")
    return server


def _metadata(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("expected a text, a finite number, true, false, a list or keys with such") from None
    return value


class XdsTlsSettings(Block):
    """TLS to the management server. Files are read at each new connection."""

    ca_file: ConfigPath | None = Field(
        None, description="PEM certificates trusted; default: those of the system."
    )
    cert_file: ConfigPath | None = Field(None, description="PEM client certificate.")
    key_file: ConfigPath | None = Field(None, description="PEM key of cert_file.")
    server_name: str | None = Field(
        None, description="The name that its certificate must have; default: the host of server."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together")
        return self


class XdsSettings(Block):
    """Limits from a management server: state-of-the-world ADS, next to the files of `limits`."""

    server: Annotated[str, AfterValidator(_server)] = Field(
        description="HOST:PORT of the management server.", examples=["control-plane:18000"]
    )
    state_file: ConfigPath | None = Field(
        None,
        description="Keeps the last limits that were accepted, for a start while the server is away. "
        "Default: they are not kept.",
    )
    node_id: str = Field("edge-sidecars", description="The id of this node, by which the server chooses.")
    cluster: str = Field("", description="The cluster of this node.")
    metadata: dict[str, Annotated[Any, AfterValidator(_metadata)]] = Field(
        {}, description="Metadata of this node, for the server."
    )
    headers_file: ConfigPath | None = Field(
        None, description="A file with NAME: VALUE lines, sent with each stream; read for each."
    )
    tls: XdsTlsSettings | None = Field(None, description="TLS to the server. Default: none.")
    allow_empty: bool = Field(
        default=False,
        description="Whether an empty set removes all limits of the server; else it is refused.",
    )
    backoff_min_seconds: float = Field(
        1, ge=0.01, le=3600, description="The wait before the next stream after one that failed ..."
    )
    backoff_max_seconds: float = Field(
        30, ge=0.01, le=3600, description="... which doubles, up to this. A random part of it is left out."
    )
    max_message_bytes: int = Field(
        MAX_MESSAGE_BYTES, ge=1_024, le=1 << 30, description="The largest response that is read."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.backoff_max_seconds < self.backoff_min_seconds:
            raise ValueError("backoff_max_seconds must not be less than backoff_min_seconds")
        return self
