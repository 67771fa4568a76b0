"""Releases: each edge decides alone and alike, steps go in order, and the file is what was signed."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.bundle.errors import BundleError, Fault
from edge.release import steps
from edge.release.audit import FIRST, AuditError, Entry, entries, unreleased
from edge.release.choose import is_in, position, target_of
from edge.release.model import Release, ReleaseError, Target, Wave, parse_wave
from edge.release.signed import MAX_BYTES, read_release, sign_release, verify_release
from tests.support.bundles import NOW, Signer

OLD = Target(revision="r1", digest="0" * 64, url="r1.tar.gz")
NEW = Target(revision="r2", digest="1" * 64, url="r2.tar.gz")
WAVES = (
    Wave(name="eu", percent=50, match={"region": "eu"}),
    Wave(name="half", percent=50),
    Wave(name="all", percent=100),
)
NODES = [f"edge-{number}" for number in range(1000)]


def begun() -> Release:
    return steps.start(steps.start(None, OLD), NEW, WAVES)


def serving(release: Release, region: str) -> float:
    """Return the share of the nodes that serve the new revision."""
    return sum(target_of(release, node, {"region": region}) is release.current for node in NODES) / len(NODES)


class TestChoice:
    def test_nodes_are_spread_evenly_and_the_same_each_time(self) -> None:
        places = sorted(map(position, NODES))
        assert all(abs(place - number / 10) < 5 for number, place in enumerate(places))
        assert position("edge-17") == 6.418732255500598

    @given(st.text(), st.floats(0, 100), st.floats(0, 100))
    def test_a_node_of_a_small_share_is_one_of_every_larger_share(
        self, node: str, one: float, other: float
    ) -> None:
        small, large = sorted((one, other))
        assert not is_in(Wave(name="a", percent=small), node, {}) or is_in(
            Wave(name="b", percent=large), node, {}
        )
        assert is_in(Wave(name="all", percent=100), node, {})

    def test_each_wave_adds_its_edges(self) -> None:
        release = begun()
        shares = [(serving(release, "eu"), serving(release, "us"))]
        for _ in WAVES:
            release = steps.promote(release)
            shares.append((serving(release, "eu"), serving(release, "us")))
        half = shares[1][0]
        assert half == pytest.approx(0.5, abs=0.05)
        assert shares == [(0, 0), (half, 0), (half, half), (1, 1)]

    def test_without_waves_every_edge_changes_at_once(self) -> None:
        release = steps.start(steps.start(None, OLD), NEW)
        assert (serving(release, "eu"), release.complete) == (1, True)


class TestSteps:
    def test_a_roll_out_ends_before_the_next_one_begins(self) -> None:
        with pytest.raises(ReleaseError, match="the roll-out of r2 is under way"):
            steps.start(begun(), Target(revision="r3", digest="2" * 64, url="r3"))
        release = steps.promote(begun(), to_all=True)
        assert steps.start(release, OLD).previous == NEW
        with pytest.raises(ReleaseError, match="already"):
            steps.promote(release)
        with pytest.raises(ReleaseError, match="r2 serves already"):
            steps.start(release, NEW)

    def test_a_held_roll_out_goes_on_only_once_it_is_resumed(self) -> None:
        held = steps.hold(steps.promote(begun()), "denials rise")
        assert held.active == 1
        with pytest.raises(ReleaseError, match="it is held: denials rise"):
            steps.promote(held)
        assert steps.promote(steps.resume(held)).active == 2

    def test_a_rollback_brings_the_previous_revision_everywhere(self) -> None:
        back = steps.rollback(steps.promote(begun(), to_all=True))
        assert (back.current, back.previous, back.complete) == (OLD, None, True)
        with pytest.raises(ReleaseError, match="no previous revision"):
            steps.rollback(back)

    def test_every_step_has_a_higher_sequence(self) -> None:
        release = begun()
        for change in (steps.promote, lambda one: steps.hold(one, "why"), steps.rollback):
            assert change(release).sequence > release.sequence


class TestFile:
    def test_the_release_is_what_was_signed(self, tmp_path: Path) -> None:
        signer = Signer(tmp_path)
        document = sign_release(begun(), signer.key, issued_at=NOW)
        assert verify_release(document, signer.keys, NOW) == begun() == read_release(document)
        assert verify_release(json.dumps(json.loads(document)).encode(), signer.keys, NOW) == begun()

    def test_a_changed_file_is_refused(self, tmp_path: Path) -> None:
        signer = Signer(tmp_path)
        document = sign_release(begun(), signer.key, issued_at=NOW, expires_at=NOW + 1)
        content = json.loads(document)
        content["release"]["active"] = 3
        changed = json.dumps(content).encode()
        other = sign_release(begun(), Signer(tmp_path, "ES256").key, issued_at=NOW)
        refused = {changed: Fault.BAD_SIGNATURE, other: Fault.BAD_SIGNATURE, b"{}": Fault.UNREADABLE}
        refused |= {b"x": Fault.UNREADABLE, bytes(MAX_BYTES + 1): Fault.TOO_LARGE}
        for file, fault in refused.items():
            with pytest.raises(BundleError) as caught:
                verify_release(file, signer.keys, NOW)
            assert caught.value.fault is fault
        with pytest.raises(BundleError, match="expired"):
            verify_release(document, signer.keys, NOW + 100)

    @pytest.mark.parametrize("url", ["https://b.example/x", "//b.example/x", "/x", "", "a b", "?x"])
    def test_it_does_not_lead_to_another_server(self, url: str) -> None:
        with pytest.raises(ValueError, match="url"):
            Target(revision="r", digest="0" * 64, url=url)


@pytest.mark.parametrize(
    ("text", "wave"),
    [
        ("canary:5%", Wave(name="canary", percent=5)),
        ("eu:0.5%,region=eu,tier=gold", Wave(name="eu", percent=0.5, match={"region": "eu", "tier": "gold"})),
        ("canary", None),
        ("a:101%", None),
        ("a:5%,region", None),
    ],
)
def test_waves_on_the_command_line(text: str, wave: Wave | None) -> None:
    if wave is not None:
        assert parse_wave(text) == wave
        return
    with pytest.raises(ReleaseError, match="expected NAME:PERCENT%"):
        parse_wave(text)


class TestAudit:
    def chain(self, length: int = 3) -> list[str]:
        lines, before = [], FIRST
        for number in range(length):
            entry = Entry("2026-01-01T00:00:00+00:00", "ann", "promote", number, "r2", number, 3, "é", before)
            lines.append(entry.line())
            before = entry.hash
        return lines

    def test_a_chain_holds_and_each_change_breaks_it(self) -> None:
        lines = self.chain()
        assert [entry.sequence for entry in entries(lines)] == [0, 1, 2]
        for changed, why in (
            ([lines[0], lines[1].replace("ann", "bob"), lines[2]], "line 2 was changed"),
            ([lines[0], lines[2]], "line 2 does not follow"),
            ([lines[1], lines[2]], "line 1 does not follow"),
            ([lines[0], "{}"], "line 2 is not an entry"),
            ([lines[0], "7"], "line 2 is not an entry"),
        ):
            with pytest.raises(AuditError, match=why):
                list(entries(changed))

    def test_the_release_file_shows_that_the_end_is_missing(self) -> None:
        log = list(entries(self.chain()))
        assert unreleased(log, log[2].hash) == 0
        assert unreleased(log, log[1].hash) == 1
        with pytest.raises(AuditError, match="cut short"):
            unreleased(log[:2], log[2].hash)
