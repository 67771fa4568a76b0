"""Types of addresses and paths in the settings file."""

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    GetPydanticSchema,
    PlainSerializer,
    Tag,
    TypeAdapter,
    ValidationInfo,
    WithJsonSchema,
)

from common.configfile import Block
from sidecars.transport.api.address import Address, TcpAddress, TlsSettings, UnixAddress, parse_address

BUNDLE: Final = "{bundle}"
"""As the first part of a path: the folder of the bundle in service."""


def _address(value: Any) -> Any:
    if isinstance(value, str):
        return parse_address(value)
    if isinstance(value, TcpAddress | UnixAddress):
        return value
    raise ValueError(
        f"expected an address as text, as in 127.0.0.1:9001 or unix:/run/authz.sock, not {value!r}"
    )


def _resolve(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    stays = path.is_absolute() or path.parts[:1] == (BUNDLE,)
    return (folder / path) if folder and not stays else path


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`, a name or an IP address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


ConfigPath = Annotated[Path, AfterValidator(_resolve)]
"""A file or folder; a relative path is resolved against the folder of the settings file.

With the first part `{bundle}`, it is a path in the bundle."""

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
"""An address without TLS, written as text."""


def _resolve_files(tls: TlsSettings, info: ValidationInfo) -> TlsSettings:
    authorities = tls.client_ca_file
    return replace(
        tls,
        cert_file=_resolve(tls.cert_file, info),
        key_file=_resolve(tls.key_file, info),
        client_ca_file=None if authorities is None else _resolve(authorities, info),
    )


class _Listen(Block):
    """An address, its TLS, and whether its peers are trusted."""

    address: PlainAddress
    tls: Annotated[TlsSettings, AfterValidator(_resolve_files)] | None = None
    """The files of the server's certificate. Plain text, unless set."""
    trusted: bool | None = Field(
        None,
        description=(
            "Whether peers may cancel any number of calls, as Envoy does for its clients. null: "
            "on a unix socket with a path, and with client_ca_file. On loopback any local user is a peer."
        ),
    )


def _address_of(listen: _Listen) -> Address:
    return replace(listen.address, tls=listen.tls, trusted=listen.trusted)


_TLS: Final = TypeAdapter(TlsSettings)


def _as_written(address: Address) -> Any:
    if address.tls is None and address.trusted is None:
        return str(address)
    mapping: dict[str, Any] = {"address": str(address)}
    if address.tls is not None:
        mapping["tls"] = _TLS.dump_python(address.tls, mode="json")
    if address.trusted is not None:
        mapping["trusted"] = address.trusted
    return mapping


_FORMS: Final = Annotated[
    Annotated[PlainAddress, Tag("text")] | Annotated[_Listen, AfterValidator(_address_of), Tag("mapping")],
    Discriminator(lambda value: "mapping" if isinstance(value, dict) else "text"),
    PlainSerializer(_as_written),
]

ListenAddress = Annotated[
    TcpAddress | UnixAddress, GetPydanticSchema(lambda _, handler: handler.generate_schema(_FORMS))
]
"""An address as text, or `{address: ..., tls: {...}, trusted: ...}`."""

__all__ = ["Address", "ConfigPath", "ListenAddress", "PlainAddress", "is_loopback"]
