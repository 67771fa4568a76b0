"""The `authz:` section of the settings file."""

from typing import TYPE_CHECKING, Annotated, Final, Self

from pydantic import Field, model_validator

from common.configfile import Block, Spelled
from sidecars.settings.listen import ConfigPath, ListenAddress
from sidecars.settings.sessions_api import SessionsApiSettings

if TYPE_CHECKING:  # else every sidecar would load the whole of authz, 26 MB
    from authz.engine.decision_record import Masking

_COLLECTOR: Final = "http://127.0.0.1:4318/v1/traces"


class MaskSettings(Block):
    """What `/decisions` and the decision log omit or mask."""

    omit: tuple[str, ...] = Field((), description="Fields to omit, such as client.")
    mask: tuple[str, ...] = Field((), description="Fields whose value becomes ***, such as subject.")
    path_segments: tuple[str, ...] = Field(
        (),
        description="RE2 patterns: a path segment that matches becomes ***. Segments that look like tokens "
        "are redacted in any case.",
    )

    @property
    def masking(self) -> "Masking":
        """The rules, compiled. Raises ValueError."""
        from authz.engine.decision_record import Masking

        return Masking(self.omit, self.mask, self.path_segments)

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        if self.omit or self.mask or self.path_segments:
            _ = self.masking
        return self


class DecisionLogSettings(Block):
    """Every decision as a line of JSON; it loses lines rather than delay an answer."""

    file: ConfigPath | None = Field(
        None, description="The file to append to; log rotation may move it. Default: stdout."
    )
    allow_sample_rate: float = Field(
        1.0, ge=0, le=1, description="The fraction of allows logged; denials and errors are always logged."
    )
    queue_lines: int = Field(
        10_000, ge=1, description="The most lines that wait for the writer, about 1 KB each."
    )


class DecisionsSettings(Block):
    """How decisions are kept and logged."""

    recent: int = Field(
        1_000,
        ge=0,
        le=100_000,
        description="The number of decisions kept for /decisions on the admin port; 0: none.",
    )
    log: DecisionLogSettings | None = None
    """The decision log. Off, unless set."""
    mask: MaskSettings = MaskSettings()
    """What is masked in kept and logged decisions."""


class TracingSettings(Block):
    """A span for each check, in the trace that Envoy began. Needs the extra `otel`."""

    endpoint: Annotated[str, Spelled(r"https?://\S+", _COLLECTOR)] = Field(
        _COLLECTOR, description="An OpenTelemetry collector: OTLP over HTTP."
    )
    service_name: str = Field("authz", min_length=1, max_length=128)
    """The `service.name` of the spans."""
    root_sample_rate: float = Field(
        0.0, ge=0, le=1, description="The fraction of checks outside a trace that start a trace."
    )


class AuthzSettings(Block):
    """The authz sidecar: identifies the caller and decides each request."""

    listen: tuple[ListenAddress, ...] = Field(min_length=1, description="The addresses for Envoy.")
    policy: tuple[ConfigPath, ...] = Field(
        min_length=1, description="Policy files, and folders of them; together they are one policy."
    )
    session_admin: bool = Field(
        default=False,
        description="Whether the admin port creates, lists and revokes sessions and revokes tokens "
        "(/authz/sessions, /authz/revocations). Everyone who can reach that port can then act as any user. "
        "Needed for `sidecars session` with store: memory; with Redis the command does not need it.",
    )
    trusted_hops: Annotated[int, Field(ge=0, le=16)] = Field(
        0,
        description="Your own proxies in front of this Envoy, as its xff_num_trusted_hops: they decide which "
        "entry of x-forwarded-for is the client. With 0 the client is the peer, and that header is ignored.",
    )
    sessions_api: SessionsApiSettings | None = Field(
        None, description="HTTP for login applications: create, show and revoke sessions. Off unless present."
    )
    decisions: DecisionsSettings = DecisionsSettings()
    """Which decisions are kept and logged, and what is masked in them."""
    tracing: TracingSettings | None = Field(None, description="Off unless this section is present.")
