"""The `connections` section: what a peer may ask of our own transport, and how long connections live.

Names and defaults are those of `sidecars.transport.api.limits`, which a test holds; the reasons are repeated
here, where operators read them.
"""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sidecars.transport.api.limits import Lifetime, Limits, Rate
from sidecars.transport.http2.frames import DEFAULT_WINDOW_BYTES, MAX_STREAM_ID, MAX_WINDOW_BYTES

_LIMITS = Limits()
_LIFETIME = Lifetime()
_DAY_SECONDS = 86_400.0


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RateSettings(_Section):
    """So many at once, and so many a second after that."""

    burst: int = Field(ge=1)
    per_second: float = Field(gt=0)


def _rate(rate: Rate, description: str) -> RateSettings:
    default = RateSettings(burst=rate.burst, per_second=rate.per_second)
    found: RateSettings = Field(default, description=description)
    return found


def _seconds(default: float, description: str) -> float:
    found: float = Field(default, gt=0, le=_DAY_SECONDS, description=description)
    return found


class LimitSettings(_Section):
    """What one peer may ask. Past a limit it loses its connection or stream; others do not notice."""

    max_connections: int = Field(
        _LIMITS.max_connections,
        ge=1,
        description="Connections of each sidecar at once; one more is closed. Bounds memory and descriptors.",
    )
    max_concurrent_streams: int = Field(
        _LIMITS.max_concurrent_streams,
        ge=1,
        le=MAX_STREAM_ID,
        description="Calls at once on a connection; one more is refused, and may be tried again.",
    )
    max_message_bytes: int = Field(
        _LIMITS.max_message_bytes,
        ge=1024,
        le=MAX_WINDOW_BYTES,
        description="One request message. More is RESOURCE_EXHAUSTED, even if only the length claims it.",
    )
    max_inflated_bytes: int = Field(
        _LIMITS.max_inflated_bytes,
        ge=1024,
        le=MAX_WINDOW_BYTES,
        description="One gzip message after inflation, if less than max_message_bytes: bounds gzip bombs.",
    )
    max_header_list_bytes: int = Field(
        _LIMITS.max_header_list_bytes,
        ge=1024,
        description="A decoded header list, 32 bytes added for each field. Such a call is refused alone.",
    )
    absolute_max_header_list_bytes: int = Field(
        _LIMITS.absolute_max_header_list_bytes,
        ge=1024,
        description="A larger list ends its connection: HPACK bombs (CVE-2016-6581).",
    )
    max_open_header_bytes: int = Field(
        _LIMITS.max_open_header_bytes,
        ge=1024,
        description="Header lists of the open streams, by memory: 320 bytes added for each field.",
    )
    max_header_block_bytes: int = Field(
        _LIMITS.max_header_block_bytes,
        ge=1024,
        description="A header block before it is decoded, over all its frames (CVE-2024-27316).",
    )
    max_continuation_frames: int = Field(
        _LIMITS.max_continuation_frames,
        ge=1,
        description="Frames that continue one header block: empty ones only cost CPU (CVE-2024-27316).",
    )
    stream_window_bytes: int = Field(
        _LIMITS.stream_window_bytes,
        ge=1024,
        le=MAX_WINDOW_BYTES,
        description="Bytes that a stream may hold before its handler has read them.",
    )
    connection_window_bytes: int = Field(
        _LIMITS.connection_window_bytes,
        ge=DEFAULT_WINDOW_BYTES,
        le=MAX_WINDOW_BYTES,
        description="Such bytes of all streams of a connection; HTTP/2 cannot express less than 65535.",
    )
    max_held_bytes: int = Field(
        _LIMITS.max_held_bytes,
        ge=DEFAULT_WINDOW_BYTES,
        description="Bytes of unfinished messages of a connection, which may have a thousand at once.",
    )
    max_unsent_bytes: int = Field(
        _LIMITS.max_unsent_bytes,
        ge=1024,
        description="Replies that wait for windows the peer keeps shut (CVE-2019-9511, CVE-2019-9517).",
    )
    max_bytes_per_turn: int = Field(
        _LIMITS.max_bytes_per_turn,
        ge=1024,
        description="After so many bytes of replies, or inflated, the rest of a read or reply has to wait.",
    )
    turn_seconds: float = _seconds(
        _LIMITS.turn_seconds, "After so long, a read waits for its next turn, too."
    )
    resets: RateSettings = _rate(
        _LIMITS.resets,
        "Calls reset before their answer by a peer that is not trusted, or by us for its mistakes "
        "(CVE-2023-44487, CVE-2025-8671), beyond one for each call that was answered.",
    )
    pings: RateSettings = _rate(
        _LIMITS.pings,
        "PING beyond one for each call and each DATA frame sent: each needs an answer (CVE-2019-9512).",
    )
    settings: RateSettings = _rate(_LIMITS.settings, "SETTINGS: each needs an answer (CVE-2019-9515).")
    settings_parameters: int = Field(
        _LIMITS.settings_parameters,
        ge=1,
        description="Parameters of one SETTINGS frame; each further one counts as a frame of settings.",
    )
    empty_frames: RateSettings = _rate(
        _LIMITS.empty_frames, "DATA without data that ends nothing (CVE-2019-9518)."
    )
    idle_frames: RateSettings = _rate(
        _LIMITS.idle_frames,
        "PRIORITY (CVE-2019-9513), unknown frames, frames on streams that are gone, beyond five a call.",
    )
    window_updates: RateSettings = _rate(
        _LIMITS.window_updates,
        "WINDOW_UPDATE beyond window_updates_per_stream, and two a DATA frame of ours.",
    )
    window_updates_per_stream: int = Field(
        _LIMITS.window_updates_per_stream,
        ge=1,
        description="WINDOW_UPDATE that each stream earns: a client opens both windows for each reply.",
    )
    inflated_bytes: RateSettings = _rate(
        _LIMITS.inflated_bytes,
        "Bytes that gzip messages inflate to: zeros cost a thousandth of it on the wire.",
    )
    preface_timeout_seconds: float = _seconds(
        _LIMITS.preface_timeout_seconds,
        "Time for preface and SETTINGS, and for the TLS handshake before them.",
    )
    settings_ack_seconds: float = _seconds(
        _LIMITS.settings_ack_seconds,
        "Time for the server's SETTINGS to be acknowledged (RFC 9113 section 6.5.3).",
    )
    message_timeout_seconds: float = _seconds(
        _LIMITS.message_timeout_seconds,
        "Time from the start of a request message, a frame or a header block to its end.",
    )
    write_stall_timeout_seconds: float = _seconds(
        _LIMITS.write_stall_timeout_seconds, "Time for a peer to take some of the replies that wait for it."
    )
    lingering_timeout_seconds: float = _seconds(
        _LIMITS.lingering_timeout_seconds,
        "Time to end a request that was answered early, and to hang up after GOAWAY.",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.max_held_bytes < self.max_message_bytes:
            raise ValueError(
                f"max_held_bytes ({self.max_held_bytes}) is less than max_message_bytes "
                f"({self.max_message_bytes}): the largest message could never become whole"
            )
        if self.absolute_max_header_list_bytes < self.max_header_list_bytes:
            raise ValueError(
                f"absolute_max_header_list_bytes ({self.absolute_max_header_list_bytes}) is less than "
                f"max_header_list_bytes ({self.max_header_list_bytes}): no call could be refused alone"
            )
        return self

    @property
    def limits(self) -> Limits:
        """The same as the transport takes them."""
        values: dict[str, Any] = {name: getattr(self, name) for name in type(self).model_fields}
        for name, value in values.items():
            if isinstance(value, RateSettings):
                values[name] = Rate(value.burst, value.per_second)
        return Limits(**values)


class LifetimeSettings(_Section):
    """How long connections live."""

    keepalive_seconds: float | None = Field(
        _LIFETIME.keepalive_seconds,
        gt=0,
        le=_DAY_SECONDS,
        description="A PING goes to a peer that was silent so long; null: never.",
    )
    keepalive_timeout_seconds: float = _seconds(
        _LIFETIME.keepalive_timeout_seconds, "A peer silent so long after the PING is gone."
    )
    max_age_seconds: float | None = Field(
        _LIFETIME.max_age_seconds,
        gt=0,
        le=30 * _DAY_SECONDS,
        description=(
            "An older connection is drained, so that clients spread anew over the servers; null: never. "
            "Envoy never ends an access-log stream, so that one is cut after the grace, and opened anew."
        ),
    )
    max_age_jitter: float = Field(
        _LIFETIME.max_age_jitter,
        ge=0,
        le=0.9,
        description="Each age differs by up to this fraction, so that they do not all end at once.",
    )
    max_age_grace_seconds: float = Field(
        _LIFETIME.max_age_grace_seconds,
        ge=0,
        le=_DAY_SECONDS,
        description="For calls in flight on a connection that is too old; then it is closed.",
    )

    @property
    def lifetime(self) -> Lifetime:
        """The same as the transport takes it."""
        return Lifetime(**self.model_dump())


class ConnectionSettings(_Section):
    """What peers may ask of our own transport. The defaults leave Envoy far from each limit."""

    limits: LimitSettings = LimitSettings()
    lifetime: LifetimeSettings = LifetimeSettings()
