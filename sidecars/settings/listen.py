"""Addresses and paths as they stand in the settings file."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetPydanticSchema,
    PlainSerializer,
    Tag,
    ValidationInfo,
    WithJsonSchema,
)

from sidecars.transport.api.address import Address, TcpAddress, TlsSettings, UnixAddress, parse_address


def _address(value: Any) -> Any:
    if isinstance(value, str):
        return parse_address(value)
    if isinstance(value, TcpAddress | UnixAddress):
        return value
    raise ValueError(
        f"expected an address as text, as in 127.0.0.1:9001 or unix:/run/authz.sock, not {value!r}"
    )


def _beside_the_settings_file(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    return (folder / path) if folder and not path.is_absolute() else path


ConfigPath = Annotated[Path, AfterValidator(_beside_the_settings_file)]
"""A file or folder; a relative one is meant from the folder of the settings file."""

PlainAddress = Annotated[
    TcpAddress | UnixAddress,
    BeforeValidator(_address),
    PlainSerializer(str),
    WithJsonSchema(
        {
            "type": "string",
            "description": "HOST:PORT, [IPV6]:PORT, unix:PATH, unix:PATH?mode=0660 or unix:@ABSTRACT",
            "examples": ["unix:/run/sidecars/authz.sock?mode=0660", "127.0.0.1:9001"],
        }
    ),
]
"""An address that is served without TLS."""


class TlsFiles(BaseModel):
    """TLS 1.2 or 1.3, HTTP/2 by ALPN."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cert_file: ConfigPath = Field(description="PEM chain, the server's own certificate first.")
    key_file: ConfigPath = Field(description="PEM private key of cert_file.")
    client_ca_file: ConfigPath | None = Field(
        None, description="PEM authorities. With it every client must show a certificate that one signed."
    )
    reload_seconds: float = Field(
        10,
        ge=0.05,
        le=3600,
        description="How often the files are looked at. New connections get what they hold then.",
    )


class _Listen(BaseModel):
    """An address, the files of its TLS, and whether its peers are trusted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: PlainAddress
    tls: TlsFiles | None = None
    trusted: bool | None = Field(
        None,
        description=(
            "Whether peers may cancel as many calls as they like, as an Envoy does for its clients. null: "
            "on a unix socket with a path, and with client_ca_file. On loopback any local user is a peer."
        ),
    )


def _with_tls(listen: _Listen) -> Address:
    tls = listen.tls
    if tls is None:
        return replace(listen.address, trusted=listen.trusted)
    files = TlsSettings(tls.cert_file, tls.key_file, tls.client_ca_file, tls.reload_seconds)
    return replace(listen.address, tls=files, trusted=listen.trusted)


def _as_in_the_file(address: Address) -> Any:
    tls = address.tls
    if tls is None and address.trusted is None:
        return str(address)
    mapping: dict[str, Any] = {"address": str(address)}
    if tls is not None:
        files = TlsFiles(
            cert_file=tls.certificate,
            key_file=tls.key,
            client_ca_file=tls.client_ca,
            reload_seconds=tls.reload_seconds,
        )
        mapping["tls"] = files.model_dump(mode="json")
    if address.trusted is not None:
        mapping["trusted"] = address.trusted
    return mapping


_FORMS = Annotated[
    Annotated[PlainAddress, Tag("text")] | Annotated[_Listen, AfterValidator(_with_tls), Tag("mapping")],
    Discriminator(lambda value: "mapping" if isinstance(value, dict) else "text"),
    PlainSerializer(_as_in_the_file),
]

ListenAddress = Annotated[
    TcpAddress | UnixAddress, GetPydanticSchema(lambda _, handler: handler.generate_schema(_FORMS))
]
"""An address as text, or `{address: ..., tls: {...}, trusted: ...}`."""

__all__ = ["Address", "ConfigPath", "ListenAddress", "PlainAddress"]
