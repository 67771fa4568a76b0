"""`sidecars session` and `sidecars token`: who is signed in, and who is so no more.

Where sessions and revocations are kept in Redis, the commands talk to Redis themselves, with the
settings file of the sidecars. Where they are kept in the memory of a process, they ask its admin port,
which has to offer that (`authz.session_admin`).
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol, TypeVar

import orjson
import typer

from sidecars.cli.exit import USAGE, WRONG

ADMIN_SECONDS = 10.0
"""For an answer of the admin port, which itself waits for nothing long."""

PATIENCE_SECONDS = 5.0
"""For an answer of Redis: a person waits longer than a request."""

MAX_LISTED = 1000
"""Sessions or revocations in one answer, as the desk gives them."""

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
Before = Annotated[
    str | None,
    typer.Option(help="What began before this time: 2026-01-31T12:00:00Z, unix seconds, or `now`."),
]
Names = Annotated[list[str] | None, typer.Option(help="May be given several times.")]

app = typer.Typer(help="Create, show, list and revoke sessions.", no_args_is_help=True)
token_app = typer.Typer(help="Revoke tokens (JWTs and introspected ones).", no_args_is_help=True)


class Counter(Protocol):
    """What the commands ask: the library's desk, or the admin port."""

    def create_session(
        self, subject: str, scopes: Sequence[str], roles: Sequence[str], claims: Mapping[str, Any]
    ) -> Awaitable[dict[str, Any]]:
        """The token and the id of a new session."""

    def show_session(self, name: str) -> Awaitable[dict[str, Any] | None]:
        """The session of a token or an id."""

    def list_sessions(self, subject: str | None, limit: int) -> Awaitable[list[dict[str, Any]]]:
        """Open sessions."""

    def revoke_sessions(self, target: str, value: Any) -> Awaitable[int]:
        """How many sessions were ended."""

    def revoke_tokens(self, target: str, value: Any, issuer: str) -> Awaitable[dict[str, Any]]:
        """The revocation."""

    def list_revocations(self) -> Awaitable[list[dict[str, Any]]]:
        """What is revoked."""

    def clean_revocations(self) -> Awaitable[list[str]]:
        """What was removed because nobody can read it."""


@app.command()
def create(
    config: Config,
    subject: Annotated[str, typer.Option(help="Who it is for.")],
    scope: Names = None,
    role: Names = None,
    claims: Annotated[str, typer.Option(help="More claims, as a JSON object.")] = "{}",
) -> None:
    """Create a session and print its token, which is kept nowhere.

    Example: `sidecars session create -c sidecars.yaml --subject alice --scope orders:read`

    Exit codes: 0 created; 1 the store is away or full; 2 bad usage or configuration.
    """
    try:
        content = orjson.loads(claims)
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"--claims is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise typer.BadParameter("--claims is no JSON object")
    made = _ask(
        config, "sessions", lambda counter: counter.create_session(subject, scope or [], role or [], content)
    )
    typer.echo(made["token"])


@app.command()
def show(
    config: Config,
    name: Annotated[
        str, typer.Argument(metavar="TOKEN|ID|-", help="A token, an id as `list` prints it, or - for stdin.")
    ],
) -> None:
    """Print what is known of a session, as JSON.

    Example: `sidecars session show -c sidecars.yaml - < token`

    Exit codes: 0 found; 1 there is none, or the store is away; 2 bad usage or configuration.
    """
    found = _ask(config, "sessions", lambda counter: counter.show_session(_named(name)))
    if found is None:
        _fail("there is no such session")
    typer.echo(orjson.dumps(_readable(found), option=orjson.OPT_INDENT_2))


@app.command("list")
def list_sessions(
    config: Config,
    subject: Subject = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED)] = 100,
) -> None:
    """Print open sessions, a JSON object a line.

    Example: `sidecars session list -c sidecars.yaml --subject alice`

    Exit codes: 0 printed, be it none; 1 the store is away; 2 bad usage or configuration.
    """
    _print(_ask(config, "sessions", lambda counter: counter.list_sessions(subject, limit)), limit)


@app.command()
def revoke(
    config: Config,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[TOKEN|ID|-]", help="A token, an id as `list` prints it, or - for stdin."),
    ] = None,
    subject: Subject = None,
    before: Before = None,
) -> None:
    """End one session, all of a subject, or all that began before a time. Every sidecar knows at once.

    Example: `sidecars session revoke -c sidecars.yaml --subject alice`

    Exit codes: 0 done, and how many is printed; 1 there was none, or the store is away;
    2 bad usage or configuration.
    """
    wishes = {"token": name, "subject": subject, "before": before}
    target, text = _one_of(wishes, "a session, --subject or --before")
    value: Any = _time(text) if target == "before" else text
    if target == "token":
        value = _named(text)
    ended = _ask(config, "sessions", lambda counter: counter.revoke_sessions(target, value))
    typer.echo(f"{ended} revoked")
    if not ended:
        raise typer.Exit(WRONG)


