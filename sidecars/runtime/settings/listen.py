"""Addresses and paths as they stand in the settings file."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, ValidationInfo, WithJsonSchema

from sidecars.transport.address import Address, TcpAddress, UnixAddress, parse_address


def _address(value: Any) -> Any:
    return parse_address(value) if isinstance(value, str) else value


def _beside_the_settings_file(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    return (folder / path) if folder and not path.is_absolute() else path


ListenAddress = Annotated[
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

ConfigPath = Annotated[Path, AfterValidator(_beside_the_settings_file)]
"""A file or folder; a relative one is meant from the folder of the settings file."""

__all__ = ["Address", "ConfigPath", "ListenAddress"]
