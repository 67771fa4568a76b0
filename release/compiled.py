"""Makes a wheel whose hottest modules are compiled to C by mypyc: `python -m release.compiled --into dist`.

The wheel has the same version and the same files as the pure one, and an extension module next to each module
of `MODULES`. An interpreter that cannot load the extension modules reads the Python files. See
docs/compiled.md.
"""

import argparse
import base64
import csv
import hashlib
import io
import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from shutil import which
from typing import Final

from release.artefacts import BuildError
from release.dependencies import ROOT

MODULES: Final = (
    # The protocol: frames, header blocks, replies.
    "sidecars/transport/http2/connection.py",
    "sidecars/transport/http2/header_decoder.py",
    "sidecars/transport/http2/header_template.py",
    "sidecars/transport/http2/huffman.py",
    "sidecars/transport/http2/responses.py",
    "sidecars/transport/http2/send_queue.py",
    "sidecars/transport/http2/stream.py",
    "sidecars/transport/http2/streams.py",
    # A check, from the message to the record of the decision.
    "authz/credentials/authenticator.py",
    "authz/credentials/core/find.py",
    "authz/credentials/jwt/token.py",
    "authz/credentials/jwt/verifier.py",
    "authz/engine/decide.py",
    "authz/engine/decision_record.py",
    "authz/engine/metrics.py",
    "authz/engine/respond.py",
    "authz/policy/index.py",
    "authz/request/header_names.py",
    "authz/request/path.py",
    "authz/request/request.py",
    "authz/request/unreadable.py",
    "authz/tools/recorded_request.py",
    "authz/wire.py",
    # A rate-limit call.
    "ratelimit/cache.py",
    "ratelimit/decision.py",
    "ratelimit/hot_keys.py",
    "ratelimit/limiter.py",
    "ratelimit/match.py",
    "ratelimit/metadata.py",
    "ratelimit/secret_values.py",
    "ratelimit/shapes.py",
    "ratelimit/stores/memory.py",
    "ratelimit/token_budgets.py",
    "ratelimit/wire.py",
    # What they share.
    "common/buckets.py",
    "common/lru_cache.py",
    "common/redaction/secrets.py",
    "protos/wire.py",
)
"""The modules that a call spends its time in; `python -m bench instructions` measures the result.

A module with a model of pydantic, or with a subclass of `dict`, `str` or `bytes`, cannot be one of them. A
subclass of a compiled class must be compiled, too.
"""

LIBRARY: Final = "edge_sidecars"
"""The extension module that has the code of all of them is called `edge_sidecars__mypyc`."""

_SETUP: Final = """
import sys
from mypyc.build import mypycify
from setuptools import setup
name, configuration, *modules = sys.argv[1:]
extensions = mypycify(
    ["--config-file", configuration, *modules], opt_level="2", debug_level="0", group_name=name
)
setup(name=name, packages=[], ext_modules=extensions, script_args=["--quiet", "build_ext", "--inplace"])
"""


def missing() -> str:
    """Return what the build needs and this machine has not got; empty if it has everything."""
    compiler = str(sysconfig.get_config_var("CC")).split()[0]
    if which(compiler) is None:
        return f"a C compiler, {compiler} (Debian: apt-get install gcc)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "the headers of Python (Debian: apt-get install python3-dev)"
    return ""


def platform_tag() -> str:
    """Return the tag of wheels for this interpreter on this machine, such as cp311-cp311-linux_x86_64.

    It is `linux` and not `manylinux`: nothing here proves that older systems have the same symbols of libc.
    """
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return f"{python}-{python}-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def compile_wheel(pure: Path, folder: Path, work: Path) -> Path:
    """Write the compiled wheel of the wheel `pure` into `folder` and return its path. Raises BuildError.

    `work` is an empty folder for what is unpacked and compiled.
    """
    need = missing()
    if need:
        raise BuildError(f"a compiled wheel needs {need}")
    with zipfile.ZipFile(pure) as archive:
        archive.extractall(work)
        names = archive.namelist()
    command = [sys.executable, "-c", _SETUP, LIBRARY, str(ROOT / "pyproject.toml"), *MODULES]
    # -s: without it the file has the symbols of every function, and is three times as large.
    environment = {**os.environ, "LDFLAGS": "-Wl,-s", "PYTHONPATH": str(work), "MYPYPATH": str(work)}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"mypyc: {(done.stdout + done.stderr).strip()[-4000:]}")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    built = [
        f"{LIBRARY}__mypyc{suffix}",
        *(f"{name.removesuffix('.py')}{suffix}" for name in MODULES),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / pure.name.replace("py3-none-any", platform_tag())
    _pack(work, [*names, *built], target)
    return target


def _pack(work: Path, names: Iterable[str], target: Path) -> None:
    """Write the files as a wheel (PyPA, binary distribution format): WHEEL has its tag, RECORD every file."""
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            if name.endswith(".dist-info/RECORD"):
                record_name = name
                continue
            if name.endswith(".dist-info/WHEEL"):
                (work / name).write_text(_platform_wheel((work / name).read_text()))
            content = (work / name).read_bytes()
            archive.write(work / name, name)  # with its mode: other users read what is unpacked
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.writerow((name, f"sha256={digest}", len(content)))
        rows.writerow((record_name, "", ""))
        (work / record_name).write_text(record.getvalue())
        archive.write(work / record_name, record_name)


def _platform_wheel(about: str) -> str:
    return about.replace("Root-Is-Purelib: true", "Root-Is-Purelib: false").replace(
        "Tag: py3-none-any", f"Tag: {platform_tag()}"
    )


def _pure_wheel(folder: Path) -> Path:
    """Build the pure wheel of this tree as it is. Raises BuildError."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"hatchling: {(done.stderr or done.stdout).strip()}")
    [wheel] = folder.glob("*.whl")
    return wheel


def main(arguments: Sequence[str]) -> int:
    """Build the compiled wheel. Returns the exit code: 3 if this machine lacks what the build needs."""
    parser = argparse.ArgumentParser("python -m release.compiled", description=__doc__)
    parser.add_argument("--wheel", type=Path, help="the pure wheel; default: that of this tree as it is")
    parser.add_argument("--into", type=Path, default=ROOT / "dist", help="the folder; default: dist")
    chosen = parser.parse_args(arguments)
    if need := missing():
        print(f"skipped: a compiled wheel needs {need}", file=sys.stderr)
        return 3
    try:
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            pure = chosen.wheel or _pure_wheel(work / "pure")
            (work / "compiled").mkdir()
            print(compile_wheel(pure, chosen.into.absolute(), work / "compiled"))
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
