"""Archives: the same bytes each time, and nothing in them leads outside or grows without a bound."""

import gzip
import io
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.bundle.archive import MAX_HEADER_BYTES, Bounds, pack, unpack
from edge.bundle.errors import BundleError, Fault

FILES = {"policy/a.yaml": b"rules: []\n", "limits/b.yaml": b"x" * 1000, "empty": b""}


def tar_of(change: Callable[[tarfile.TarFile], object], form: int = tarfile.PAX_FORMAT) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=form) as tar:
        change(tar)
    return packed.getvalue()


def entry(
    name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE
) -> Callable[[tarfile.TarFile], None]:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.size, info.linkname = kind, len(content), "/etc/passwd"
        tar.addfile(info, io.BytesIO(content))

    return add


def refusal(archive: bytes, bounds: Bounds | None = None) -> BundleError:
    with pytest.raises(BundleError) as caught:
        unpack(archive, bounds or Bounds())
    return caught.value


def test_the_order_and_the_time_of_the_files_do_not_change_the_bytes() -> None:
    assert pack(FILES) == pack(dict(reversed(FILES.items())))
    assert unpack(pack(FILES)) == FILES


@given(
    st.dictionaries(
        st.from_regex(r"[a-zé]{1,150}(/[a-zé]{1,150}){0,2}", fullmatch=True), st.binary(), max_size=4
    )
)
def test_what_is_packed_is_unpacked_and_read_by_others(files: dict[str, bytes]) -> None:
    archive = pack(files)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = {member.name: tar.extractfile(member) for member in tar.getmembers()}
        assert {name: file.read() for name, file in members.items() if file} == files
    folders = {"/".join(name.split("/")[:depth]) for name in files for depth in range(1, name.count("/") + 1)}
    if not folders & files.keys():
        assert unpack(archive) == files


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_every_common_form_of_tar_is_read(form: int) -> None:
    long = "folder/" * 20 + "a.yaml"

    def fill(tar: tarfile.TarFile) -> None:
        entry("./folder", b"", tarfile.DIRTYPE)(tar)
        entry(f"/{long}", b"long")(tar)
        entry("./b.yaml", b"b")(tar)

    assert unpack(tar_of(fill, form)) == {long: b"long", "b.yaml": b"b"}


@pytest.mark.parametrize(
    "name", ["../outside", "a/../../outside", "a//b", "a/./b", "a\\b", "a\nb", "..", ".", "x" * 1025]
)
def test_a_name_that_leads_outside_or_misleads_is_refused(name: str) -> None:
    assert refusal(tar_of(entry(name))).fault is Fault.UNREADABLE


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.GNUTYPE_SPARSE, "an entry of the unknown kind"),
    ],
)
def test_only_plain_files_are_accepted(kind: bytes, what: str) -> None:
    assert f"'a' is {what}" in str(refusal(tar_of(entry("a", b"", kind))))


def test_a_name_appears_once_however_it_is_written() -> None:
    def fill(tar: tarfile.TarFile) -> None:
        entry("a.yaml")(tar)
        entry("./a.yaml")(tar)

    assert str(refusal(tar_of(fill))) == "'a.yaml' is there twice"


def test_a_name_is_a_file_or_a_folder() -> None:
    assert str(refusal(pack({"a": b"", "a/b/c": b""}))) == "'a' is both a file and a folder"


def test_each_bound_is_kept() -> None:
    archive = pack(FILES)
    assert unpack(archive, Bounds(len(archive), 20_000, 3)) == FILES
    for bounds in (Bounds(len(archive) - 1), Bounds(files=2), Bounds(unpacked_bytes=4096)):
        assert refusal(archive, bounds).fault is Fault.TOO_LARGE


def test_folders_count_as_files() -> None:
    archive = tar_of(lambda tar: [entry(f"d{number}", b"", tarfile.DIRTYPE)(tar) for number in range(4)])
    assert refusal(archive, Bounds(files=3)).fault is Fault.TOO_LARGE


def test_zeros_that_pack_well_are_not_unpacked_beyond_the_bound() -> None:
    packed = gzip.compress(bytes(8 * 1024 * 1024))
    assert len(packed) < 16_384
    assert str(refusal(packed, Bounds(unpacked_bytes=1_000_000))) == "more than 1000000 bytes when unpacked"


def test_a_long_extended_header_is_refused() -> None:
    archive = tar_of(entry("a" * (MAX_HEADER_BYTES + 1)))
    assert "an extended header" in str(refusal(archive))


def test_an_extended_header_does_not_change_sizes() -> None:
    def fill(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("a")
        info.pax_headers = {"size": "7"}
        tar.addfile(info)

    assert "changes the size" in str(refusal(tar_of(fill)))


def test_every_cut_and_every_flipped_bit_is_refused_or_changes_nothing() -> None:
    archive = pack(FILES)
    for length in range(0, len(archive), 3):
        assert refusal(archive[:length]).fault is Fault.UNREADABLE
    tar = gzip.decompress(archive)
    for position in range(0, len(tar), 37):
        changed = gzip.compress(tar[:position] + bytes((tar[position] ^ 0x41,)) + tar[position + 1 :])
        try:
            unpack(changed)
        except BundleError as error:
            assert error.fault is Fault.UNREADABLE  # noqa: PT017  # most positions pass: they are content


def test_nothing_follows_the_archive() -> None:
    assert "more bytes follow" in str(refusal(pack(FILES) + b"x"))


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"PK\x03\x04", gzip.compress(b"", mtime=0), gzip.compress(b"x" * 512, mtime=0)],
    ids=["empty", "one byte", "zip", "nothing packed", "no tar"],
)
def test_other_files_are_refused(content: bytes) -> None:
    assert refusal(content).fault is Fault.UNREADABLE
