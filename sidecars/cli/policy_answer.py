"""Explains the decision on one request, for `sidecars policy explain`."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson
import typer
from pydantic import ValidationError
from rich.console import Console

from authz.policy.compile.compile import Policy
from authz.policy.compile.load import load_policy
from authz.request.identity import Authentication
from authz.request.request import BadRequestError, Request
from authz.tools.examples import Question, RequestExample
from authz.tools.explain import Explanation, explain, explain_unreadable
from authz.tools.explain_data import as_data
from common.configfile import ConfigError, findings_of, json_place, read, validate
from sidecars.cli.policy_tree import tree
from sidecars.cli.report import report
from sidecars.cli.time_option import unix_seconds

_OPTIONS: Final = {
    "url": "URL",
    "headers": "--header",
    "body": "--data",
    "context_extensions": "--context",
}
"""Where an option is called otherwise than the key of a question that it is."""


def answer(
    policy: list[Path],
    question: Question,
    *,
    at: str | None,
    trusted_hops: int,
    everything: bool,
    json: bool,
) -> None:
    """Print the explanation. Exits with 1 when a policy file has problems."""
    try:
        compiled = load_policy(policy)
    except ConfigError as error:
        report(error.problems)
    outcome = None if question.caller is None else question.caller.outcome()
    now = time.time() if at is None else unix_seconds(at, "--at")
    explanation = _explain(compiled, question.request, outcome, now, trusted_hops)
    if json:
        typer.echo(orjson.dumps(as_data(explanation), option=orjson.OPT_INDENT_2))
    else:
        Console(highlight=False).print(tree(explanation, everything=everything))


def question_of_file(file: Path) -> Question:
    """The question in a YAML file. Exits with 1 when it has problems."""
    try:
        return validate(read(file), Question)
    except ConfigError as error:
        report(error.problems)


def question_of_options(
    *,
    method: str,
    url: str,
    headers: list[str],
    client: str | None,
    context: list[str],
    body: str | None,
    caller: dict[str, Any],
) -> Question:
    """Return the request and caller of the options; `caller` has those about the caller.

    Raises BadParameter.
    """
    attributes = {key: value for key, value in caller.items() if value is not None}
    if "scopes" in attributes:
        attributes["scopes"] = attributes["scopes"].replace(",", " ").split()
    if "roles" in attributes:
        attributes["roles"] = [role.strip() for role in attributes["roles"].split(",")]
    if "claims" in attributes:
        attributes["claims"] = _json(attributes["claims"])
    request = {
        "method": method,
        "url": url,
        "headers": _headers(headers),
        "client": client,
        "context_extensions": _context(context),
        "body": body,
    }
    question: dict[str, Any] = {"request": {key: one for key, one in request.items() if one is not None}}
    if attributes:
        question["caller"] = attributes
    try:
        return Question.model_validate(question)
    except ValidationError as error:
        path, message = next(findings_of(error, question, Question))
        key = str(path[1]) if len(path) > 1 else ""
        raise typer.BadParameter(message, param_hint=_OPTIONS.get(key, f"--{key}") if key else None) from None


def _explain(
    policy: Policy, example: RequestExample, outcome: Authentication, now: float, trusted_hops: int
) -> Explanation:
    try:
        request = Request(example.message(), trusted_hops)
    except BadRequestError as error:
        return explain_unreadable(error.reason)
    return explain(policy, request, outcome, now)


def _headers(lines: Any) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise typer.BadParameter(f"{line!r}: expected 'name: value'", param_hint="--header")
        headers.setdefault(name.strip().lower(), []).append(value.strip())
    return {name: values[0] if len(values) == 1 else values for name, values in headers.items()}


def _context(pairs: Sequence[str]) -> dict[str, str]:
    context: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{pair!r}: expected 'name=value'", param_hint="--context")
        context[name] = value
    return context


def _json(text: str) -> Any:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        message = f"{text!r} is not JSON from {json_place(error)} on"
        raise typer.BadParameter(message, param_hint="--claims") from None
    if not isinstance(found, dict):
        message = f'{text!r}: expected a JSON object, as in {{"tenant": "acme"}}'
        raise typer.BadParameter(message, param_hint="--claims")
    return found
