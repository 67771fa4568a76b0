"""Counts the instructions of an entry with callgrind, which other load on the machine does not change."""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import orjson

from bench.tools.goals import Figures
from bench.tools.log_decoder import packed
from bench.tools.log_entries import ENTRIES_A_MESSAGE, messages
from bench.tools.processes import load_core, run
from bench.transport import Say

_FEW, _MANY = 50, 150
"""Messages of two runs: the difference is the cost of later entries, without that of the start."""

_COLLECTED = re.compile(r"Collected : ([0-9]+)")

VARIANTS: dict[str, dict[str, Any]] = {
    "instructions_per_entry": {},
    "instructions_wider_redaction": {
        "redact": {"headers": ["x-internal-token", "x-tenant-key"], "query_parameters": ["key", "voucher"]}
    },
    "instructions_with_rules": {
        "redact": {
            "rules": [
                {"action": "mask", "path_segments": [r"\d{6,}"], "metadata": ["email"], "cookies": ["uid"]}
            ]
        }
    },
    "instructions_with_request_metrics": {"requests": True},
}
"""What `bench.tools.log_decoder` is told for each figure. The first has the defaults."""


def instructions_per_entry(folder: Path, say: Say) -> Figures:
    """The instructions of each variant; None if valgrind is not installed."""
    if shutil.which("valgrind") is None:
        say("valgrind is not installed (Debian: apt-get install valgrind): no instructions counted")
        return dict.fromkeys(VARIANTS)
    figures: Figures = {}
    for key, order in VARIANTS.items():
        say(f"callgrind: {key}")
        few, many = (_collected(folder, count, order) for count in (_FEW, _MANY))
        figures[key] = (many - few) / ((_MANY - _FEW) * ENTRIES_A_MESSAGE)
    return figures


def _collected(folder: Path, count: int, order: dict[str, Any]) -> int:
    file = folder / "messages"
    file.write_bytes(packed(messages(count)))
    arguments = orjson.dumps({"redact": {}, "requests": False, **order, "file": str(file)}).decode()
    output = run(
        [
            # One hash seed, so that dictionaries collide in the same way each time.
            *("env", "PYTHONHASHSEED=0", "valgrind", "--tool=callgrind"),
            f"--callgrind-out-file={os.devnull}",
            *(sys.executable, "-m", "bench.tools.log_decoder", arguments),
        ],
        load_core(),
    )
    collected = _COLLECTED.search(output)
    if collected is None:
        raise RuntimeError(f"callgrind printed no total:\n{output}")
    return int(collected[1])
