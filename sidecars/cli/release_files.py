"""The work of `sidecars release`: reads, signs and replaces the release file, and keeps the audit log."""

import getpass
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import orjson
import typer
from pydantic import ValidationError

from common.configfile import ConfigError
from common.os_errors import in_words
from common.replace_file import replace_file
from edge.bundle.errors import BundleError
from edge.bundle.keys import PublicKey, SigningKey, public_keys, signing_key
from edge.release.audit import FIRST, AuditError, Entry, entries, unreleased
from edge.release.choose import target_of
from edge.release.gate import Report, Result, check_gates
from edge.release.model import Gates, Release, ReleaseError, Target, Wave, parse_gates, parse_wave
from edge.release.signed import read_release, sign_release, stated_end, verify_release
from sidecars.cli.bundle_files import DAY_SECONDS, named_file, read_file, validity
from sidecars.cli.exit import WRONG
from sidecars.cli.release_collect import read_reports


@dataclass(frozen=True, slots=True)
class Step:
    """Where a step is written, and who takes it."""

    file: Path
    log: Path | None
    key: Path
    key_id: str
    by: str | None
    signed_by: Sequence[str]
    """`ID=FILE` of public keys that may have signed the present file, in addition to `key`."""
    valid_days: float | None = None
    """How long edges accept the file; None: forever."""

    def take(self, action: str, why: str, change: Callable[[Release | None], Release]) -> None:
        """Write the release that `change` makes of the present one, and its entry in the log before it.

        Exits where the step is not possible, the log was changed, or the present file has no valid signature:
        it may come back from a web server, so signing what it says would make a forged one valid.
        """
        key, keys = self._keys()
        log = log_of(self.file, self.log)
        try:
            present = _present(self.file, keys)
            steps = list(entries(_lines(log)))
            unreleased(steps, "" if present is None else present.log_head)
            release = change(present)
            if present is None and steps:  # edges know the numbers of a release file that was lost
                release = release.model_copy(update={"sequence": steps[-1].sequence + 1})
            entry = self._entry(action, why, release, steps[-1] if steps else None)
            release = release.model_copy(update={"log_head": entry.hash})
        except (AuditError, BundleError, ReleaseError) as error:
            _refuse(log if isinstance(error, AuditError) else self.file, error)
        _append(log, entry.line())
        self._write(release, key)

    def sign_again(self) -> None:
        """Write the present release with a signature of now.

        Exits without a file, and for one without a valid signature.
        """
        key, keys = self._keys()
        try:
            release = required(_present(self.file, keys))
        except (BundleError, ReleaseError) as error:
            _refuse(self.file, error)
        self._write(release, key)

    def _keys(self) -> tuple[SigningKey, Mapping[str, PublicKey]]:
        """Return the key that signs, and those that may have signed the present file."""
        key = signing_key(self.key, self.key_id)
        others = dict(named_file(text, "--signed-by") for text in self.signed_by)
        return key, {key.id: key.public} | public_keys(others)

    def _write(self, release: Release, key: SigningKey) -> None:
        now = int(time.time())
        end = None if self.valid_days is None else now + int(self.valid_days * DAY_SECONDS)
        replace_file(self.file, sign_release(release, key, issued_at=now, expires_at=end))
        until = "" if end is None else f", {validity(end)}"
        typer.echo(f"{self.file}: {_summary(release)}{until}")

    def _entry(self, action: str, why: str, release: Release, last: Entry | None) -> Entry:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return Entry(
            at=now,
            by=self.by or getpass.getuser(),
            action=action,
            sequence=release.sequence,
            revision=release.current.revision,
            active=release.active,
            waves=len(release.waves),
            why=why,
            before=FIRST if last is None else last.hash,
        )


def required(present: Release | None) -> Release:
    """Return the present release. Raises ReleaseError if there is none."""
    if present is None:
        raise ReleaseError("no such file: begin with `sidecars release start`")
    return present


def target_in(bundle: Path, url: str | None) -> Target:
    """Return the bundle in a file as a target. Exits for one that cannot be read or has no signature."""
    found = read_file(bundle)
    try:
        return Target(revision=found.manifest.revision, digest=found.digest, url=url or bundle.name)
    except ValidationError:
        message = f"{url or bundle.name!r}: expected a relative path of letters, digits and ._/-"
        raise typer.BadParameter(message, param_hint="--url") from None


def waves_in(texts: Sequence[str]) -> list[Wave]:
    """Return the waves on the command line. Raises BadParameter."""
    try:
        return [parse_wave(text) for text in texts]
    except ReleaseError as error:
        raise typer.BadParameter(str(error), param_hint="--wave") from None


def gates_in(texts: Sequence[str]) -> Gates:
    """Return the gates on the command line. Raises BadParameter."""
    try:
        return parse_gates(texts)
    except ReleaseError as error:
        raise typer.BadParameter(str(error), param_hint="--gate") from None


