"""The policy playground: a policy, a request and a suite, and how they work together."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from sidecars.console.examples import EXAMPLE_POLICY, EXAMPLE_QUESTION, EXAMPLE_SUITE
from sidecars.console.pages.decisions import policy_in_service, question_of
from sidecars.console.sandbox import MAX_TEXT_BYTES, Sandbox
from sidecars.console.source import Source, SourceError

_CREDENTIALS: Final = re.compile(r"^credentials:.*\n?(?:(?:[ \t#].*)?\n)*", re.MULTILINE)
"""The block of a policy that may hold secrets, up to the next key at the start of a line."""


class Playground:
    """The page; `sandbox` evaluates."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def show(self, source: Source, query: Mapping[str, str]) -> dict[str, Any]:
        """Return the page before anything is evaluated, with the request of a decision if one is named."""
        question, note = EXAMPLE_QUESTION, ""
        policy, use = EXAMPLE_POLICY, "loaded"
        served = await self._served(source)
        if query.get("decision"):
            found = await question_of(source, query["decision"])
            question = yaml.safe_dump(found, sort_keys=False, allow_unicode=True)
        if query.get("copy"):
            use = "pasted"
            copied = await asyncio.to_thread(copy_of, served["files"])
            policy, note = (
                (copied, "") if copied else (policy, "A policy of several files is not copied here.")
            )
        if not served["files"]:
            use = "pasted"
        return _values(served, {"use": use, "policy": policy, "question": question, "suite": ""}, note=note)

    async def evaluate(self, source: Source, form: Mapping[str, str]) -> dict[str, Any]:
        """Return the page with the results for what was sent."""
        served = await self._served(source)
        # Browsers send line ends as CRLF.
        sent = {name: form.get(name, "").replace("\r\n", "\n") for name in ("policy", "question", "suite")}
        sent["use"] = "loaded" if form.get("use") == "loaded" else "pasted"
        if sent["use"] == "loaded" and not served["files"]:
            return _values(served, sent, note="No policy is loaded here: paste one.")
        found = await self._sandbox.evaluate(
            {
                "policy": sent["policy"] if sent["use"] == "pasted" else None,
                "files": served["files"],
                "question": sent["question"] if sent["question"].strip() else None,
                "suite": sent["suite"] if sent["suite"].strip() else None,
                "trusted_hops": served["trusted_hops"],
            }
        )
        return _values(served, sent, found=found)

    async def _served(self, source: Source) -> dict[str, Any]:
        try:
            return await policy_in_service(source)
        except SourceError:  # a policy can be pasted all the same
            return {"files": [], "revisions": [], "trusted_hops": 0}


def copy_of(files: Sequence[str]) -> str:
    """Return the text of the only file of a policy, without its block `credentials`; empty for others."""
    if len(files) != 1 or not Path(files[0]).is_file():
        return ""
    with Path(files[0]).open("rb") as file:
        text = file.read(MAX_TEXT_BYTES).decode(errors="replace")
    if text.lstrip().startswith("{"):
        return ""  # all on one line
    return "# Without its block credentials.\n" + _CREDENTIALS.sub("", text)


def _values(
    served: Mapping[str, Any],
    sent: Mapping[str, str],
    *,
    found: Mapping[str, Any] | None = None,
    note: str = "",
) -> dict[str, Any]:
    return {
        "served": served,
        "sent": sent,
        "found": found,
        "note": note,
        "example_suite": EXAMPLE_SUITE,
        "limit": MAX_TEXT_BYTES >> 10,
    }
