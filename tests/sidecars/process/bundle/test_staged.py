"""A staged roll-out over two real edges: waves, a rollback within one poll, and files that are refused."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from edge.bundle.bundle import read_bundle
from edge.release import steps
from edge.release.choose import position
from edge.release.model import Release, Target, Wave
from edge.release.signed import sign_release
from tests.support.asking_allowed import is_allowed
from tests.support.bundle_server import BundleServer
from tests.support.bundles import POLICY, Signer
from tests.support.running import SIDECARS, Running

FILE = "/edge/release.json"
WAVES = (Wave(name="canary", percent=50), Wave(name="all", percent=100))
CANARY = next(f"edge-{number}" for number in range(100) if position(f"edge-{number}") < 50)
OTHER = next(f"edge-{number}" for number in range(100) if position(f"edge-{number}") >= 50)


class Fleet:
    """Two edges, the server of their release file, and who signs it."""

    def __init__(self, server: BundleServer, signer: Signer, edges: dict[str, Running]) -> None:
        self.server, self.signer, self.edges = server, signer, edges

    def publish(self, release: Release) -> None:
        self.server.put(FILE, sign_release(release, self.signer.key, issued_at=1))

    def wait(self, **revisions: str) -> None:
        for name, revision in revisions.items():
            wait_for(self.edges[{"canary": CANARY, "other": OTHER}[name]], "revision", revision)

    def wait_for_release(self, release: Release) -> None:
        for edge in self.edges.values():
            wait_for(edge, "release", release.sequence)


def wait_for(edge: Running, key: str, value: object) -> None:
    edge.wait_until(lambda: edge.config()["bundle"][key] == value)


def put(server: BundleServer, signer: Signer, number: int, policy: bytes = POLICY) -> Target:
    content = {"policy/edge.yaml": policy.replace(b"name: all", f"name: all-{number}".encode())}
    # Its signature has expired: the release vouches for it.
    archive = signer.archive(content, f"r{number}", number, issued_at=1, expires_at=2)
    server.put(f"/edge/r{number}.tar.gz", archive)
    return Target(revision=f"r{number}", digest=read_bundle(archive).digest, url=f"r{number}.tar.gz")


def settings(folder: Path, server: BundleServer, signer: Signer, node: str) -> dict[str, Any]:
    return {
        "bundle": {
            "url": f"{server.url}{FILE}",
            "staged": True,
            "allow_http": True,
            "allow_addresses": ["127.0.0.0/8"],
            "folder": "state",
            "keys": {"release": str(signer.public)},
            "interval_seconds": 0.1,
            "node": {"id": node},
        },
        "authz": {"listen": [f"unix:{folder}/a"], "policy": ["{bundle}/policy"]},
    }


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    signer = Signer(tmp_path)
    with BundleServer() as server, ExitStack() as stack:
        first = steps.start(None, put(server, signer, 1))
        server.put(FILE, sign_release(first, signer.key, issued_at=1))
        edges = {}
        for node in (CANARY, OTHER):
            folder = tmp_path / node
            folder.mkdir()
            given = settings(folder, server, signer, node)
            edges[node] = stack.enter_context(Running(folder, given, program=SIDECARS))
        for edge in edges.values():
            edge.wait_until_ready()
        yield Fleet(server, signer, edges)


def test_waves_change_in_their_order_and_go_back_at_once(fleet: Fleet) -> None:
    old = steps.start(None, put(fleet.server, fleet.signer, 1))
    release = steps.start(old, put(fleet.server, fleet.signer, 2), WAVES)
    fleet.publish(release)
    fleet.wait_for_release(release)
    fleet.wait(canary="r1", other="r1")
    canary = steps.promote(release)
    fleet.publish(canary)
    fleet.wait_for_release(canary)
    fleet.wait(canary="r2", other="r1")
    everywhere = steps.promote(canary)
    fleet.publish(everywhere)
    fleet.wait(canary="r2", other="r2")
    for number in (1, 2):
        del fleet.server.files[f"/edge/r{number}.tar.gz"]  # going back needs nothing but the release file
    fleet.publish(steps.rollback(everywhere))
    fleet.wait(canary="r1", other="r1")
    edge = fleet.edges[CANARY]
    fleet.publish(everywhere)  # replayed
    edge.wait_until(lambda: edge.metric('sidecars_bundle_pulls_total{outcome="older"}'))
    assert edge.config()["bundle"]["revision"] == "r1"


def test_the_next_revision_is_judged_in_the_shadow_before_it_decides(fleet: Fleet) -> None:
    old = steps.start(None, put(fleet.server, fleet.signer, 1))
    denies = b"rules:\n- {name: closed, paths: [/], deny: anyone}\n"
    release = steps.start(old, put(fleet.server, fleet.signer, 2, denies), WAVES)
    fleet.publish(release)
    fleet.wait_for_release(release)
    edge = fleet.edges[OTHER]
    wait_for(edge, "candidate", release.current.digest)
    assert is_allowed(edge.folder)
    difference = 'authz_candidate_differences_total{outcome="deny",rule="closed",was="allow"}'
    assert edge.metric(difference) == 1
    everywhere = steps.promote(release, to_all=True)
    fleet.publish(everywhere)
    fleet.wait(canary="r2", other="r2")
    assert not is_allowed(edge.folder)
    wait_for(edge, "candidate", None)
    assert edge.metric(difference) == 1


def test_what_the_release_does_not_name_exactly_is_refused(fleet: Fleet) -> None:
    old = steps.start(None, put(fleet.server, fleet.signer, 1))
    target = put(fleet.server, fleet.signer, 2)
    edge = fleet.edges[CANARY]
    fleet.publish(steps.start(old, target.model_copy(update={"digest": "0" * 64})))
    edge.wait_until(lambda: edge.metric('sidecars_bundle_pulls_total{outcome="bad_signature"}'))
    fleet.publish(steps.start(old, target.model_copy(update={"url": "none.tar.gz"})))
    edge.wait_until(lambda: edge.metric('sidecars_bundle_pulls_total{outcome="unreachable"}'))
    fleet.server.put(FILE, b"{}")
    edge.wait_until(lambda: edge.metric('sidecars_bundle_pulls_total{outcome="unreadable"}'))
    assert edge.config()["bundle"]["revision"] == "r1"
    fleet.publish(steps.start(old, target))
    fleet.wait(canary="r2", other="r2")


def test_a_release_file_that_ends_or_has_a_twin_is_refused_and_serves_on(fleet: Fleet) -> None:
    release = steps.start(
        steps.start(None, put(fleet.server, fleet.signer, 1)), put(fleet.server, fleet.signer, 2)
    )
    fleet.publish(release)
    fleet.wait(canary="r2", other="r2")
    edge = fleet.edges[CANARY]
    twin = release.model_copy(update={"current": release.previous, "previous": None})
    fleet.publish(twin)
    edge.wait_until(lambda: edge.metric('sidecars_bundle_pulls_total{outcome="older"}'))
    fleet.server.put(
        FILE, sign_release(release, fleet.signer.key, issued_at=2, expires_at=int(time.time()) + 2)
    )
    edge.wait_until(lambda: edge.metric('sidecars_bundle_pulls_total{outcome="expired"}'))
    assert edge.config()["bundle"]["revision"] == "r2"
    assert edge.metric("sidecars_bundle_failing") == 1
    expired = 'sidecars_bundle_pulls_total{outcome="expired"}'
    before = edge.metric(expired) or 0
    fleet.publish(release)  # replayed: an earlier signature, without an end
    edge.wait_until(lambda: (edge.metric(expired) or 0) > before + 2)
    assert edge.metric("sidecars_bundle_failing") == 1
    fleet.server.put(FILE, sign_release(release, fleet.signer.key, issued_at=3))
    edge.wait_until(lambda: edge.metric("sidecars_bundle_failing") == 0)


def test_a_damaged_archive_on_the_disk_is_fetched_again(fleet: Fleet) -> None:
    old = steps.start(None, put(fleet.server, fleet.signer, 1))
    target = put(fleet.server, fleet.signer, 2)
    (fleet.edges[OTHER].folder / f"state/all-0/{target.digest}.tar.gz").write_bytes(b"damaged")
    fleet.publish(steps.start(old, target))
    fleet.wait(canary="r2", other="r2")