def require_gates(release: Release, reports: Path) -> None:
    """Raise ReleaseError if a gate of the release does not hold, or cannot be checked yet."""
    found = check_gates(release, _reports(reports))
    if found:
        raise ReleaseError("; ".join(f"{one.gate}: {one.text}" for one in found))


def checked(file: Path, reports: Path) -> tuple[list[str], bool]:
    """Return a line for each gate that does not hold, and whether one is broken."""
    try:
        release = required(_present(file))
    except (BundleError, ReleaseError) as error:
        _refuse(file, error)
    found = check_gates(release, _reports(reports))
    lines = [f"{one.result}: {one.gate}: {one.text}" for one in found]
    return lines or ["ok: every gate holds"], any(one.result is Result.BROKEN for one in found)


def _reports(file: Path) -> list[Report]:
    try:
        return read_reports(file)
    except ValueError as error:
        _refuse(file, error)


def described(file: Path, node: str | None, *, as_json: bool) -> str:
    """Return a release as text or JSON, with what `node` serves. Exits for a file that cannot be read."""
    try:
        release = required(_present(file))
        end = stated_end(file.read_bytes())
    except (BundleError, ReleaseError) as error:
        _refuse(file, error)
    data: dict[str, Any] = {**release.model_dump(mode="json"), "expires_at": end}
    if node is not None:
        name, *pairs = node.split(",")
        metadata = {key: value for key, _, value in (pair.partition("=") for pair in pairs)}
        data["node"] = target_of(release, name, metadata).revision
    if as_json:
        return orjson.dumps(data, option=orjson.OPT_INDENT_2).decode()
    lines = [f"state     {_summary(release)}", f"current   {_named(release.current)}"]
    if release.previous is not None:
        lines.append(f"previous  {_named(release.previous)}")
    for number, wave in enumerate(release.waves):
        where = "".join(f", {key}={value}" for key, value in sorted(wave.match.items()))
        lines.append(
            f"wave      {'on ' if number < release.active else 'off'} {wave.name}: {wave.percent:g}%{where}"
        )
    lines += [f"valid     {validity(end)}"] if end is not None else []
    lines += [f"node      {node} serves {data['node']}"] if node is not None else []
    return "\n".join(lines)


def log_of(file: Path, log: Path | None) -> Path:
    """Return the audit log of a release file."""
    return log or file.with_suffix(".log")


def print_log(log: Path) -> None:
    """Print the entries. Raises AuditError after those before the first bad one."""
    for entry in entries(_lines(log)):
        waves = f", {entry.active} of {entry.waves} waves" if entry.waves else ""
        why = f": {entry.why}" if entry.why else ""
        typer.echo(
            f"{entry.at} {entry.by} {entry.action} {entry.revision} (release {entry.sequence}{waves}){why}"
        )


def verify_log(file: Path, log: Path, keys: Sequence[str]) -> str:
    """Return a summary of a log whose chain holds and ends with the release file. Raises AuditError."""
    found = list(entries(_lines(log)))
    try:
        release = required(_present(file))
        if keys:
            release = required(_present(file, public_keys(dict(map(named_file, keys)))))
    except (BundleError, ReleaseError) as error:
        _refuse(file, error)
    behind = unreleased(found, release.log_head)
    signed = "its signature is good" if keys else "its signature was not checked (give --key)"
    names = f"the one before the last {behind}" if behind else "the last one"
    return f"{log}: ok: {len(found)} entries; the release file names {names}, and {signed}"


def _present(file: Path, keys: Mapping[str, PublicKey] | None = None) -> Release | None:
    """Return the release in a file, verified by the keys that are given; None without one.

    Raises ConfigError and BundleError.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError.of(file, f"cannot be read: {in_words(error)}") from None
    return read_release(content) if keys is None else verify_release(content, keys, None)


def _lines(log: Path) -> list[str]:
    try:
        return log.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError.of(log, f"cannot be read: {in_words(error)}") from None


def _append(log: Path, line: str) -> None:
    with log.open("a", encoding="utf-8") as opened:
        opened.write(f"{line}\n")
        opened.flush()
        os.fsync(opened.fileno())


def _summary(release: Release) -> str:
    text = f"release {release.sequence}: {release.current.revision} "
    if release.complete:
        return f"{text}everywhere"
    held = f", held: {release.held}" if release.held else ""
    return f"{text}in {release.active} of {len(release.waves)} waves{held}"


def _named(target: Target) -> str:
    return f"{target.revision} ({target.url}, sha256:{target.digest[:12]})"


def _refuse(file: Path, error: ValueError) -> NoReturn:
    typer.echo(f"{file}: {error}", err=True)
    raise typer.Exit(WRONG)
