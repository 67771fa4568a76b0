"""The `sidecars` command without its commands."""

import typer


def new_root() -> typer.Typer:
    """Return the command that others are added to."""
    return typer.Typer(
        name="sidecars",
        help=(
            "Three gRPC servers for Envoy: who may (authz), how much (ratelimit), what happened (accesslog)."
        ),
        epilog=(
            "Exit codes: 0 all is well; 1 something was found wrong or failed; "
            "2 bad usage, or a configuration that cannot be started with. To begin: `sidecars demo`."
        ),
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
