"""Real processes pull from a real server: what is good and newer serves, nothing else."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.bundle.bundle import read_bundle
from sidecars.process.bundle.store import Accepted, BundleStore
from tests.support.asking_allowed import is_allowed
from tests.support.bundle_server import BundleServer
from tests.support.bundles import LIMITS, NOW, POLICY, Signer, unsigned_archive
from tests.support.running import SIDECARS, Running

DENIES = b"rules:\n- {name: none, paths: [/], deny: anyone}\n"
BROKEN = b"rules: 7\n"
BIN = "/edge.tar.gz"

REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("older", {"sequence": 0}),
    ("older", {"sequence": 1}),
    ("expired", {"sequence": 2, "expires_at": 2}),
    ("expired", {"sequence": 2, "issued_at": NOW * 2}),
    ("bad_signature", {"sequence": 2, "scope": "other"}),
    ("refused", {"sequence": 2, "policy": BROKEN}),
    ("refused", {"sequence": 2, "limits": BROKEN}),
]


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path)


@pytest.fixture
def server(signer: Signer) -> Iterator[BundleServer]:
    with BundleServer() as server:
        server.put(BIN, signer.archive(issued_at=1))
        yield server


def settings(folder: Path, server: BundleServer, signer: Signer, **bundle: Any) -> dict[str, Any]:
    reached = {"allow_http": True, "allow_addresses": ["127.0.0.0/8"]}
    common = {
        **reached,
        "url": f"{server.url}{BIN}?X-Amz-Signature=secret",
        "folder": "state",
        "keys": {"release": signer.public.name},
        "interval_seconds": 0.1,
        "status": {**reached, "url": f"{server.url}/status", "interval_seconds": 1},
        "node": {"id": "edge-1", "metadata": {"region": "eu"}},
    }
    return {
        "bundle": {**common, **bundle},
        "authz": {"listen": [f"unix:{folder}/a"], "policy": ["{bundle}/policy"]},
        "ratelimit": {"listen": [f"unix:{folder}/r"], "limits": ["{bundle}/limits"]},
    }


@pytest.fixture
def running(tmp_path: Path, server: BundleServer, signer: Signer) -> Iterator[Running]:
    with Running(tmp_path, settings(tmp_path, server, signer), program=SIDECARS) as process:
        yield process.wait_until_ready()


def pulls(running: Running, outcome: str) -> float:
    return running.metric(f'sidecars_bundle_pulls_total{{outcome="{outcome}"}}') or 0


def wait_for_pulls(running: Running, outcome: str, count: float) -> None:
    running.wait_until(lambda: pulls(running, outcome) >= count)


def wait_for_sample(running: Running, sample: str) -> None:
    running.wait_until(lambda: running.metric(sample))


def content(policy: bytes = DENIES, limits: bytes = LIMITS) -> dict[str, bytes]:
    return {"policy/edge.yaml": policy, "limits/edge.yaml": limits}


def test_a_change_arrives_and_is_reported(
    running: Running, server: BundleServer, signer: Signer, tmp_path: Path
) -> None:
    assert is_allowed(tmp_path)
    limits = b"domain: edge\ndescriptors:\n- key: a\n  rate_limit: {unit: second, requests_per_unit: 1}\n"
    server.put(BIN, signer.archive(content(limits=limits), "r2", 2, issued_at=1))
    wait_for_pulls(running, "activated", 1)
    assert running.metric('sidecars_bundle_revision_info{revision="r2"}') == 1
    assert not is_allowed(tmp_path)
    config = running.config()
    assert config["sidecars"]["ratelimit"]["state"]["rules"] == 1
    assert config["bundle"]["revision"] == "r2"
    assert config["bundle"]["pulls"][0]["outcome"] == "activated"
    assert "secret" not in json.dumps(config)
    running.wait_until(lambda: any(b'"revision":"r2"' in body for body in server.posted))
    reported = json.loads(server.posted[-1])
    assert (reported["node"], reported["metadata"]) == ("edge-1", {"region": "eu"})
    assert reported["last_pull"]["revision"] == "r2"
    # Counts are those since the revision serves: one of the two decisions of this test.
    running.wait_until(lambda: json.loads(server.posted[-1])["counts"]["denied"] == 1)
    assert json.loads(server.posted[-1])["counts"]["decisions"] == 1


def test_a_bundle_that_may_not_serve_changes_nothing(
    running: Running, server: BundleServer, signer: Signer, tmp_path: Path
) -> None:
    for outcome, changes in REFUSED:
        before = pulls(running, outcome)
        given: dict[str, Any] = {"issued_at": 1, "policy": DENIES, "limits": LIMITS} | changes
        files = content(given.pop("policy"), given.pop("limits"))
        server.put(BIN, signer.archive(files, "r2", **given))
        wait_for_pulls(running, outcome, before + 2)
        assert is_allowed(tmp_path)
        state = running.config()
        assert state["bundle"]["revision"] == "r1"
        assert state["bundle"]["last_pull"]["problems"]
        assert state["sidecars"]["authz"]["last_reload"] is None  # neither of the two is ahead of the other
        assert state["sidecars"]["ratelimit"]["last_reload"] is None
        assert running.metric("sidecars_bundle_failing") == 1
    server.put(BIN, signer.archive(content(), "r3", 3, issued_at=1))
    running.wait_until(lambda: running.metric("sidecars_bundle_failing") == 0)
    assert not is_allowed(tmp_path)


def test_another_answer_changes_nothing(running: Running, server: BundleServer, tmp_path: Path) -> None:
    answers = {"unreadable": b"<html>", "unsigned": unsigned_archive(), "unreachable": bytes(17 << 20)}
    for outcome, answer in answers.items():
        server.put(BIN, answer)
        wait_for_pulls(running, outcome, 2)
        assert is_allowed(tmp_path)
        assert running.config()["bundle"]["revision"] == "r1"


def test_while_the_server_is_away_the_last_good_bundle_serves_over_a_restart(
    tmp_path: Path, server: BundleServer, signer: Signer
) -> None:
    given = settings(tmp_path, server, signer)
    with Running(tmp_path, given, program=SIDECARS) as running:
        running.wait_until_ready()
        server.put(BIN, signer.archive(content(), "r2", 2, issued_at=1))
        running.wait_until(lambda: not is_allowed(tmp_path))
        server.stop()
        running.wait_until(lambda: pulls(running, "unreachable") >= 2)
        assert not is_allowed(tmp_path)
        running.signal(signal.SIGTERM)
        assert running.wait_for_exit() == 0
    (tmp_path / "admin.port").unlink()
    with Running(tmp_path, given, program=SIDECARS) as running:
        running.wait_until_ready()
        assert not is_allowed(tmp_path)
        server.start()
        server.put(BIN, signer.archive(revision="r1", sequence=1, issued_at=1))
        running.wait_until(lambda: pulls(running, "older"))
        server.put(BIN, signer.archive(revision="r3", sequence=3, issued_at=1))
        running.wait_until(lambda: is_allowed(tmp_path))


def test_a_server_that_holds_back_what_is_newer_is_noticed_once_what_serves_expires(
    tmp_path: Path, signer: Signer
) -> None:
    with BundleServer() as server:
        server.put(BIN, signer.archive(issued_at=1, expires_at=int(time.time()) + 4))
        with Running(tmp_path, settings(tmp_path, server, signer), program=SIDECARS) as running:
            running.wait_until_ready()
            wait_for_pulls(running, "expired", 1)
            assert running.metric("sidecars_bundle_failing") == 1
            assert is_allowed(tmp_path)


def test_a_held_request_brings_a_change_at_once(tmp_path: Path, signer: Signer) -> None:
    with BundleServer(long_poll=True) as server:
        server.put(BIN, signer.archive(issued_at=1))
        held = {"interval_seconds": 3600, "long_poll_seconds": 60}
        with Running(tmp_path, settings(tmp_path, server, signer, **held), program=SIDECARS) as running:
            running.wait_until_ready()
            running.wait_until(lambda: "modes=snapshot;wait=60" in server.asked[-1]["prefer"])
            server.put(BIN, signer.archive(content(), "r2", 2, issued_at=1))
            running.wait_until(lambda: not is_allowed(tmp_path))


def test_each_worker_keeps_a_bundle_of_its_own(tmp_path: Path, server: BundleServer, signer: Signer) -> None:
    given = settings(tmp_path, server, signer)
    given["authz"]["listen"] = [f"unix:{tmp_path}/a.{{worker}}"]
    del given["ratelimit"]
    with Running(tmp_path, {**given, "workers": 2}, program=SIDECARS) as running:
        running.wait_until_ready()
        server.put(BIN, signer.archive(content(), "r2", 2, issued_at=1))
        for worker in (0, 1):
            wait_for_sample(running, f'sidecars_bundle_revision_info{{revision="r2",worker="{worker}"}}')
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["all-0", "all-1"]


def test_a_bundle_that_is_signed_again_replaces_its_signature_and_no_other_content_does(
    tmp_path: Path, server: BundleServer, signer: Signer
) -> None:
    """After a change of keys: the sequence is that of the bundle in service."""
    new = Signer(tmp_path, key_id="new", number=1)
    keys = {"release": signer.public.name, "new": new.public.name}
    with Running(tmp_path, settings(tmp_path, server, signer, keys=keys), program=SIDECARS) as running:
        running.wait_until_ready()
        again = new.archive(issued_at=2)
        server.put(BIN, again)
        wait_for_pulls(running, "activated", 1)
        assert running.config()["bundle"]["digest"] == read_bundle(again).digest
        server.put(BIN, signer.archive(issued_at=1))  # another server that has the old signature yet
        wait_for_pulls(running, "unchanged", pulls(running, "unchanged") + 2)
        assert pulls(running, "activated") == 1
        for signing in (signer, new):
            server.put(BIN, signing.archive(content(), "r1", 1, issued_at=3))
            wait_for_pulls(running, "older", pulls(running, "older") + 1)
        assert is_allowed(tmp_path)
        running.signal(signal.SIGTERM)
        assert running.wait_for_exit() == 0
    server.stop()
    (tmp_path / "admin.port").unlink()
    given = settings(tmp_path, server, signer, keys={"new": new.public.name})
    with Running(tmp_path, given, program=SIDECARS) as running:
        running.wait_until_ready()
        assert is_allowed(tmp_path)


class TestStart:
    def test_it_waits_for_the_first_bundle(
        self, tmp_path: Path, server: BundleServer, signer: Signer
    ) -> None:
        server.status = 503
        with Running(tmp_path, settings(tmp_path, server, signer), program=SIDECARS) as running:
            running.wait_until(lambda: "waiting for the first bundle" in running.stderr)
            server.status = None
            running.wait_until_ready()
            assert is_allowed(tmp_path)

    def test_without_a_bundle_it_ends_and_says_where_the_setting_is(
        self, tmp_path: Path, server: BundleServer, signer: Signer
    ) -> None:
        server.status = 404
        given = settings(tmp_path, server, signer, start_seconds=0)
        with Running(tmp_path, given, program=SIDECARS) as running:
            assert running.wait_for_exit() == 2
        assert "bundle.url: no bundle to start with: HTTP status 404, not 200" in running.stderr

    def test_a_kept_bundle_that_cannot_be_used_is_replaced_by_a_newer_one(
        self, tmp_path: Path, server: BundleServer, signer: Signer
    ) -> None:
        # As after an update of the sidecars that no longer accepts what the one before accepted.
        kept = signer.archive(content(BROKEN), "r1", 1, issued_at=1)
        bundle = read_bundle(kept)
        store = BundleStore(tmp_path / "state" / "all-0")
        store.put(bundle, kept)
        store.accept(Accepted(bundle.digest, "r1", 1, "", 1.0))
        given = settings(tmp_path, server, signer)
        server.put(BIN, signer.archive(content(POLICY), "r0", 0, issued_at=1))
        with Running(tmp_path, given, program=SIDECARS) as running:
            assert running.wait_for_exit() == 2  # an older one does not help
        server.put(BIN, signer.archive(content(POLICY), "r2", 2, issued_at=1))
        with Running(tmp_path, given, program=SIDECARS) as running:
            running.wait_until_ready()
            assert running.config()["bundle"]["revision"] == "r2"

    @pytest.mark.parametrize("damage", [b"damaged", None])
    def test_a_kept_bundle_that_cannot_be_read_is_fetched_again_and_no_older_one(
        self, tmp_path: Path, server: BundleServer, signer: Signer, damage: bytes | None
    ) -> None:
        kept = signer.archive(content(POLICY), "r2", 2, issued_at=1)
        bundle = read_bundle(kept)
        store = BundleStore(tmp_path / "state" / "all-0")
        store.put(bundle, kept)
        store.accept(Accepted(bundle.digest, "r2", 2, "", 1.0))
        archive = store.serving.with_name(f"{bundle.digest}.tar.gz")
        archive.unlink() if damage is None else archive.write_bytes(damage)
        server.put(BIN, signer.archive(content(POLICY), "r1", 1, issued_at=1))
        with Running(
            tmp_path, settings(tmp_path, server, signer, start_seconds=0), program=SIDECARS
        ) as running:
            assert running.wait_for_exit() == 2
        assert "its sequence 1 is lower than 2 of revision r2" in running.stderr
        server.put(BIN, kept)
        with Running(tmp_path, settings(tmp_path, server, signer), program=SIDECARS) as running:
            running.wait_until_ready()
            assert running.config()["bundle"]["revision"] == "r2"

    def test_two_processes_do_not_share_a_folder(
        self, running: Running, tmp_path: Path, server: BundleServer, signer: Signer
    ) -> None:
        folder = tmp_path / "other"
        folder.mkdir()
        given = settings(folder, server, signer, keys={"release": str(signer.public)})
        given["bundle"]["folder"] = str(tmp_path / "state")
        with Running(folder, given, program=SIDECARS) as other:
            assert other.wait_for_exit() == 2
        assert "all-0 is in use by another process" in other.stderr
        assert is_allowed(tmp_path)

    def test_a_first_bundle_that_no_sidecar_can_use_is_not_kept(
        self, tmp_path: Path, server: BundleServer, signer: Signer
    ) -> None:
        server.put(BIN, signer.archive(content(BROKEN), issued_at=1))
        given = settings(tmp_path, server, signer)
        with Running(tmp_path, given, program=SIDECARS) as running:
            assert running.wait_for_exit() == 2
        server.put(BIN, signer.archive({**content(POLICY)}, issued_at=1))
        with Running(tmp_path, given, program=SIDECARS) as running:
            running.wait_until_ready()
