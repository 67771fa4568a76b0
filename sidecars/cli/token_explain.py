"""`sidecars token explain`."""

import asyncio
import getpass
import random
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sidecars.cli.exit import WRONG
from sidecars.cli.quiet import quiet
from sidecars.cli.time_option import unix_seconds

if TYPE_CHECKING:
    from authz.credentials.config import CredentialsConfig
    from authz.credentials.token_checks import Explained

_MARKS: Final = {True: "ok  ", False: "FAIL", None: "-   "}


def explain(
    context: typer.Context,
    policy: Annotated[
        list[Path], typer.Option("--policy", "-p", help="Policy files, or folders of them.", exists=True)
    ],
    token_file: Annotated[
        Path | None,
        typer.Option(help="The file with the token. Default: stdin.", exists=True, dir_okay=False),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="The time of the check, as in 2026-01-31T08:30Z.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Print each check of a bearer token and its result, never the token.

    The token comes from stdin or a file, never from an argument, which all users of a machine can see. The
    command fetches the keys of the issuer as a sidecar does; for an opaque token it calls the introspection
    endpoint.

    Example: `sidecars token explain --policy policy.yaml < token`

    Exit codes: 0 accepted; 1 refused; 2 bad usage or configuration.
    """
    if context.args:
        # Without this the parser's error message would repeat the token.
        raise typer.BadParameter(
            "a token comes from stdin or --token-file: all users of the machine can see arguments"
        )
    from authz.policy.compile.load import load_policy

    text = _token(token_file)
    credentials = load_policy(policy).credentials
    now = time.time() if at is None else unix_seconds(at, "--at")
    with quiet():
        explained = asyncio.run(_explained(text, credentials, now))
    typer.echo(_as_json(explained) if json else _as_text(explained))
    if not _is_accepted(explained):
        raise typer.Exit(WRONG)


def _token(file: Path | None) -> str:
    if file is not None:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    elif sys.stdin.isatty():
        text = getpass.getpass("token (not shown): ")
    else:
        text = typer.get_text_stream("stdin", errors="surrogateescape").read()
    scheme, _, rest = text.strip().partition(" ")
    found = rest.strip() if scheme.lower() == "bearer" else text.strip()
    if not found:
        raise typer.BadParameter("no token: name --token-file, or write it to stdin")
    return found


async def _explained(text: str, credentials: "CredentialsConfig", now: float) -> "Explained":
    from authz.credentials.core.metrics import CredentialMetrics
    from authz.credentials.dependencies import CredentialDependencies
    from authz.credentials.introspection.client import IntrospectionClient
    from authz.credentials.jwt import fetch
    from authz.credentials.token_checks import explain_token
    from common.circuit_breaker import CircuitBreaker

    world = CredentialDependencies(
        fetch=fetch.fetch,
        introspection_client=IntrospectionClient,
        wall_clock=lambda: now,
        monotonic_clock=time.monotonic,
        random=random.random,
        redis=None,
        random_bytes=secrets.token_bytes,
        metrics=CredentialMetrics(time.monotonic),
        redis_breaker=CircuitBreaker(time.monotonic, random.random),
    )
    return await explain_token(text, credentials, world, now)


def _is_accepted(explained: "Explained") -> bool:
    from authz.request.identity import Identity

    return isinstance(explained.outcome, Identity)


def _as_text(explained: "Explained") -> str:
    from authz.request.plain_text import escaped

    width = max(len(check.title) for check in explained.checks)
    lines = [f"{_MARKS[one.held]}  {one.title:<{width}}  {one.text}" for one in explained.checks]
    return "\n".join(map(escaped, [*lines, _verdict(explained)]))


def _verdict(explained: "Explained") -> str:
    from authz.request.identity import Refusal

    outcome = explained.outcome
    if isinstance(outcome, Refusal):
        return f"refused: {outcome.reason.value}: {outcome.detail}"
    scopes, roles = (" ".join(sorted(names)) or "none" for names in (outcome.scopes, outcome.roles))
    return f"accepted: subject {outcome.subject}; scopes: {scopes}; roles: {roles}"


def _as_json(explained: "Explained") -> bytes:
    import orjson

    from authz.request.identity import Refusal

    outcome = explained.outcome
    result: dict[str, Any] = {
        "accepted": not isinstance(outcome, Refusal),
        "checks": [{"title": one.title, "held": one.held, "text": one.text} for one in explained.checks],
    }
    if isinstance(outcome, Refusal):
        result |= {"reason": outcome.reason.value, "detail": outcome.detail}
    else:
        result |= {"subject": outcome.subject, "issuer": outcome.issuer}
        result |= {"scopes": sorted(outcome.scopes), "roles": sorted(outcome.roles)}
    return orjson.dumps(result, option=orjson.OPT_INDENT_2)
