"""`sidecars limits simulate` and `suggest`: limits and the calls that an access log has recorded."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.configfile import ConfigError
from sidecars.cli.report import report, warn

if TYPE_CHECKING:  # loaded by the commands that need them
    from ratelimit.plan import Modes
    from ratelimit.rules import CompiledLimits
    from ratelimit.tools.recorded import Mapped, RecordedCall, Skipped

Logs = Annotated[
    list[Path],
    typer.Option("--log", metavar="FILE", help="Access logs, also .gz and .zst; repeatable.", exists=True),
]
Descriptors = Annotated[
    list[str] | None,
    typer.Option(
        "--descriptor",
        metavar="KEY=FIELD,...",
        help="Make a descriptor of fields of the record, or of a text (KEY:=TEXT), instead of the recorded "
        "ones; repeatable.",
    ),
]
Domain = Annotated[
    str, typer.Option(help="The domain of the calls to look at; with --descriptor, that of all calls.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def simulate(
    log: Logs,
    limits: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Limits files or folders; else those of --config.", exists=True),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", metavar="FILE", help="Settings, for how limits are read and used.", exists=True
        ),
    ] = None,
    descriptor: Descriptors = None,
    domain: Domain = "",
    top: Annotated[int, typer.Option(help="The most keys to list.", min=1, max=10_000)] = 20,
    json: Json = False,
) -> None:
    """Simulate limits over the calls of an access log: what would have been refused, by key and minute.

    Example: `sidecars limits simulate --log access.jsonl --limits new.yaml`

    A record has its descriptors with `ratelimit.dynamic_metadata: full`. Others need `--domain` and
    `--descriptor`, as in `--domain edge --descriptor remote_address=client_ip`.

    Exit codes: 0 simulated; 1 the limits have problems, or the log has no call; 2 bad usage.
    """
    from ratelimit.tools.recorded import in_order
    from ratelimit.tools.simulate import simulate as simulated
    from sidecars.cli.limits_recorded_show import print_simulation

    try:
        compiled, modes = _limits(limits or [], config)
    except ConfigError as error:
        report(error.problems)
    warn(compiled.warnings)
    skipped: Counter[Skipped] = Counter()
    calls = in_order(_calls(log, domain, _mapped(domain, descriptor), skipped))
    found = simulated(calls, compiled, modes)
    print_simulation(found, skipped, top, json=json)
    _need_calls(found.calls)


def suggest(
    log: Logs,
    descriptor: Descriptors = None,
    domain: Domain = "",
    limits_for: Annotated[
        str, typer.Option("--yaml", metavar="UNIT", help="Print limits by second, minute, hour or day.")
    ] = "",
    json: Json = False,
) -> None:
    """Suggest limits from the calls of an access log: what each kind of key asks for in a period.

    Example: `sidecars limits suggest --log access.jsonl`

    For each candidate (the median, the 99th percentile and the most that a key had in a period) it shows the
    share of hits that a fixed window of that limit would have refused. `--yaml minute` prints the 99th
    percentiles as a limits file.

    Exit codes: 0 suggested; 1 the log has no call; 2 bad usage.
    """
    from ratelimit.tools.recorded import in_order
    from ratelimit.tools.suggest import PERIODS
    from ratelimit.tools.suggest import suggest as suggested
    from sidecars.cli.limits_recorded_show import print_limits_file, print_suggestions

    units = {unit.name.lower(): unit for unit in PERIODS}
    if limits_for and limits_for not in units:
        raise typer.BadParameter(f"one of {', '.join(units)}, not {limits_for!r}", param_hint="--yaml")
    skipped: Counter[Skipped] = Counter()
    found = suggested(in_order(_calls(log, domain, _mapped(domain, descriptor), skipped)))
    domains = sorted({one.domain for one in found})
    if limits_for and len(domains) > 1:
        text = f"a limits file has one domain, and the log has {', '.join(map(repr, domains))}: choose one"
        raise typer.BadParameter(text, param_hint="--domain")
    if limits_for:
        print_limits_file([one for one in found if one.unit is units[limits_for]])
    else:
        print_suggestions(found, skipped, json=json)
    _need_calls(len(found))


def _need_calls(found: int) -> None:
    from sidecars.cli.exit import WRONG

    if not found:
        text = (
            "no call to ratelimit is recorded: set ratelimit.dynamic_metadata: full, or give --domain and "
            "--descriptor"
        )
        typer.echo(text, err=True)
        raise typer.Exit(WRONG)


def _mapped(domain: str, descriptors: Sequence[str] | None) -> "Mapped | None":
    from accesslog.records.fields import FIELDS
    from ratelimit.tools.recorded import Mapped, entries_from

    if not descriptors:
        return None
    try:
        made = [entries_from(text) for text in descriptors]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--descriptor") from None
    for entry in (entry for entries in made for entry in entries):
        if entry.field and entry.field.partition(".")[0] not in FIELDS:
            text = f"a record has no field {entry.field!r}; docs/accesslog.md has all"
            raise typer.BadParameter(text, param_hint="--descriptor")
    return Mapped(domain, made)


def _calls(
    files: Sequence[Path], domain: str, mapped: "Mapped | None", skipped: "Counter[Skipped]"
) -> "Iterator[RecordedCall]":
    """Yield the calls of access logs, only those of `domain` if it is not empty.

    Records that are none are counted in `skipped`.
    """
    from ratelimit.tools.recorded import RecordedCall, Skipped, call_in
    from sidecars.cli.log_files import lines_of, record_in

    for file in files:
        try:
            for line in lines_of(file):
                record = record_in(line)
                found = Skipped.NOT_JSON if record is None else call_in(record, mapped)
                if isinstance(found, RecordedCall) and domain not in {"", found.request.domain}:
                    found = Skipped.OTHER_DOMAIN
                if isinstance(found, RecordedCall):
                    yield found
                else:
                    skipped[found] += 1
        except (OSError, EOFError) as error:
            raise typer.BadParameter(f"{file} cannot be read: {error}", param_hint="--log") from None


def _limits(files: Sequence[Path], config: Path | None) -> "tuple[CompiledLimits, Modes]":
    """Return the limits and how they are used. Raises ConfigError and BadParameter."""
    from ratelimit.config import load_limits
    from ratelimit.plan import Modes
    from ratelimit.rules import Options
    from sidecars.settings.load import load_settings

    if config is None:
        if not files:
            raise typer.BadParameter("give --limits, --config, or both", param_hint="--limits")
        return load_limits(files, Options()), Modes()
    settings = load_settings(config, dict(os.environ)).ratelimit
    if settings is None:
        raise ConfigError.of(config, "has no section ratelimit")
    modes = Modes(
        settings.near_limit_ratio,
        settings.shadow_mode,
        settings.quota_mode,
        settings.spare_other_limits,
        settings.bounds,
    )
    return load_limits(files or settings.limits, settings.options), modes