@token_app.command("revoke")
def revoke_tokens(
    config: Config,
    jti: Annotated[str | None, typer.Option(help="The token of this id.")] = None,
    sid: Annotated[str | None, typer.Option(help="All tokens of this session of the issuer.")] = None,
    subject: Annotated[str | None, typer.Option(help="What was issued to this subject until now.")] = None,
    before: Annotated[
        str | None,
        typer.Option(help="What was issued before this time: 2026-01-31T12:00:00Z, unix seconds, or `now`."),
    ] = None,
    issuer: Annotated[str, typer.Option(help="Of this issuer only. Otherwise of all.")] = "",
) -> None:
    """Refuse tokens before they expire. Sessions of the same subject or sid are refused with them.

    Now is the time of Redis, and `revocations.leeway_seconds` more: an issuer's clock may be ahead.

    Example: `sidecars token revoke -c sidecars.yaml --jti 5f1c --issuer https://idp.example`

    Exit codes: 0 revoked; 1 the store is away, or the list is full; 2 bad usage or configuration.
    """
    wishes = {"jti": jti, "sid": sid, "sub": subject, "before": before}
    target, text = _one_of(wishes, "--jti, --sid, --subject or --before")
    value: Any = _time(text) if target == "before" else text
    made = _ask(config, "revocations", lambda counter: counter.revoke_tokens(target, value, issuer))
    typer.echo(orjson.dumps(_readable(made)))


@token_app.command("list")
def list_revocations(config: Config) -> None:
    """Print what is revoked, a JSON object a line.

    Example: `sidecars token list -c sidecars.yaml`

    Exit codes: 0 printed, be it nothing; 1 the store is away; 2 bad usage or configuration.
    """
    _print(_ask(config, "revocations", lambda counter: counter.list_revocations()), MAX_LISTED)


@token_app.command("clean")
def clean_revocations(config: Config) -> None:
    """Remove entries of the list that nobody can read. One such entry keeps every token out.

    Prints what they were. Written by an older or newer release, they may still mean something to it.

    Example: `sidecars token clean -c sidecars.yaml`

    Exit codes: 0 done, be there none; 1 the store is away; 2 bad usage or configuration.
    """
    for removed in _ask(config, "revocations", lambda counter: counter.clean_revocations()):
        typer.echo(removed)


def _print(found: Sequence[Mapping[str, Any]], limit: int) -> None:
    for one in found:
        typer.echo(orjson.dumps(_readable(one)))
    if len(found) == limit:
        typer.echo(f"these are {limit}; there may be more", err=True)


def _ask(config: Path, block: str, work: Callable[[Counter], Awaitable[T]]) -> T:
    from authz.credentials.desk import DeskError
    from authz.credentials.revocation import RevocationsFullError
    from authz.credentials.session import StoreFullError, StoreUnavailableError

    asked = counter(config, block)

    async def ask() -> T:
        async with asked as opened:
            return await work(opened)

    try:
        return asyncio.run(ask())
    except (DeskError, ValueError) as error:
        _fail(str(error), USAGE)
    except (StoreUnavailableError, StoreFullError, RevocationsFullError) as error:
        _fail(str(error))


def counter(config: Path, block: str) -> AbstractAsyncContextManager[Counter]:
    """The desk over Redis, or the admin port. Raises ConfigError."""
    from authz.policy.load import load_policy
    from configfile import ConfigError
    from sidecars.runtime.settings.load import load_settings

    settings = load_settings(config, os.environ)
    if settings.authz is None:
        raise ConfigError.of(config, "has no section authz, so there are no sessions")
    credentials = load_policy(settings.authz.policy).credentials
    kept = getattr(credentials, block)
    if kept is None:
        raise ConfigError.of(settings.authz.policy[0], f"its credentials have no {block}")
    if kept.store == "memory":
        if settings.workers > 1:
            problem = f"with workers, {block} in memory are known to one only: write {block}.store: redis"
            raise ConfigError.of(settings.authz.policy[0], problem)
        return _admin_port(settings.admin.listen, settings.admin.port_file)
    if settings.redis is None:
        raise ConfigError.of(config, f"has no section redis, which credentials.{block}.store: redis needs")
    return _redis_desk(settings.redis, credentials)


