"""SQL over access logs, for `sidecars logs query`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
import typer
from rich.console import Console
from rich.table import Table

from accesslog.records.fields import FIELDS
from sidecars.cli.exit import WRONG
from sidecars.cli.printable import printable

_TYPES: Final = {
    "text": "VARCHAR",
    "integer": "HUGEINT",  # wire bytes are unsigned 64-bit numbers
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "list": "VARCHAR[]",
    "map": "JSON",
}
_SPECIAL: Final = {"time": "TIMESTAMPTZ", "receive_time": "TIMESTAMPTZ", "ratelimit_descriptors": "JSON"}


def column_types() -> dict[str, str]:
    """Return the SQL type of each column: given to DuckDB, which guesses wrong from the first lines."""
    return {name: _SPECIAL.get(name, _TYPES[kind]) for name, (kind, _) in FIELDS.items()}


def query(sql: str, files: Sequence[Path], *, json: bool) -> None:
    """Print the rows of `sql`, in which `log` is the table of all `files`. Exits with 1 if it is refused."""
    try:
        import duckdb
    except ImportError:
        raise typer.BadParameter("needs the extra logs (in a clone: pip install '.[logs]')") from None
    # No configuration file, and nothing is fetched: JSON and Parquet are built in.
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false", "TimeZone": "UTC"})
    try:
        connection.execute(f"CREATE VIEW log AS {_union(connection, files)}")
        result = connection.execute(sql)
        names = [column[0] for column in result.description or ()]
        _print(names, _rows(result), json=json)
    except duckdb.Error as error:
        typer.echo(printable(str(error).splitlines()[0]), err=True)
        raise typer.Exit(WRONG) from None
    finally:
        connection.close()


def _rows(result: Any) -> Iterator[Sequence[Any]]:
    while rows := result.fetchmany(1000):
        yield from rows


def _union(connection: Any, files: Sequence[Path]) -> str:
    lines = [str(file) for file in files if not _is_parquet(file)]
    parquet = [str(file / "**/*.parquet" if file.is_dir() else file) for file in files if _is_parquet(file)]
    parts = []
    if lines:
        columns = ", ".join(f"{name}: '{kind}'" for name, kind in column_types().items())
        options = f"format='newline_delimited', columns={{{columns}}}, ignore_errors=true"
        parts.append(f"SELECT * FROM read_json([{_texts(lines)}], {options})")  # noqa: S608  # quoted
    if parquet:
        source = f"read_parquet([{_texts(parquet)}], union_by_name=true, hive_partitioning=false)"
        there = {row[0] for row in connection.execute(f"DESCRIBE FROM {source}").fetchall()}
        maps = [name for name, kind in column_types().items() if kind == "JSON" and name in there]
        as_json = ", ".join(f"{name}::JSON AS {name}" for name in maps)
        parts.append(f"SELECT * REPLACE ({as_json}) FROM {source}" if maps else f"FROM {source}")  # noqa: S608  # quoted
    return " UNION ALL BY NAME ".join(parts)


def _is_parquet(file: Path) -> bool:
    return file.suffix == ".parquet" or file.is_dir()


def _texts(texts: Sequence[str]) -> str:
    return ", ".join("'" + text.replace("'", "''") + "'" for text in texts)


def _print(names: Sequence[str], rows: Iterator[Sequence[Any]], *, json: bool) -> None:
    if json:
        for row in rows:
            line = orjson.dumps(
                dict(zip(names, row, strict=True)), default=str, option=orjson.OPT_NON_STR_KEYS
            )
            typer.echo(line)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(printable(name), overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else printable(value).replace("[", r"\[") for value in row))
    Console(highlight=False).print(table)
