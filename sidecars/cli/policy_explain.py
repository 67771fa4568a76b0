"""`sidecars policy explain`."""

from pathlib import Path
from typing import Annotated, Final

import typer

_OF_REQUEST_FILES: Final = (
    "method", "header", "data", "client", "context", "subject", "issuer", "scopes", "roles", "claims", "kind",
    "refused",
)  # fmt: skip
"""What a file says with `request:` and `caller:`. The command line adds nothing to it."""


def explain(
    command: typer.Context,
    policy: Annotated[
        list[Path], typer.Option("--policy", "-p", help="Policy files, or folders of them.", exists=True)
    ],
    url: Annotated[str | None, typer.Argument(metavar="URL", help="https://host/path?query.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--request",
            help="A YAML file with request: and caller:, instead of the URL and all options about them.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    method: Annotated[str, typer.Option("--method", "-X")] = "GET",
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="'name: value'.")] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", help="The body, sent unchanged.")] = None,
    client: Annotated[str | None, typer.Option("--client", help="The client's address.")] = None,
    context: Annotated[
        list[str] | None,
        typer.Option("--context", help="'name=value' in the context_extensions of the route."),
    ] = None,
    subject: Annotated[str | None, typer.Option("--subject", help="The caller. Default: anonymous.")] = None,
    issuer: Annotated[str | None, typer.Option("--issuer")] = None,
    scopes: Annotated[str | None, typer.Option("--scopes", help="Separated by spaces or commas.")] = None,
    roles: Annotated[str | None, typer.Option("--roles", help="Separated by commas.")] = None,
    claims: Annotated[str | None, typer.Option("--claims", help="A JSON object.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="jwt, session, api_key...")] = None,
    refused: Annotated[
        str | None, typer.Option("--refused", help="The credential was refused for this reason.")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="The time of the request, as in 2026-01-31T08:30+01:00.")
    ] = None,
    trusted_hops: Annotated[int, typer.Option("--trusted-hops", min=0, max=16)] = 0,
    everything: Annotated[
        bool, typer.Option("--all", help="Show rules for other hosts and paths, too.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON, with every rule.")] = False,
) -> None:
    """Explain why a request is allowed or not: each step, and each rule that was considered.

    Example: `sidecars policy explain --policy examples/policy.yaml --subject alice --scopes orders:read
    https://api.example.com/orders`

    Exit codes: 0 explained, allowed or not; 1 a file has problems; 2 bad usage.
    """
    if (url is None) == (file is None):
        raise typer.BadParameter("name either a URL or --request FILE")
    if file is not None:
        _refuse_options_beside_a_file(command)
    from sidecars.cli.policy_answer import answer, question_of_file, question_of_options

    if file is not None:
        question = question_of_file(file)
    else:
        question = question_of_options(
            method=method,
            url=url or "/",
            headers=header or [],
            client=client,
            context=context or [],
            body=data,
            caller={
                "subject": subject,
                "issuer": issuer,
                "scopes": scopes,
                "roles": roles,
                "claims": claims,
                "kind": kind,
                "refused": refused,
            },
        )
    answer(policy, question, at=at, trusted_hops=trusted_hops, everything=everything, json=json)


def _refuse_options_beside_a_file(command: typer.Context) -> None:
    sources = {name: command.get_parameter_source(name) for name in _OF_REQUEST_FILES}
    given = [f"--{name}" for name, source in sources.items() if source and source.name == "COMMANDLINE"]
    if given:
        message = f"the file has the request and the caller: write them there instead of {', '.join(given)}"
        raise typer.BadParameter(message, param_hint="--request")
