"""`sidecars release`: staged roll-out of bundles."""

from pathlib import Path
from typing import Annotated

import typer

from sidecars.cli.exit import WRONG

app = typer.Typer(
    help="Roll bundles out in waves: a small signed file says which edge serves which revision.",
    no_args_is_help=True,
)

File = Annotated[
    Path, typer.Argument(metavar="RELEASE", help="The release file, which edges fetch (`bundle.staged`).")
]
Key = Annotated[
    Path,
    typer.Option("--key", metavar="FILE", help="The private key (PEM) that signs the file.", exists=True),
]
KeyId = Annotated[str, typer.Option(help="The name of the key, by which sidecars find the public key.")]
SignedBy = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ID=FILE",
        help="A public key (PEM) that signed the present file, if it is not that of --key, as after a change "
        "of keys; repeat it.",
    ),
]
ValidDays = Annotated[
    float | None,
    typer.Option(
        min=0, help="After so many days edges accept the file no longer, and report it. Default: never."
    ),
]
Why = Annotated[str, typer.Option(help="The reason, for the audit log.")]
By = Annotated[str | None, typer.Option(help="Who does it, for the audit log. Default: the user.")]
Reports = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The reports of the edges (`sidecars release collect`), by which gates are checked.",
    ),
]
Log = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The audit log. Default: next to the release file, with .log."),
]


@app.command()
def start(
    file: File,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The signed bundle.", exists=True)],
    key: Key,
    wave: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:PERCENT%[,KEY=VALUE]",
            help="A wave: a share of the edges, of all or of those with this metadata; repeat it. Without "
            "waves every edge serves the bundle at once.",
        ),
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            help="What must hold of the reports before each further wave: min_nodes, min_calls, "
            "max_error_share, max_denied_rise, max_changed_share, max_slower; repeat it.",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="Where edges find the bundle, relative to the release file. Default: its file name."
        ),
    ] = None,
    key_id: KeyId = "default",
    why: Why = "",
    by: By = None,
    log: Log = None,
    signed_by: SignedBy = None,
    valid_days: ValidDays = None,
) -> None:
    """Begin to roll out a bundle. With waves, no edge serves it before the first `promote`.

    Publish the bundle before the release file: edges fetch it from the same server.

    Example: `sidecars release start release.json edge.tar.gz --key a.key --wave canary:5% --wave all:100%`

    Exit codes: 0 the file is written; 1 the step is not possible; 2 bad usage.
    """
    from edge.release.steps import start as begin
    from sidecars.cli.release_files import Step, gates_in, target_in, waves_in

    target, waves, gates = target_in(bundle, url), waves_in(wave or ()), gates_in(gate or ())
    Step(file, log, key, key_id, by, signed_by or (), valid_days).take(
        "start", why, lambda present: begin(present, target, waves, gates)
    )


@app.command()
def promote(
    file: File,
    key: Key,
    to_all: Annotated[bool, typer.Option("--all", help="Go to the last wave at once.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on although it is held.")] = False,
    reports: Reports = None,
    key_id: KeyId = "default",
    why: Why = "",
    by: By = None,
    log: Log = None,
    signed_by: SignedBy = None,
    valid_days: ValidDays = None,
) -> None:
    """Let the next wave serve the new revision. With `--reports`, only if every gate holds.

    Example: `sidecars release promote release.json --key release.key --reports reports.jsonl`

    Exit codes: 0 the file is written; 1 the step is not possible, or a gate does not hold; 2 bad usage.
    """
    from edge.release import steps
    from edge.release.model import Release
    from sidecars.cli.release_files import Step, require_gates, required

    def change(present: Release | None) -> Release:
        release = steps.resume(required(present)) if resume else required(present)
        if reports is not None:
            require_gates(release, reports)
        return steps.promote(release, to_all=to_all)

    Step(file, log, key, key_id, by, signed_by or (), valid_days).take("promote", why, change)


@app.command()
def check(
    file: File,
    reports: Annotated[
        Path, typer.Option(metavar="FILE", help="The reports of the edges.", exists=True, dir_okay=False)
    ],
) -> None:
    """Check the gates by what the edges report. Too few reports break no gate.

    Example: `sidecars release check release.json --reports reports.jsonl || sidecars release rollback ...`

    Exit codes: 0 no gate is broken; 1 one is, or a file cannot be read; 2 bad usage.
    """
    from sidecars.cli.release_files import checked

    lines, broken = checked(file, reports)
    for line in lines:
        typer.echo(line)
    if broken:
        raise typer.Exit(WRONG)


