import errno
import os
import resource
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accesslog.spool.files import InUseError, SpoolFiles
from accesslog.spool.frames import HEADER_BYTES, DamagedError, Frame, encode, header

SMALL = 200
"""A segment takes a handful of the frames here."""


def frame(number: int, lines: int = 2) -> Frame:
    return Frame("edge", "http", tuple(b"%d-%d\n" % (number, line) for line in range(lines)))


def opened(folder: Path, segment_bytes: int = SMALL) -> SpoolFiles:
    result = SpoolFiles(folder, segment_bytes)
    result.open()
    return result


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spool"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4)),
        st.tuples(st.just("take"), st.integers(1, 150)),
        st.tuples(st.just("reopen"), st.just(0)),
        st.tuples(st.just("tear"), st.integers(1, 40)),
    ),
    max_size=30,
)


@settings(max_examples=100, deadline=None)
@given(steps)
def test_a_spool_is_a_queue_whatever_happens_to_the_process(todo: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spool = opened(folder)
        expected: list[Frame] = []
        number = 0
        for step, amount in todo:
            if step == "append":
                batch = [frame(number + index, index + 1) for index in range(amount)]
                number += amount
                spool.append(batch)
                expected += batch
            elif step == "take":
                taken = spool.read(amount)
                assert taken == expected[: len(taken)]
                assert bool(taken) == bool(expected)
                spool.commit(taken)
                del expected[: len(taken)]
            else:
                spool.close()
                cut = 0
                if step == "tear" and segments(folder):
                    # Killed in the middle of a write, which needs at least 40 bytes more.
                    cut = min(amount, len(encode(frame(number, 5))) - 1)
                    with segments(folder)[-1].open("ab") as file:
                        file.write(encode(frame(number, 5))[:cut])
                spool = SpoolFiles(folder, SMALL)
                found = spool.open()
                assert sum(size for _, size in found.cut) == cut
                assert found.entries.total() == sum(len(one.lines) for one in expected)
            assert spool.size_bytes == sum(path.stat().st_size for path in segments(folder))
            if not expected and step == "take":
                assert not segments(folder)
        spool.close()


def test_a_segment_is_deleted_once_all_of_it_was_delivered(folder: Path) -> None:
    spool = opened(folder)
    for number in range(20):
        spool.append([frame(number)])
    before = len(segments(folder))
    assert before > 2
    while spool.read(1)[0] != frame(15):
        spool.commit(spool.read(1))
    assert 0 < len(segments(folder)) < before


def test_what_was_committed_is_not_read_again_by_the_next_process(folder: Path) -> None:
    spool = opened(folder)
    spool.append([frame(1), frame(2), frame(3)])
    spool.commit([frame(1), frame(2)])
    spool.close()
    after = opened(folder)
    assert after.read(10_000) == [frame(3)]


@pytest.mark.parametrize("cursor", [b"", b"x" * 20, b"\x00" * 200])
def test_a_damaged_cursor_costs_a_repetition_and_no_entry(folder: Path, cursor: bytes) -> None:
    spool = opened(folder)
    spool.append([frame(1), frame(2)])
    spool.commit([frame(1)])
    spool.close()
    (folder / "cursor").write_bytes(cursor)
    assert opened(folder).read(10_000) == [frame(1), frame(2)]


def test_another_process_is_refused(folder: Path) -> None:
    spool = opened(folder)
    with pytest.raises(InUseError):
        opened(folder)
    spool.close()
    opened(folder)


def test_segments_of_another_version_are_named_and_stay_as_they_are(folder: Path) -> None:
    spool = opened(folder)
    spool.append([frame(1)])
    spool.close()
    future, strange = folder / "00000007.spool", folder / "00000009.spool"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("accesslog.spool.frames.VERSION", 2)
        future.write_bytes(header(7) + b"what version 2 means")
    strange.write_bytes(b"not a spool, but of the length of one")
    (folder / "notes.txt").write_text("not a segment")
    before = [path.read_bytes() for path in (future, strange)]
    spool = SpoolFiles(folder, SMALL)
    found = spool.open()
    assert found.left_aside == [
        (future, "it has version 2 of the format, and this program reads 1"),
        (strange, "it does not begin as a segment of a spool"),
    ]
    assert spool.read(10_000) == [frame(1)]
    spool.append([frame(2)])
    assert segments(folder)[-1].name == "00000010.spool"
    spool.commit([frame(1), frame(2)])
    assert [path.read_bytes() for path in segments(folder)] == before


def test_a_segment_that_was_killed_at_its_header_is_removed(folder: Path) -> None:
    folder.mkdir()
    torn = folder / "00000001.spool"
    torn.write_bytes(header(1)[: HEADER_BYTES - 3])
    found = SpoolFiles(folder).open()
    assert found.cut == [(torn, HEADER_BYTES - 3)]
    assert not torn.exists()


class TestDamage:
    def test_of_a_frame_loses_the_rest_of_its_segment_with_its_number(self, folder: Path) -> None:
        spool = opened(folder, 80)
        for number in range(6):
            spool.append([frame(number)])
        first = segments(folder)[0]
        data = bytearray(first.read_bytes())
        data[-1] ^= 1
        first.write_bytes(data)
        kept = spool.read(10_000)
        spool.commit(kept)
        with pytest.raises(DamagedError):
            spool.read(10_000)
        assert spool.drop_damaged() == {("edge", "http"): 2}
        rest = spool.read(10_000)
        assert [*kept, rest[0]] == [frame(number) for number in range(len(kept))] + [frame(len(kept) + 1)]

    def test_by_removal_of_a_file_is_found(self, folder: Path) -> None:
        spool = opened(folder)
        spool.append([frame(1)])
        segments(folder)[0].unlink()
        with pytest.raises(DamagedError):
            spool.read(10_000)
        assert spool.drop_damaged().total() == 2
        assert spool.read(10_000) == []

    def test_before_the_start_is_cut_off_with_what_follows(self, folder: Path) -> None:
        spool = opened(folder, 10_000)
        spool.append([frame(1), frame(2), frame(3)])
        spool.close()
        data = bytearray(segments(folder)[0].read_bytes())
        data[HEADER_BYTES + len(encode(frame(1))) + 20] ^= 1
        segments(folder)[0].write_bytes(data)
        spool = SpoolFiles(folder, 10_000)
        found = spool.open()
        assert found.cut == [(segments(folder)[0], 2 * len(encode(frame(1))))]
        assert spool.read(10_000) == [frame(1)]


@pytest.fixture
def file_size_limit() -> Iterator[None]:
    """Let no file of this process grow beyond 300 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.usefixtures("file_size_limit")
def test_a_batch_that_does_not_fit_on_the_disk_leaves_no_part(folder: Path) -> None:
    spool = opened(folder, 10_000)
    spool.append([frame(1)])
    with pytest.raises(OSError, match=r"File too large") as caught:
        spool.append([frame(2, 60)])
    assert caught.value.errno == errno.EFBIG
    spool.append([frame(3)])
    assert spool.read(10_000) == [frame(1), frame(3)]


def test_a_folder_that_refuses_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        SpoolFiles(tmp_path / "file").open()
    with pytest.raises(FileNotFoundError):
        SpoolFiles(tmp_path / "no" / "such").open()


def test_files_are_not_for_everyone(folder: Path) -> None:
    before = os.umask(0)
    try:
        spool = opened(folder)
        spool.append([frame(1)])
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o750
    assert segments(folder)[0].stat().st_mode & 0o777 == 0o640


def test_the_cursor_of_a_queue_that_was_empty_is_not_a_place_in_a_new_segment(folder: Path) -> None:
    """As a crash leaves it that came between the removal of the last segment and that of the cursor."""
    spool = opened(folder)
    spool.append([frame(1), frame(2)])
    spool.commit([frame(1)])
    left = (folder / "cursor").read_bytes()
    spool.commit([frame(2)])
    spool.close()
    (folder / "cursor").write_bytes(left)
    spool = opened(folder)
    spool.append([frame(number) for number in range(3, 8)])
    spool.close()
    assert opened(folder).read(10_000) == [frame(number) for number in range(3, 8)]


def test_damage_on_a_disk_that_takes_no_cursor_is_given_up_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_files: SpoolFiles) -> None:
        raise OSError(errno.EIO, "the disk fails")

    spool = opened(folder, 10_000)
    spool.append([frame(1)])
    monkeypatch.setattr(SpoolFiles, "_write_cursor", refuse)
    assert spool.drop_damaged().total() == 2
    assert spool.read(10_000) == []
