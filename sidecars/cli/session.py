"""`sidecars session` and `sidecars token`: list, create and revoke sessions and tokens.

Where sessions and revocations are kept in Redis, the commands talk to Redis themselves, with the
settings file of the sidecars. Where they are kept in the memory of a process, they ask its admin port,
which has to offer that (`authz.session_admin`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar

import orjson
import typer

from common.configfile import json_place
from sidecars.cli.exit import USAGE, WRONG
from sidecars.cli.time_option import unix_seconds
from sidecars.cli.token_explain import explain
from sidecars.client.admin_client import AdminClient, admin_client

MAX_LISTED: Final = 1000
"""Sessions or revocations in one answer, as CredentialAdmin returns them."""

T = TypeVar("T")

Config = Annotated[
    Path,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="The settings file (YAML) of the sidecars.",
        show_default=False,
        exists=True,
        dir_okay=False,
    ),
]
Subject = Annotated[str | None, typer.Option(help="Of this subject.")]
BeforeOption = Annotated[
    str | None,
    typer.Option(help="Sessions created before this time: 2026-01-31T12:00:00Z, unix seconds, or `now`."),
]
Names = Annotated[list[str] | None, typer.Option(help="May be given several times.")]

app = typer.Typer(help="Create, show, list and revoke sessions.", no_args_is_help=True)
token_app = typer.Typer(help="Explain and revoke tokens (JWTs and introspected ones).", no_args_is_help=True)
token_app.command("explain", context_settings={"allow_extra_args": True})(explain)


@app.command()
def create(
    config: Config,
    subject: Annotated[str, typer.Option(help="The subject of the session.")],
    scope: Names = None,
    role: Names = None,
    claims: Annotated[str, typer.Option(help="More claims, as a JSON object.")] = "{}",
) -> None:
    """Create a session and print its token, which is not stored.

    Example: `sidecars session create -c sidecars.yaml --subject alice --scope orders:read`

    Exit codes: 0 created; 1 the store is down or full; 2 bad usage or configuration.
    """
    try:
        content = orjson.loads(claims)
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"--claims is not JSON from {json_place(error)} on") from None
    if not isinstance(content, dict):
        raise typer.BadParameter("--claims is not a JSON object")
    made = _ask(
        config,
        "sessions",
        lambda admin_client: admin_client.create_session(subject, scope or [], role or [], content),
    )
    typer.echo(made["token"])


@app.command()
def show(
    config: Config,
    name: Annotated[
        str, typer.Argument(metavar="TOKEN|ID|-", help="A token, an id as `list` prints it, or - for stdin.")
    ],
) -> None:
    """Print a session as JSON.

    Example: `sidecars session show -c sidecars.yaml - < token`

    Exit codes: 0 found; 1 not found, or the store is down; 2 bad usage or configuration.
    """
    found = _ask(config, "sessions", lambda admin_client: admin_client.show_session(_named(name)))
    if found is None:
        _fail("no such session")
    typer.echo(orjson.dumps(_readable(found), option=orjson.OPT_INDENT_2))


@app.command("list")
def list_sessions(
    config: Config,
    subject: Subject = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED)] = 100,
) -> None:
    """Print open sessions, one JSON object on each line.

    Example: `sidecars session list -c sidecars.yaml --subject alice`

    Exit codes: 0 success, even if empty; 1 the store is down; 2 bad usage or configuration.
    """
    _print(_ask(config, "sessions", lambda admin_client: admin_client.list_sessions(subject, limit)), limit)


@app.command()
def revoke(
    config: Config,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[TOKEN|ID|-]", help="A token, an id as `list` prints it, or - for stdin."),
    ] = None,
    subject: Subject = None,
    before: BeforeOption = None,
) -> None:
    """End one session, all of a subject, or all created before a time, at every sidecar at once.

    Example: `sidecars session revoke -c sidecars.yaml --subject alice`

    Exit codes: 0 done, with the number printed; 1 there was none, or the store is down;
    2 bad usage or configuration.
    """
    wishes = {"token": name, "subject": subject, "before": before}
    target, text = _one_of(wishes, "a session, --subject or --before")
    value: Any = _time(text) if target == "before" else text
    if target == "token":
        value = _named(text)
    ended = _ask(config, "sessions", lambda admin_client: admin_client.revoke_sessions(target, value))
    typer.echo(f"{ended} revoked")
    if not ended:
        raise typer.Exit(WRONG)


@token_app.command("revoke")
def revoke_tokens(
    config: Config,
    jti: Annotated[str | None, typer.Option(help="The token with this id.")] = None,
    sid: Annotated[str | None, typer.Option(help="All tokens of this session of the issuer.")] = None,
    subject: Annotated[str | None, typer.Option(help="Tokens issued to this subject until now.")] = None,
    before: Annotated[
        str | None,
        typer.Option(help="Tokens issued before this time: 2026-01-31T12:00:00Z, unix seconds, or `now`."),
    ] = None,
    issuer: Annotated[str, typer.Option(help="Only tokens of this issuer. Default: of all issuers.")] = "",
) -> None:
    """Refuse tokens before they expire, and sessions of the same subject or sid.

    `now` is the time of Redis plus `revocations.leeway_seconds`, because an issuer's clock may be ahead.

    Example: `sidecars token revoke -c sidecars.yaml --jti 5f1c --issuer https://idp.example`

    Exit codes: 0 revoked; 1 the store is down, or the list is full; 2 bad usage or configuration.
    """
    wishes = {"jti": jti, "sid": sid, "sub": subject, "before": before}
    target, text = _one_of(wishes, "--jti, --sid, --subject or --before")
    value: Any = _time(text) if target == "before" else text
    made = _ask(config, "revocations", lambda admin_client: admin_client.revoke_tokens(target, value, issuer))
    typer.echo(orjson.dumps(_readable(made)))


@token_app.command("list")
def list_revocations(config: Config) -> None:
    """Print all revocations, one JSON object on each line.

    Example: `sidecars token list -c sidecars.yaml`

    Exit codes: 0 success, even if empty; 1 the store is down; 2 bad usage or configuration.
    """
    _print(_ask(config, "revocations", lambda admin_client: admin_client.list_revocations()), MAX_LISTED)


@token_app.command("clean")
def clean_revocations(config: Config) -> None:
    """Remove unreadable entries from the list. A single one makes authz refuse every token.

    Prints the removed entries. If another release wrote them, they may be valid for it.

    Example: `sidecars token clean -c sidecars.yaml`

    Exit codes: 0 done, even if there were none; 1 the store is down; 2 bad usage or configuration.
    """
    for removed in _ask(config, "revocations", lambda admin_client: admin_client.clean_revocations()):
        typer.echo(removed)


def _print(found: Sequence[Mapping[str, Any]], limit: int) -> None:
    for one in found:
        typer.echo(orjson.dumps(_readable(one)))
    if len(found) == limit:
        typer.echo(f"these are {limit}; there may be more", err=True)


def _ask(config: Path, block: str, work: Callable[[AdminClient], Awaitable[T]]) -> T:
    from authz.credentials.admin import CredentialAdminError
    from authz.credentials.core.store_errors import StoreUnavailableError
    from authz.credentials.revocation.revocation_list import RevocationsFullError
    from authz.credentials.session.model import StoreFullError

    asked = admin_client(config, block)

    async def ask() -> T:
        async with asked as opened:
            return await work(opened)

    try:
        return asyncio.run(ask())
    except (CredentialAdminError, ValueError) as error:
        _fail(str(error), USAGE)
    except (StoreUnavailableError, StoreFullError, RevocationsFullError) as error:
        _fail(str(error))


def _named(name: str) -> str:
    """A token on the command line is seen by all users of the machine; on stdin it is not."""
    return typer.get_text_stream("stdin").readline().strip() if name == "-" else name


def _one_of(wishes: Mapping[str, str | None], what: str) -> tuple[str, str]:
    given = [(target, text) for target, text in wishes.items() if text is not None]
    if len(given) != 1 or not given[0][1]:
        raise typer.BadParameter(f"name exactly one of {what}")
    return given[0]


def _time(text: str) -> float | str:
    if text == "now":
        return text  # resolved by the store: this machine's clock may differ
    try:
        return float(text)
    except ValueError:
        pass
    return unix_seconds(text, "--before")


def _readable(found: Mapping[str, Any]) -> dict[str, Any]:
    """Times as people read them."""
    return {
        name: datetime.fromtimestamp(value, UTC).isoformat(timespec="seconds")
        if name in {"created_at", "idle_until", "ends_at", "before", "until"} and value is not None
        else value
        for name, value in found.items()
    }


def _fail(message: str, code: int = WRONG) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)
