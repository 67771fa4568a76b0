"""The keys asked for and refused most often, the state of one key, and the limits in service."""

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from sidecars.console.source import Source, SourceError, of_each_worker

MAX_RULES: Final = 200
MAX_HOT: Final = 25
NO_LIMITS: Final[Mapping[str, Any]] = MappingProxyType({"rules": (), "rules_in_all": 0, "domains": ()})
_NOT_HERE: Final = 404


async def show(source: Source, query: Mapping[str, str]) -> dict[str, Any]:
    """Return the page; with a domain and a descriptor, the state of its key, too."""
    domain, descriptor = query.get("domain", "").strip(), query.get("descriptor", "").strip()
    try:
        hot = of_each_worker(await source.get("/limits/hot"))
    except SourceError as error:
        if error.status == _NOT_HERE:
            return {"runs": False}
        raise
    listed = of_each_worker(await source.get("/rlconfig", {"format": "json", "limit": str(MAX_RULES)}))
    limits = next((found for _, found in listed if isinstance(found, dict)), NO_LIMITS)
    states: list[dict[str, Any]] = []
    problem = ""
    if domain and descriptor:
        states, problem = await _states(source, [number for number, _ in hot], domain, descriptor)
    answers = [found for _, found in hot if isinstance(found, dict)]
    return {
        "runs": True,
        "tables": (
            ("hottest", "Asked for most often", merged(answers, "hottest", "hits")),
            ("limited", "Refused most often", merged(answers, "limited", "limited")),
        ),
        "asked": {"domain": domain or next(iter(limits["domains"]), ""), "descriptor": descriptor},
        "states": states,
        "problem": problem,
        "rules": limits["rules"],
        "more": limits["rules_in_all"] - len(limits["rules"]),
        "domains": limits["domains"],
    }


def merged(
    answers: Sequence[Mapping[str, Any]], name: str, by: str, most: int = MAX_HOT
) -> list[dict[str, Any]]:
    """Return the largest of the answers of workers at `/limits/hot`, whose counts are added up.

    `name` is that of a list in the answers, and `by` that of the count that orders it.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for answer in answers:
        for one in answer[name]:
            kept = found.setdefault((one["domain"], one["descriptor"]), {**one, "hits": 0, "limited": 0})
            kept["hits"] += one["hits"]
            kept["limited"] += one["limited"]
    return sorted(found.values(), key=lambda one: -int(one[by]))[:most]


async def _states(
    source: Source, workers: Sequence[str], domain: str, descriptor: str
) -> tuple[list[dict[str, Any]], str]:
    """Return what is left of the limit of a descriptor in each worker, and what is wrong with it.

    Workers that share a Redis say the same, which is returned once.
    """
    question = {"domain": domain, "descriptors": [descriptor]}

    async def ask(worker: str) -> dict[str, Any]:
        found = await source.post("/limits/explain", question, {"worker": worker} if worker else None)
        return dict(found[0])

    answers = await asyncio.gather(*map(ask, workers), return_exceptions=True)
    states: list[dict[str, Any]] = []
    problem = ""
    for worker, answer in zip(workers, answers, strict=True):
        if isinstance(answer, SourceError):
            problem = str(answer)
        elif isinstance(answer, BaseException):
            raise answer
        elif not any(state["answer"] == answer for state in states):
            states.append({"worker": worker, "answer": answer})
    if len(states) == 1:
        states[0]["worker"] = ""
    return states, problem
