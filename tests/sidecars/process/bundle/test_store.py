"""What is kept on disk survives, and is trusted no more than what a server sends."""

import json
from pathlib import Path

import pytest

from edge.bundle.archive import Bounds
from edge.bundle.bundle import Trust, read_bundle
from edge.bundle.errors import BundleError, Fault
from sidecars.process.bundle.store import Accepted, BundleStore
from tests.support.bundles import POLICY, Signer


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    return BundleStore(tmp_path / "state" / "all-0")


def accept(store: BundleStore, archive: bytes) -> Accepted:
    bundle = read_bundle(archive)
    store.put(bundle, archive)
    store.switch(bundle.digest)
    accepted = Accepted(bundle.digest, bundle.manifest.revision, 1, '"tag"', 5.0)
    store.accept(accepted)
    return accepted


def test_a_bundle_that_expired_since_serves_after_a_restart(store: BundleStore, signer: Signer) -> None:
    accepted = accept(store, signer.archive(expires_at=1))
    assert BundleStore(store.serving.parent).restore(Trust(signer.keys), Bounds()) == accepted
    assert (store.serving / "policy/edge.yaml").read_bytes() == POLICY


def test_the_files_are_written_again_from_the_archive(store: BundleStore, signer: Signer) -> None:
    accept(store, signer.archive())
    (store.serving / "policy/edge.yaml").write_bytes(b"rules: []\n")
    (store.serving / "policy/more.yaml").write_bytes(b"rules: []\n")
    store.restore(Trust(signer.keys), Bounds())
    assert [path.name for path in (store.serving / "policy").iterdir()] == ["edge.yaml"]
    assert (store.serving / "policy/edge.yaml").read_bytes() == POLICY


def test_a_link_to_a_bundle_that_was_not_accepted_is_put_right(store: BundleStore, signer: Signer) -> None:
    accepted = accept(store, signer.archive())
    other = signer.archive(revision="r2", sequence=2)
    store.put(read_bundle(other), other)
    store.switch(read_bundle(other).digest)  # and the process ends here
    store.restore(Trust(signer.keys), Bounds())
    assert store.serving.resolve().name == accepted.digest


def test_only_the_accepted_bundle_is_kept(store: BundleStore, signer: Signer) -> None:
    accept(store, signer.archive())
    accepted = accept(store, signer.archive(revision="r2", sequence=2))
    names = {path.name for path in store.serving.parent.iterdir()}
    assert names == {"accepted.json", "serving", accepted.digest, f"{accepted.digest}.tar.gz"}


def test_a_changed_archive_is_refused(store: BundleStore, signer: Signer, tmp_path: Path) -> None:
    accepted = accept(store, signer.archive())
    archive = store.serving.parent / f"{accepted.digest}.tar.gz"
    archive.write_bytes(signer.archive(revision="r2", sequence=2))
    with pytest.raises(BundleError, match="not the one that was accepted"):
        store.restore(Trust(signer.keys), Bounds())
    other = Signer(tmp_path, "ES256")
    accept(store, other.archive())
    with pytest.raises(BundleError) as caught:
        store.restore(Trust(signer.keys), Bounds())
    assert caught.value.fault is Fault.BAD_SIGNATURE


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", json.dumps({"digest": "x"}).encode()])
def test_a_damaged_record_is_told_from_none(store: BundleStore, signer: Signer, content: bytes) -> None:
    assert store.restore(Trust(signer.keys), Bounds()) is None
    accept(store, signer.archive())
    (store.serving.parent / "accepted.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"accepted\.json is damaged"):
        store.restore(Trust(signer.keys), Bounds())
