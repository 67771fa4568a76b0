"""`sidecars protoset`."""

from pathlib import Path
from typing import Annotated

import typer


def protoset(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write a copy to this file.", show_default=False),
    ] = None,
) -> None:
    """Print the path of the descriptor set of the sidecars' gRPC services, for tools that call them by hand.

    It is a serialized google.protobuf.FileDescriptorSet with imports and comments, for instance for
    `grpcurl -protoset "$(sidecars protoset)" list`. A running sidecar serves the same by reflection, unless
    its settings have `reflection: false`.

    Example: `sidecars protoset --output sidecars.protoset`

    Exit codes: 0 success; 1 the copy could not be written; 2 bad usage.
    """
    from protos.descriptors import protoset_path

    path = protoset_path()
    if output is None:
        typer.echo(path)
    else:
        output.write_bytes(path.read_bytes())
