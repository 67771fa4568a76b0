"""`sidecars why`: one request, from the access logs and the running processes together."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecars.cli.exit import WRONG

if TYPE_CHECKING:
    from sidecars.cli.logs_why import Why
    from sidecars.settings.root import Settings


def why(
    identifier: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="x-request-id, authz's decision id, the id of the trace or of the stream."
        ),
    ],
    config: Annotated[
        list[Path],
        typer.Option(
            "--config",
            "-c",
            help="The settings file of a process that runs here; repeat it for several.",
            exists=True,
            dir_okay=False,
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain one request, also one that a sidecar never answered or that no access log has (yet).

    It searches the access logs and decision logs of the settings, rotated ones too, and asks the admin port
    of each process for its recent decisions and for what is wrong with it now. The id of a trace is found
    where Envoy logs the header `traceparent`, `b3` or `x-b3-traceid`.

    Example: `sidecars why 5f8a6c1e-2d3b-4c5d-8e9f-0a1b2c3d4e5f --config sidecars.yaml`

    Exit codes: 0 found; 1 neither a log nor a process knows the id; 2 bad usage.
    """
    from sidecars.cli.logs_why_show import show

    places = [_Place.of(file, os.environ) for file in config]
    found = asyncio.run(_explained(identifier, places))
    if found.record:
        show(found, json=json)
        return
    for line in (*found.notes, *found.processes):
        typer.echo(line, err=True)
    raise typer.Exit(WRONG)


@dataclass(frozen=True, slots=True)
class _Place:
    """A process: its settings, and the files that it writes."""

    file: Path
    settings: "Settings"
    logs: Sequence[Path]
    decisions: Sequence[Path]

    @classmethod
    def of(cls, file: Path, environ: Mapping[str, str]) -> "_Place":
        from sidecars.cli.log_files import access_logs, decision_logs, with_rotated
        from sidecars.settings.load import load_settings

        settings = load_settings(file, environ)
        logs = with_rotated(access_logs(settings))
        return cls(file, settings, logs, with_rotated(decision_logs(settings)))


async def _explained(identifier: str, places: Sequence[_Place]) -> "Why":
    """Return what is known of the request; without a record, why nothing is."""
    from sidecars.cli.logs_why import Why, find, find_decision, of_decision

    logs = [log for place in places for log in place.logs]
    decisions = [log for place in places for log in place.decisions]
    with_authz = next((place for place in places if place.settings.authz is not None), places[0])
    authz = with_authz.settings.authz
    policy = () if authz is None else authz.policy
    found = await asyncio.to_thread(find, identifier, logs, decisions, with_authz.file, policy)
    record = {} if found is None else found.record
    # The decision id first: a redirect inside Envoy makes two decisions with one request id.
    known = (record.get("authz_decision_id"), identifier, record.get("request_id"))
    asked = list(dict.fromkeys(str(one) for one in known if one))
    answers = [await _ask(place, asked) for place in places]
    troubles = [line for answer in answers for line in answer.troubles]
    decision = next((answer.decision for answer in answers if answer.decision), None)
    if found is not None:
        found = found if found.decision or decision is None else replace(found, decision=decision)
        return replace(found, notes=list(_unanswered(found, places)), processes=troubles)
    decision = decision or await asyncio.to_thread(find_decision, identifier, decisions)
    if decision is not None:
        note = "no access log has it: Envoy sends entries after a second, or it was sampled out, or lost"
        return replace(of_decision(decision, with_authz.file, policy), notes=[note], processes=troubles)
    searched = f"no record in {len(logs)} access logs and no recent decision of a process has this id"
    hint = "it may be sampled out (sample.rate) or too old, or another host has it"
    return Why("", {}, "", notes=[searched, hint], processes=troubles)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a running process says."""

    decision: dict[str, Any] | None
    troubles: Sequence[str]


async def _ask(place: _Place, identifiers: Sequence[str]) -> _Answer:
    from sidecars.client.pages import NoAnswerError, admin_page
    from sidecars.doctor.admin import findings_of, of_no_answer

    try:
        config = (await admin_page(place.settings, "/config")).json()
        bad = [one for one in findings_of(config) if one.level != "ok"]
        decision = None
        if place.settings.authz is not None:
            pages = [
                await admin_page(place.settings, "/decisions", **{name: identifier})
                for name in ("id", "request_id")
                for identifier in identifiers
            ]
            found = [one for page in pages if page.status == 200 for one in page.json()["decisions"]]
            decision = found[0] if found else None
    except NoAnswerError as error:
        bad, decision = [of_no_answer(place.settings, error)], None
    name = f"{place.file}: "
    return _Answer(decision, [f"{name}{one.level} {one.check}: {one.seen}; fix: {one.fix}" for one in bad])


def _unanswered(found: "Why", places: Sequence[_Place]) -> list[str]:
    """Say which sidecar should have answered, by the settings, and has left nothing in the record."""
    record = found.record
    if record.get("type") != "http":
        return []
    notes = []
    refused = record.get("authz_outcome") in ("deny", "error", "preflight")
    if any(place.settings.authz is not None for place in places) and "authz_outcome" not in record:
        waited = record.get("authz_duration_us")
        took = "" if waited is None else f" within {waited / 1000:.1f} ms"
        if found.decision:
            decided = f"{found.decision['outcome']} ({found.decision['reason']})"
            notes.append(
                f"authz gave no answer{took}: it decided {decided}, too late for the timeout of ext_authz. "
                "Raise that timeout, or see why authz was slow: sidecars doctor"
            )
        else:
            notes.append(f"authz gave no answer{took}, or Envoy did not ask it: see sidecars doctor")
    elif (
        not refused
        and any(place.settings.ratelimit is not None for place in places)
        and "ratelimit_outcome" not in record
    ):
        notes.append(
            "ratelimit gave no answer, or Envoy did not ask it: no descriptor applies, or the time was up; "
            "with failure_mode_deny: false the request passes without a limit"
        )
    return notes
