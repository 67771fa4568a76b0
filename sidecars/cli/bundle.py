"""`sidecars bundle`: signed bundles of policies and limits."""

from pathlib import Path
from typing import Annotated

import typer

from common.replace_file import replace_file

app = typer.Typer(help="Build, sign, verify and inspect bundles (the format of OPA).", no_args_is_help=True)

Archive = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="A bundle (.tar.gz).", exists=True, dir_okay=False)
]
Key = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="The private key that signs it (PEM).", dir_okay=False),
]
KeyId = Annotated[str, typer.Option(help="The name of the key, by which sidecars find the public key.")]
Algorithm = Annotated[
    str | None,
    typer.Option(help="The algorithm of the signature. Default: RS256, ES256 or EdDSA, by the key."),
]
ValidDays = Annotated[
    float | None,
    typer.Option(min=0, help="Days after which sidecars refuse to fetch it. Default: no limit."),
]
Scope = Annotated[str, typer.Option(help="The scope of the signature: which edges it is for.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")]


@app.command()
def build(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder to pack.", exists=True, file_okay=False)
    ],
    output: Output,
    revision: Annotated[
        str | None,
        typer.Option(help="Its name in logs and metrics. Default: that in its file `revision`, else a hash."),
    ] = None,
    sequence: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Its place in the order of releases: sidecars refuse a lower one than they serve. Default: "
            "the present time in seconds; give it where the same files must give the same bytes.",
        ),
    ] = None,
    root: Annotated[
        list[str] | None,
        typer.Option(
            help="A folder that the bundle owns; repeat it. Default: each folder and file in FOLDER."
        ),
    ] = None,
    key: Key = None,
    key_id: KeyId = "default",
    algorithm: Algorithm = None,
    valid_days: ValidDays = None,
    scope: Scope = "",
) -> None:
    """Pack a folder of policies, limits and other files into a bundle; with `--key` it is signed at once.

    Hidden files are left out. The same files, revision and sequence give the same bytes.

    Example: `sidecars bundle build edge/ -o edge.tar.gz --sequence 42 --key release.key --key-id release`

    Exit codes: 0 it is written; 1 a file cannot be packed; 2 bad usage.
    """
    from sidecars.cli.bundle_files import Signing, build_archive

    signing = None if key is None else Signing(key, key_id, algorithm, valid_days, scope)
    archive, summary = build_archive(folder, revision, sequence, root, signing)
    replace_file(output, archive)
    typer.echo(f"{output}: {summary}")


@app.command()
def sign(
    bundle: Archive,
    key: Annotated[
        Path,
        typer.Option("--key", metavar="FILE", help="The private key (PEM).", exists=True, dir_okay=False),
    ],
    key_id: KeyId = "default",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: the bundle itself.")
    ] = None,
    algorithm: Algorithm = None,
    valid_days: ValidDays = None,
    scope: Scope = "",
) -> None:
    """Sign a bundle, which may have been made by `opa build`. A signature that it has is replaced.

    Example: `sidecars bundle sign edge.tar.gz --key release.key --key-id release --valid-days 30`

    Exit codes: 0 it is signed; 1 the bundle or the key cannot be used; 2 bad usage.
    """
    from sidecars.cli.bundle_files import Signing, sign_archive

    archive, summary = sign_archive(bundle, Signing(key, key_id, algorithm, valid_days, scope))
    replace_file(output or bundle, archive)
    typer.echo(f"{output or bundle}: {summary}")


@app.command()
def verify(
    bundle: Archive,
    key: Annotated[
        list[str],
        typer.Option(
            "--key", metavar="ID=FILE", help="A public key or certificate (PEM), by its id; repeat it."
        ),
    ],
    scope: Scope = "",
    ignore_expiry: Annotated[
        bool, typer.Option("--ignore-expiry", help="Accept a signature that has expired.")
    ] = False,
) -> None:
    """Verify the signature of a bundle and the digest of each file, as a sidecar does before it uses them.

    Example: `sidecars bundle verify edge.tar.gz --key release=release.pem`

    Exit codes: 0 it may be used; 1 it may not; 2 bad usage, or a key that cannot be read.
    """
    from sidecars.cli.bundle_files import verify_archive

    typer.echo(f"{bundle}: {verify_archive(bundle, key, scope, ignore_expiry=ignore_expiry)}")


@app.command()
def inspect(
    bundle: Archive,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the manifest, the files and what the signature claims. Nothing is verified.

    Example: `sidecars bundle inspect edge.tar.gz`

    Exit codes: 0 it can be read; 1 it cannot; 2 bad usage.
    """
    from sidecars.cli.bundle_files import inspect_archive

    typer.echo(inspect_archive(bundle, as_json=json))
