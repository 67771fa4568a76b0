"""Instructions a call, by callgrind: an authz check, a rate-limit call, a log entry, a no-op transport call.

Unlike time, instructions repeat: with a fixed key, clock and PYTHONHASHSEED they differ by less than a
percent between runs on one interpreter and CPU type. Each ratio is this tree divided by the baseline
(`--baseline TREE`, else the commit in bench/budget.yaml if git has it), measured in the same run.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import which
from typing import Final

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.authz import AUDIENCE, ISSUER
from bench.openloop.order import write_requests
from bench.tools.budget import baseline_commit, goals_of
from bench.tools.edge_requests import SERVICES, policy
from bench.tools.generator import OPENING, SETTINGS_ACK, call_heads, header_blocks
from bench.tools.goals import Figures, Measured
from bench.tools.instructions_target import WALL_SECONDS
from bench.tools.load import LoadError
from bench.tools.log_messages import ENTRIES, log_messages
from bench.tools.noop_server import PATH
from bench.tools.suite import LIMITS, check_of, limit_message, with_raw_headers
from bench.transport import Say

GOALS = goals_of("instructions")

ROOT: Final = Path(__file__).parents[1]
TARGET: Final = ROOT / "bench" / "tools" / "instructions_target.py"
CALLERS: Final = 1_000
KEYS: Final = 10_000
TRANSPORT_CALLS: Final = 4_000
SHORT: Final = 200
LONG: Final = 700
"""Their difference leaves out what does not depend on the number of calls."""
_CALLS_OF: Final = {"log_message": 10}
"""A message costs sixteen entries, so a tenth of the calls is enough."""
WHAT: Final = (
    *("authz_check", "authz_check_callers", "authz_check_raw_headers"),
    *("ratelimit_call", "log_message", "transport_call"),
)
_TOTAL: Final = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)


def run(*, quick: bool, say: Say, baseline: Path | None = None) -> Measured:
    """Count the instructions of this tree and of the baseline; `quick` leaves out the baseline."""
    if which("valgrind") is None:
        say("skipped: valgrind is not installed (Debian: apt-get install valgrind)")
        return Measured({"skipped": "no valgrind", **dict.fromkeys(GOALS)})
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name) / "input"
        folder.mkdir()
        say(f"messages of {CALLERS} callers and {KEYS} keys")
        write_input(folder)
        say("this tree under callgrind")
        now = count(ROOT, folder)
        before, against = _stored(), "stored"
        if not quick:
            tree = baseline or stack.enter_context(_checked_out(say))
            if tree is not None:
                say("the baseline under callgrind")
                before, against = count(tree, folder), str(baseline or baseline_commit().commit)
    figures: Figures = {f"{what}_instructions": float(number) for what, number in now.items()}
    for what, number in before.items():
        figures[f"baseline_{what}_instructions"] = float(number)
        figures[f"ratio_{what}"] = now[what] / number
    notes = () if before else (f"no baseline: neither its commit nor figures of {interpreter()}",)
    return Measured({**dict.fromkeys(GOALS), "baseline": against if before else None, **figures}, notes=notes)


def interpreter() -> str:
    """Return what the stored figures depend on."""
    version = ".".join(map(str, sys.version_info[:3]))
    return f"{sys.implementation.name} {version} {os.uname().machine}"


def write_input(folder: Path) -> None:
    """Write the configuration and the messages of the target."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    keys = {"keys": [{**public, "kid": "bench", "alg": "EdDSA", "use": "sig"}]}
    (folder / "keys.json").write_bytes(orjson.dumps(keys))
    (folder / "policy.yaml").write_text(policy())
    (folder / "limits.yaml").write_text(LIMITS)
    check = check_of(_token(key, "alice"), "/service-50/orders/42?fields=total")
    write_requests(folder / "authz", [check])
    write_requests(folder / "authz_raw_headers", [with_raw_headers(check)])
    write_requests(
        folder / "authz_callers",
        (
            check_of(_token(key, f"caller-{number}"), f"/service-{number % SERVICES}/orders/{number}")
            for number in range(CALLERS)
        ),
    )
    write_requests(folder / "ratelimit", (limit_message(f"caller-{number}") for number in range(KEYS)))
    write_requests(folder / "accesslog", log_messages(100))
    body = b"\x00" + (1200).to_bytes(4, "big") + bytes(1200)
    for table_bytes in (0, 4096):  # Envoy obeys the setting, which the two trees may have different
        blocks = header_blocks(PATH, TRANSPORT_CALLS, table_bytes, tracing=True)
        calls = (head + body for head in call_heads(blocks, len(body)))
        write_requests(folder / f"transport_{table_bytes}", [OPENING + SETTINGS_ACK, *calls])


