"""Evaluates a policy that someone pasted, in a child of `fork_server`.

It reads one JSON object from standard input, and writes one to standard output. The child has limits,
because an expression, a pattern or nested YAML may need any amount of memory.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from authz.policy.compile.load import load_policy, parse_policy
from authz.request.request import BadRequestError, Request
from authz.tools.examples import Question
from authz.tools.explain import explain, explain_unreadable
from authz.tools.explain_data import as_data
from authz.tools.suites.coverage import Coverage
from authz.tools.suites.load import parse_suite
from authz.tools.suites.run import Runner
from common.configfile import ConfigError, parse, validate
from sidecars.console.fork_server import MAX_MEMORY_BYTES

MAX_RULES_SHOWN: Final = 200
"""Rules that do not cover the request beyond these are counted, not listed."""
MAX_CASES_SHOWN: Final = 500


def evaluate(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the explanation of `question`, the results of `suite`, and the problems of all texts.

    `policy` is a text, or absent for the files in `files`.
    """
    problems: dict[str, list[str]] = {}
    found: dict[str, Any] = {"problems": problems}
    try:
        if asked.get("policy") is None:
            policy = load_policy([Path(file) for file in asked["files"]])
        else:
            policy = parse_policy(asked["policy"], "policy.yaml")
    except ConfigError as error:
        problems["policy"] = list(map(str, error.problems))
        return found
    found |= {"revision": policy.revision, "rules": len(policy.rules)}
    found["warnings"] = [str(problem) for problem in policy.warnings[:20]]
    for name, work in (("question", _explained), ("suite", _tested)):
        if asked.get(name):
            try:
                found[name] = work(policy, asked[name], asked)
            except ConfigError as error:
                problems[name] = list(map(str, error.problems))
    return found


def _explained(policy: Any, text: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    question = validate(parse(text, "request.yaml"), Question)
    outcome = None if question.caller is None else question.caller.outcome()
    try:
        request = Request(question.request.message(), int(asked.get("trusted_hops", 0)))
    except BadRequestError as error:
        return as_data(explain_unreadable(error.reason))
    data = as_data(explain(policy, request, outcome, float(asked.get("at") or time.time())))
    covering = [rule for rule in data["rules"] if rule["covers"]]
    others = [rule for rule in data["rules"] if not rule["covers"]]
    # Deny rules first, as they are judged.
    covering.sort(key=lambda rule: rule["effect"] != "deny")
    return data | {
        "rules": covering[:MAX_RULES_SHOWN],
        "others": others[:MAX_RULES_SHOWN],
        "more": len(data["rules"]) - len(covering[:MAX_RULES_SHOWN]) - len(others[:MAX_RULES_SHOWN]),
    }


def _tested(policy: Any, text: str, _asked: Mapping[str, Any]) -> dict[str, Any]:
    suite = parse_suite(text, "suite.yaml")
    runner, covered = Runner(policy), Coverage(policy)
    cases: list[dict[str, Any]] = []
    passed = 0
    for case in suite.cases:
        result = runner.run(case)
        covered.add(result.explanation)
        passed += result.passed
        cases.append(
            {
                "name": case.name,
                "line": case.line,
                "request": case.request_name,
                "caller": case.caller_name,
                "passed": result.passed,
                "differences": [
                    {"what": one.what, "expected": one.expected, "got": one.got} for one in result.differences
                ],
            }
        )
    cases.sort(key=lambda case: case["passed"])
    return {
        "cases": cases[:MAX_CASES_SHOWN],
        "total": len(cases),
        "passed": passed,
        "coverage": covered.percent,
        "missing": _missing(covered),
    }


def _missing(covered: Any) -> Sequence[Mapping[str, Any]]:
    return [
        {"rule": entry.rule.name, "missing": list(entry.missing)} for entry in covered.rules if entry.missing
    ][:MAX_RULES_SHOWN]


def answer_one() -> None:
    """Answer one question."""
    try:
        answer = orjson.dumps(evaluate(orjson.loads(sys.stdin.buffer.read())))
    except MemoryError:
        answer = orjson.dumps({"failure": f"it needs more than {MAX_MEMORY_BYTES >> 20} MiB of memory"})
    except RecursionError:
        answer = orjson.dumps({"failure": "it is nested too deeply"})
    sys.stdout.buffer.write(answer)