@app.command()
def collect(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The latest report of each edge, one a line."),
    ],
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where edges send reports (bundle.status).")
    ],
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with the token that reports must have (`Authorization: Bearer`).", exists=True
        ),
    ] = None,
    max_reports: Annotated[int, typer.Option(min=1, help="The most edges that are known.")] = 20_000,
) -> None:
    """Receive the status reports of edges until Ctrl-C, and keep the latest of each in a file.

    Without a token anyone who reaches the address can report: listen on loopback, behind a proxy with TLS.

    Example: `sidecars release collect --listen 127.0.0.1:8099 -o reports.jsonl --token-file token`

    Exit codes: 0 stopped; 1 the address or the file cannot be used; 2 bad usage.
    """
    import asyncio
    from contextlib import suppress

    from sidecars.cli.release_collect import Collector, serve
    from sidecars.transport.api.address import TcpAddress, parse_address

    try:
        address = parse_address(listen)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--listen") from None
    if not isinstance(address, TcpAddress):
        raise typer.BadParameter("expected HOST:PORT", param_hint="--listen")
    token = "" if token_file is None else token_file.read_text(encoding="utf-8").strip()
    if token_file is not None and not token:
        raise typer.BadParameter(f"{token_file} has no token", param_hint="--token-file")

    async def run() -> None:
        await serve(Collector(output, token, max_reports), address)

    with suppress(KeyboardInterrupt):
        asyncio.run(run())


@app.command()
def hold(
    file: File,
    key: Key,
    why: Annotated[str, typer.Option(help="The reason; `promote` refuses with it.")],
    key_id: KeyId = "default",
    by: By = None,
    log: Log = None,
    signed_by: SignedBy = None,
    valid_days: ValidDays = None,
) -> None:
    """Stop a roll-out where it is: edges go on to serve what they serve.

    Example: `sidecars release hold release.json --key release.key --why "denials rise in eu"`

    Exit codes: 0 the file is written; 1 the step is not possible; 2 bad usage.
    """
    from edge.release import steps
    from sidecars.cli.release_files import Step, required

    Step(file, log, key, key_id, by, signed_by or (), valid_days).take(
        "hold", why, lambda present: steps.hold(required(present), why)
    )


@app.command()
def rollback(
    file: File,
    key: Key,
    key_id: KeyId = "default",
    why: Why = "",
    by: By = None,
    log: Log = None,
    signed_by: SignedBy = None,
    valid_days: ValidDays = None,
) -> None:
    """Let every edge serve the previous revision. Edges keep it on disk and change at their next request.

    Example: `sidecars release rollback release.json --key release.key --why "orders are refused"`

    Exit codes: 0 the file is written; 1 there is no previous revision; 2 bad usage.
    """
    from edge.release import steps
    from sidecars.cli.release_files import Step, required

    Step(file, log, key, key_id, by, signed_by or (), valid_days).take(
        "rollback", why, lambda present: steps.rollback(required(present))
    )


@app.command()
def sign(
    file: File,
    key: Key,
    valid_days: ValidDays = None,
    key_id: KeyId = "default",
    signed_by: SignedBy = None,
) -> None:
    """Sign the file again, with another end or key. Nothing changes at the edges.

    Example: `sidecars release sign release.json --key release.key --key-id release --valid-days 30`

    Exit codes: 0 the file is written; 1 it cannot be read, or its signature is not good; 2 bad usage.
    """
    from sidecars.cli.release_files import Step

    Step(file, None, key, key_id, None, signed_by or (), valid_days).sign_again()


@app.command()
def status(
    file: File,
    node: Annotated[
        str | None, typer.Option(metavar="ID[,KEY=VALUE]", help="Say what this edge serves.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the revisions, the waves and what is active. The signature is not checked.

    Example: `sidecars release status release.json --node edge-17,region=eu`

    Exit codes: 0 it can be read; 1 it cannot; 2 bad usage.
    """
    from sidecars.cli.release_files import described

    typer.echo(described(file, node, as_json=json))


@app.command("log")
def audit_log(
    file: File,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only verify the chain, and that the release file ends it.")
    ] = False,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            metavar="ID=FILE",
            help="With --verify, a public key (PEM) by which the release file itself is verified; repeat it.",
        ),
    ] = None,
    log: Log = None,
) -> None:
    """Print who released what. Each line holds the hash of the one before, so changes show.

    Example: `sidecars release log release.json --verify --key release=release.pem`

    Exit codes: 0 the chain holds; 1 it does not, or a file cannot be read; 2 bad usage.
    """
    from edge.release.audit import AuditError
    from sidecars.cli.release_files import log_of, print_log, verify_log

    try:
        if verify:
            typer.echo(verify_log(file, log_of(file, log), key or ()))
        else:
            print_log(log_of(file, log))
    except AuditError as error:
        typer.echo(f"{log_of(file, log)}: {error}", err=True)
        raise typer.Exit(WRONG) from None
