"""Recent decisions, and why one was made."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import yaml

from sidecars.console.sandbox import Sandbox
from sidecars.console.source import Source, SourceError, of_each_worker

FILTERS: Final = ("id", "request_id", "subject", "rule", "outcome", "reason")
OUTCOMES: Final = ("allow", "deny", "error", "preflight")
LIMITS: Final = ("50", "100", "200")
"""Decisions on a page. 200 take the process that serves about 2 ms."""

_NONE_KEPT: Final = 404


async def show_list(source: Source, query: Mapping[str, str]) -> dict[str, Any]:
    """Return the decisions that match the filters of the page, newest first."""
    filters = {name: query[name].strip() for name in FILTERS if query.get(name, "").strip()}
    limit = query.get("limit", "") if query.get("limit") in LIMITS else LIMITS[0]
    values: dict[str, Any] = {
        "filters": {name: filters.get(name, "") for name in FILTERS},
        "limit": limit,
        "limits": LIMITS,
        "outcomes": OUTCOMES,
        "decisions": [],
        "silent": [],
        "problem": "",
    }
    try:
        answer = await source.get("/decisions", {**filters, "limit": limit})
    except SourceError as error:
        if error.status == _NONE_KEPT:
            return values | {
                "problem": "No decisions are kept: authz does not run here, or authz.decisions.recent is 0."
            }
        return values | {"problem": str(error)}
    return values | {
        "decisions": answer["decisions"],
        "silent": answer.get("workers_without_answer", []),
    }


class Why:
    """The page of one decision, whose explanation `sandbox` makes."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def show(self, source: Source, query: Mapping[str, str]) -> dict[str, Any]:
        """Return the record of the decision, and how the policy decides its request."""
        name = query.get("id", "")
        answer = await source.get("/decisions", {"id": name, "limit": "1"}) if name else {"decisions": []}
        if not answer["decisions"]:
            raise SourceError(f"No decision {name!r} is kept any more. The access log may have it.", 404)
        record = answer["decisions"][0]
        question = await question_of(source, name)
        served = await policy_in_service(source)
        found = await self._sandbox.evaluate(
            {
                "files": served["files"],
                "question": yaml.safe_dump(question),
                "at": _unix_seconds(record.get("time", "")),
                "trusted_hops": served["trusted_hops"],
            }
        )
        explained = found.get("question")
        return {
            "record": record,
            "found": found,
            "explained": explained,
            "differs": explained is not None and not _agree(record, explained),
            "other_revision": found.get("revision") != record.get("policy_revision"),
            "not_served": found.get("revision") not in served["revisions"],
        }


async def question_of(source: Source, name: str) -> dict[str, Any]:
    """Return the request and the caller of a decision. Raises SourceError."""
    for _, found in of_each_worker(await source.get("/decisions/question", {"id": name})):
        if isinstance(found, dict) and "request" in found:
            return {key: value for key, value in found.items() if value is not None}
    raise SourceError(f"No decision {name!r} is kept any more.", 404)


async def policy_in_service(source: Source) -> dict[str, Any]:
    """Return the files of the policy, the revisions in service, and the trusted hops. Raises SourceError."""
    files: list[str] = []
    revisions: list[str] = []
    trusted_hops = 0
    for _, config in of_each_worker(await source.get("/config")):
        authz = (config or {}).get("settings", {}).get("authz")
        if authz is None or "authz" not in config["sidecars"]:
            continue
        files, trusted_hops = authz["policy"], authz["trusted_hops"]
        revisions.append(config["sidecars"]["authz"]["state"]["revision"])
    return {"files": files, "revisions": revisions, "trusted_hops": trusted_hops}


def _agree(record: Mapping[str, Any], explained: Mapping[str, Any]) -> bool:
    return all(record.get(name, "") == explained.get(name, "") for name in ("outcome", "reason", "rule"))


def _unix_seconds(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