@asynccontextmanager
async def _redis_desk(settings: Any, credentials: Any) -> AsyncIterator[Counter]:
    from prometheus_client import CollectorRegistry

    from authz.credentials import Credentials, CredentialsConfig
    from sidecars.runtime.redis import connect

    # Not the milliseconds of a request: a command that gives up has revoked nothing.
    patience_ms = round(PATIENCE_SECONDS * 1000)
    redis = connect(
        settings.model_copy(update={"connect_timeout_ms": patience_ms, "operation_timeout_ms": patience_ms})
    )
    # Only what is kept in Redis: the rest of the configuration needs files and servers of its own.
    kept = {
        name: block
        for name in ("sessions", "revocations")
        if (block := getattr(credentials, name)) is not None and block.store == "redis"
    }
    config = CredentialsConfig(**kept, wait_seconds=PATIENCE_SECONDS)
    try:
        yield Credentials(
            config,
            registry=CollectorRegistry(),
            monotonic_clock=time.monotonic,
            random=lambda: 0.0,
            redis=redis,
        ).desk
    finally:
        await redis.aclose()


@asynccontextmanager
async def _admin_port(address: Any, port_file: Path | None) -> AsyncIterator[Counter]:
    import aiohttp

    from sidecars.transport.address import TcpAddress

    if isinstance(address, TcpAddress):
        port = address.port or await asyncio.to_thread(_port_in, port_file)
        connector: aiohttp.BaseConnector = aiohttp.TCPConnector()
        base = f"http://{address.host}:{port}"
    else:
        path = "\0" + address.path[1:] if address.abstract else address.path
        connector, base = aiohttp.UnixConnector(path=path), "http://admin"
    timeout = aiohttp.ClientTimeout(total=ADMIN_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
        yield AdminPort(client, base)


def _port_in(file: Path | None) -> int:
    if file is None:
        raise ValueError("admin.listen has port 0 and no port_file, so the port is not known")
    return int(file.read_text(encoding="utf-8"))


class AdminPort:
    """The desk of a running process, over its admin port."""

    def __init__(self, client: Any, base: str) -> None:
        self._client = client
        self._base = base

    async def create_session(
        self, subject: str, scopes: Sequence[str], roles: Sequence[str], claims: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The token and the id of a new session."""
        wish = {"subject": subject, "scopes": list(scopes), "roles": list(roles), "claims": dict(claims)}
        return dict(await self._asked("POST", "/authz/sessions", json=wish))

    async def show_session(self, name: str) -> dict[str, Any] | None:
        """The session of a token or an id."""
        found = await self._asked("POST", "/authz/sessions/show", json={"name": name})
        return None if found is None else dict(found)

    async def list_sessions(self, subject: str | None, limit: int) -> list[dict[str, Any]]:
        """Open sessions."""
        query = {"limit": str(limit)} | ({"subject": subject} if subject is not None else {})
        return list(await self._asked("GET", "/authz/sessions", params=query))

    async def revoke_sessions(self, target: str, value: Any) -> int:
        """How many sessions were ended."""
        wish = {"target": target, "value": value}
        return int(await self._asked("POST", "/authz/sessions/revoke", json=wish))

    async def revoke_tokens(self, target: str, value: Any, issuer: str) -> dict[str, Any]:
        """The revocation."""
        wish = {"target": target, "value": value, "issuer": issuer}
        return dict(await self._asked("POST", "/authz/revocations", json=wish))

    async def list_revocations(self) -> list[dict[str, Any]]:
        """What is revoked."""
        return list(await self._asked("GET", "/authz/revocations"))

    async def clean_revocations(self) -> list[str]:
        """Nothing: a list in memory holds what this process has written."""
        return []

    async def _asked(self, method: str, path: str, **options: Any) -> Any:
        import aiohttp

        from authz.credentials.desk import DeskError
        from authz.credentials.session import StoreUnavailableError

        try:
            async with self._client.request(method, self._base + path, **options) as response:
                body = await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise StoreUnavailableError(f"the admin port {self._base} does not answer: {error}") from None
        if status == 200:
            return orjson.loads(body)
        if status in {404, 405}:
            raise DeskError("the admin port offers no sessions; set authz.session_admin: true")
        try:
            problem = orjson.loads(body)["error_description"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            problem = f"HTTP status {status}"
        raise (DeskError if status in {400, 415} else StoreUnavailableError)(problem)


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
        return text  # the store says when that is: the clocks of this machine may be another
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time: write 2026-01-31T12:00:00Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


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
