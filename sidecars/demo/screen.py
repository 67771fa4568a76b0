"""The last screen of the demo: what runs where, the console, and three things to try."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote

from rich.console import Console
from rich.table import Table

from sidecars.demo.edge import Edge
from sidecars.demo.envoy import scripts_folder


def print_screen(console: Console, edge: Edge, session: str, console_port: int, more: Path) -> None:
    """Print the screen. `session` is the token of a session with the scope orders:read."""
    console.print("\n[bold]What runs where[/]")
    console.print(parts_table(edge, console_port))
    console.print(f"[bold]Three things to try[/] (more in {more})", soft_wrap=True)
    for number, (title, commands) in enumerate(things_to_try(edge, session), start=1):
        console.print(f"{number}. {title}", soft_wrap=True, markup=False)
        for command in commands:
            # As plain text: a wrapped line cannot be pasted.
            console.print(f"   {command}", soft_wrap=True, markup=False, style="cyan")
    console.print("Everything stays up until Ctrl-C.")


def parts_table(edge: Edge, console_port: int) -> Table:
    """Return a table of what runs: a name, the process id, the address. It fits into 80 columns."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name in ("part", "process", "where"):
        table.add_column(name, no_wrap=True)
    for row in parts(edge, console_port):
        table.add_row(*row)
    return table


def parts(edge: Edge, console_port: int) -> Iterator[tuple[str, str, str]]:
    """Yield the rows of `parts_table`."""
    places = edge.places
    pids = {process.name: str(process.child.pid) for process in edge.processes}
    yield "Envoy, the edge", pids["Envoy"], edge.url
    yield "authz, ratelimit, accesslog", pids["the sidecars"], f"{places.folder}/*.sock"
    yield "  their console", "", f"http://127.0.0.1:{console_port}/console/"
    if places.redis_url is not None:
        yield "second authz, through Envoy", pids["the second authz"], edge.other_url
        yield "Redis, for both authz", "", places.redis_url.removeprefix("unix://").partition("?")[0]
    yield "identity provider", "", f"http://127.0.0.1:{places.idp_port}"
    yield "upstream, which echoes", "", f"http://127.0.0.1:{places.upstream_port}"
    if edge.login_url:
        yield "login application", pids["the login application"], edge.login_url


def things_to_try(edge: Edge, session: str) -> Sequence[tuple[str, Sequence[str]]]:
    """Return each thing: its title, and the commands to paste."""
    orders, folder = f"{edge.url}/orders", edge.places.folder
    sidecars = _command()
    # `curl -w '%header{x-request-id}'` would be shorter, but needs curl 7.84.
    request_id = f"$(curl -si {orders} | tr -d '\\r' | sed -n 's/^x-request-id: //p')"
    with_session = f"curl -i {orders} -b {quote(f'session={session}')}"
    why = ("See a request refused, and why:", (f'{sidecars} why "{request_id}" -c {folder}/sidecars.yaml',))
    browser = (
        f"open {orders} in a browser, sign in there, and out again at {edge.login_url}; or "
        if edge.login_url
        else ""
    )
    use_session = (f"Be allowed: {browser}use a session:", (with_session,))
    change = (
        "Change a rule while it runs: the session is then refused (to change it back, swap the two scopes):",
        (f"sed -i 's/orders:read/orders:admin/' {folder}/policy.yaml; sleep 1", with_session),
    )
    return why, use_session, change


def _command() -> str:
    """Return the command `sidecars` as a shell in this folder finds it."""
    script = scripts_folder() / "sidecars"
    return quote(str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script))