def _token(key: Ed25519PrivateKey, subject: str) -> str:
    """Return a token whose bytes are always the same: Ed25519 signs without randomness."""
    issued = int(WALL_SECONDS)
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": issued, "exp": issued + 3600}
    claims |= {"scope": "orders:read orders:write", "tenant": "acme"}
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": "bench"})


def count(tree: Path, folder: Path) -> dict[str, int]:
    """Return the instructions a call of the packages in `tree`; `log_entry` is a message's, divided."""
    with tempfile.TemporaryDirectory() as name:
        dumps = Path(name)
        with _target(tree, folder, dumps) as process:
            found = {what: _instructions(process, dumps, what) for what in WHAT}
    found["log_entry"] = found.pop("log_message") // ENTRIES
    return found


@contextmanager
def _target(tree: Path, folder: Path, dumps: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [
        "valgrind",
        "--tool=callgrind",
        "--instr-atstart=no",
        f"--callgrind-out-file={dumps}/out",
        f"--log-file={dumps}/log",
        *(sys.executable, str(TARGET), str(folder)),
    ]
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(tree),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        try:
            _expect(process, "ready", dumps)
            _control(process.pid, "-i", "on")
            yield process
        finally:
            process.kill()


def _instructions(process: "subprocess.Popen[str]", dumps: Path, what: str) -> int:
    """Return the instructions of one call."""
    short, long = (number // _CALLS_OF.get(what, 1) for number in (SHORT, LONG))
    _counted(process, dumps, what, short)  # fills the caches of the interpreter
    return (_counted(process, dumps, what, long) - _counted(process, dumps, what, short)) // (long - short)


def _counted(process: "subprocess.Popen[str]", dumps: Path, what: str, calls: int) -> int:
    assert process.stdin is not None  # noqa: S101  # asked for with PIPE
    _control(process.pid, "-z")
    process.stdin.write(f"{what} {calls}\n")
    process.stdin.flush()
    _expect(process, "done", dumps)
    _control(process.pid, "-d")
    newest = max(dumps.glob("out.*"), key=lambda file: int(file.suffix[1:]))
    totals = _TOTAL.findall(newest.read_text())
    for file in dumps.glob("out.*"):
        if file != newest:
            file.unlink()
    return int(totals[-1])


def _expect(process: "subprocess.Popen[str]", word: str, dumps: Path) -> None:
    assert process.stdout is not None  # noqa: S101  # asked for with PIPE
    if process.stdout.readline().strip() != word:
        log = dumps / "log"
        shown = log.read_text()[-2000:] if log.exists() else ""
        raise LoadError(f"the process under callgrind ended; its error is above\n{shown}")


def _control(pid: int, *options: str) -> None:
    subprocess.run(["callgrind_control", *options, str(pid)], check=True, capture_output=True)


def _stored() -> dict[str, int]:
    return dict(baseline_commit().instructions.get(interpreter(), {}))


@contextmanager
def _checked_out(say: Say) -> Iterator[Path | None]:
    """Yield the tree of the baseline's commit; None if git has not got it."""
    commit = baseline_commit().commit
    packages = ("accesslog", "authz", "common", "protos", "ratelimit", "sidecars")
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, *packages], check=False, capture_output=True
    )
    if archive.returncode:
        say(f"git has not got the baseline {commit[:12]}: the stored figures of {interpreter()} are used")
        yield None
        return
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(["tar", "-x", "-C", name], input=archive.stdout, check=True)
        yield Path(name)
