"""The `api_keys:` of the credentials block."""

from typing import Annotated

from pydantic import AfterValidator, field_validator, model_validator

from authz.credentials.core.location import LocationConfig
from authz.credentials.core.types import Instant, Locations, Name, NeighbourPath, refuse_repeated
from authz.request.plain_text import is_plain
from common.configfile import Block, Spelled


def _carried(text: str) -> str:
    if not is_plain(text):
        raise ValueError(f"{text!r}: a name holds no control characters, and no blanks around it")
    return text


_Name = Annotated[Name, AfterValidator(_carried)]


class ApiKeyConfig(Block):
    """One API key. The key itself is `ID.SECRET`; the configuration holds only the hash of the secret."""

    id: Annotated[str, Spelled(r"[A-Za-z0-9_-]{1,64}", "ci-2026")]
    """The part of the key before the dot. Not secret; it appears in logs."""
    sha256: Annotated[str, Spelled(r"[0-9a-f]{64}", "e3b0c442...7852b855")]
    """The SHA-256 of the secret, in hex. That is enough for a secret of 128 random bits or more."""
    subject: _Name
    """Who the caller is."""
    scopes: tuple[_Name, ...] = ()
    """The scopes of the caller."""
    roles: tuple[_Name, ...] = ()
    """The roles of the caller."""
    expires: Instant | None = None
    """When the key stops working; UTC if no offset is given. Never, unless set."""


class ApiKeysConfig(Block):
    """API keys in this file (`keys`) or in one of their own (`file`)."""

    locations: Locations = (LocationConfig(header="x-api-key"),)
    """Where the key is read from."""
    keys: tuple[ApiKeyConfig, ...] = ()
    """Keys listed here."""
    file: NeighbourPath | None = None
    """A YAML file with further `keys`; a change of it reloads the policy."""

    @model_validator(mode="after")
    def _some_keys(self) -> "ApiKeysConfig":
        if not self.keys and self.file is None:
            raise ValueError("name keys, or the file that holds them")
        return self

    @field_validator("keys")
    @classmethod
    def _each_id_once(cls, keys: tuple[ApiKeyConfig, ...]) -> tuple[ApiKeyConfig, ...]:
        refuse_repeated("API key", (key.id for key in keys))
        return keys
