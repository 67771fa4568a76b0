"""The `sessions_api:` of the authz section: who may create and revoke sessions over HTTP."""

import hashlib
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from common.configfile import Block, Spelled
from sidecars.settings.listen import ConfigPath, PlainAddress, is_loopback
from sidecars.transport.api.address import TcpAddress

MIN_TOKEN_CHARACTERS: Final = 32
"""A shorter token could be guessed (128 bits in hexadecimal)."""

MAX_TOKENS: Final = 4
"""The most tokens in one file: an old one and a new one while applications change over."""

MAX_TOKEN_FILE_BYTES: Final = 4096

Operation = Literal["create", "show", "revoke", "revoke_subject"]
"""What a client may do: create a session, show one, end one, end all of a subject."""

Granted = Literal["any"] | tuple[str, ...]
"""The names that a client may grant; `any` must be written out."""


class SessionsApiClient(Block):
    """A login application, and what it may do."""

    name: Annotated[str, Spelled(r"[a-z0-9][a-z0-9_-]{0,63}", "shop-login")]
    """Its name in the log and the metrics."""
    token_file: ConfigPath = Field(
        description="File with its token, at least 32 characters. During a rotation the file holds several, "
        "one on each line. It is read at each request."
    )
    may: tuple[Operation, ...] = Field(
        min_length=1,
        description="What it may do: create, show, revoke (one session), revoke_subject (all of one).",
    )
    scopes: Granted = Field((), description="The scopes that its sessions may have: a list, or any.")
    roles: Granted = Field((), description="The roles that its sessions may have: a list, or any.")
    requests_per_second: Annotated[int, Field(ge=1, le=10_000)] = 50
    """How many requests it may send; more are answered 429."""

    def token_hashes(self) -> tuple[bytes, ...]:
        """The SHA-256 of each token in the file. Raises OSError, and ValueError for an unsuitable file."""
        with self.token_file.open("rb") as file:
            content = file.read(MAX_TOKEN_FILE_BYTES + 1)
        tokens = content.split()
        if len(content) > MAX_TOKEN_FILE_BYTES or not 1 <= len(tokens) <= MAX_TOKENS:
            raise ValueError(f"it does not hold 1 to {MAX_TOKENS} tokens, one on each line")
        if min(map(len, tokens)) < MIN_TOKEN_CHARACTERS:
            raise ValueError(f"a token in it has fewer than {MIN_TOKEN_CHARACTERS} characters")
        return tuple(hashlib.sha256(token).digest() for token in tokens)


class SessionsApiSettings(Block):
    """HTTP for login applications: create, show and revoke sessions. Off unless this section is present."""

    listen: PlainAddress = Field(
        description="A unix socket or a loopback port of its own, because tokens are sent without TLS. With "
        "workers, each has its own, as for gRPC."
    )
    hosts: tuple[Annotated[str, Spelled(r"[A-Za-z0-9._-]+", "sessions.internal")], ...] = Field(
        (),
        description="Names in the Host header that are accepted, in addition to localhost and IP addresses.",
    )
    clients: tuple[SessionsApiClient, ...] = Field(
        min_length=1, max_length=32, description="The applications; all others are refused."
    )

    @model_validator(mode="after")
    def _loopback_and_distinct(self) -> Self:
        if isinstance(self.listen, TcpAddress) and not is_loopback(self.listen.host):
            raise ValueError(
                f"listen: {self.listen} is reachable from other machines, and tokens are sent without TLS: "
                "name a unix socket or 127.0.0.1, and let Envoy or another proxy with TLS forward to it"
            )
        names = [client.name for client in self.clients]
        if len(set(names)) < len(names):
            raise ValueError("clients: two have the same name")
        return self
