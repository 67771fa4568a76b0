# ruff: noqa: ASYNC240  # a test may wait for its own small file
"""The Parquet sink: its files are read back by pyarrow and by DuckDB."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from accesslog.records.fields import FIELDS
from accesslog.sinks.parquet import STAGING, ParquetSink, convert
from accesslog.sinks.rotation import Rotation
from accesslog.sinks.sink import SinkError
from tests.support.sinks import until

pa = pytest.importorskip("pyarrow")
dataset = pytest.importorskip("pyarrow.dataset")
duckdb = pytest.importorskip("duckdb")

RECORD: dict[str, Any] = {
    "time": "2026-11-29T05:14:13.123456Z",
    "type": "http",
    "code": 503,
    "path": "/v1/orders",
    "response_flags": ["UF", "URX"],
    "request_headers": {"x-a": "b", "x-b": "ü"},
    "ratelimit_descriptors": [{"entries": ["a=1"]}],
    "upstream_wire_bytes_sent": 2**64 - 1,
    "sample_rate": 0.1,
    "truncated": True,
}


def text_of(*records: dict[str, Any]) -> bytes:
    return b"".join(orjson.dumps(record) + b"\n" for record in records)


def parquet_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "lake"


def converted(folder: Path, *records: dict[str, Any]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    source = folder / f"{STAGING}.20261129T060000.000Z"
    source.write_bytes(text_of(*records))
    assert convert(source, folder) == len(records)
    return parquet_files(folder)


def test_records_are_partitioned_by_the_day_and_hour_of_the_request(folder: Path) -> None:
    records = [
        {**RECORD, "time": "2026-11-29T05:59:59.999999Z"},
        {**RECORD, "time": "2026-11-29T06:00:00.000000Z"},
        {**RECORD, "time": "2026-11-28T05:00:00.000000Z"},
        {"type": "http"},
    ]
    assert [str(path.relative_to(folder)) for path in converted(folder, *records)] == [
        "day=2026-11-28/hour=05/20261129T060000.000Z.parquet",
        "day=2026-11-29/hour=05/20261129T060000.000Z.parquet",
        "day=2026-11-29/hour=06/20261129T060000.000Z.parquet",
        "day=other/hour=other/20261129T060000.000Z.parquet",
    ]


def test_pyarrow_reads_every_field_in_its_type(folder: Path) -> None:
    converted(folder, RECORD)
    [row] = dataset.dataset(folder, partitioning="hive").to_table().to_pylist()
    assert row.keys() >= FIELDS.keys()
    assert row["time"].isoformat() == "2026-11-29T05:14:13.123456+00:00"
    assert row["response_flags"] == ["UF", "URX"]
    assert orjson.loads(row["request_headers"]) == RECORD["request_headers"]
    assert row["upstream_wire_bytes_sent"] == 2**63 - 1
    assert (row["code"], row["sample_rate"], row["truncated"], row["tls_sni"]) == (503, 0.1, True, None)
    assert str(row["day"]) == "2026-11-29"


def test_duckdb_reads_it_with_the_partitions_as_columns(folder: Path) -> None:
    converted(folder, RECORD, {**RECORD, "code": 200})
    sql = (
        f"SELECT day, hour, code, request_headers::JSON->>'x-b', "
        "ratelimit_descriptors::JSON->0->'entries'->>0 "
        f"FROM read_parquet('{folder}/**/*.parquet', hive_partitioning=true) "
        "WHERE list_contains(response_flags, 'URX') ORDER BY code"
    )
    rows = duckdb.connect().execute(sql).fetchall()
    assert [(str(row[0]), *row[1:]) for row in rows] == [
        ("2026-11-29", "05", 200, "ü", "a=1"),
        ("2026-11-29", "05", 503, "ü", "a=1"),
    ]


def test_a_repeated_conversion_replaces_its_files(folder: Path) -> None:
    before = converted(folder, RECORD)
    assert converted(folder, RECORD) == before
    assert dataset.dataset(folder, partitioning="hive").count_rows() == 1


def test_times_of_a_wrong_clock_do_not_open_any_number_of_files(folder: Path) -> None:
    records = [{**RECORD, "time": f"{1970 + year}-01-01T00:00:00.000000Z"} for year in range(130)]
    assert len(converted(folder, *records)) == 49
    assert dataset.dataset(folder, partitioning="hive").count_rows() == 130


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(sorted(FIELDS.keys() - {"time"})), anything, max_size=6), max_size=4
    )
)
def test_any_record_can_be_written(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("lake")
    converted(folder, *({**record, "time": RECORD["time"]} for record in records))
    found = dataset.dataset(folder, partitioning="hive").count_rows() if records else 0
    assert found == len(records)


class TestSink:
    async def test_lines_become_files_after_the_rotation(self, folder: Path) -> None:
        now = 1_790_000_000.0
        sink = ParquetSink(folder, Rotation(every_seconds=300), wall_clock=lambda: now)
        await sink.open()
        await sink.write([text_of(RECORD), text_of(RECORD)])
        assert (folder / STAGING).read_bytes() == text_of(RECORD, RECORD)
        now = (folder / STAGING).stat().st_mtime + 300
        await sink.write([text_of({**RECORD, "code": 200})])
        await until(lambda: bool(parquet_files(folder)) and not list(folder.glob(f"{STAGING}.*")))
        assert dataset.dataset(parquet_files(folder)).count_rows() == 2
        assert (folder / STAGING).read_bytes() == text_of({**RECORD, "code": 200})
        await sink.close()

    async def test_what_a_killed_process_left_is_converted_at_the_start(self, folder: Path) -> None:
        folder.mkdir()
        (folder / f"{STAGING}.20261129T050000.000Z").write_bytes(text_of(RECORD) + b'{"cut')
        half = folder / "day=2026-11-29" / "hour=05" / ".20261129T050000.000Z.1.part"
        half.parent.mkdir(parents=True)
        half.write_bytes(b"PAR1")
        sink = ParquetSink(folder, Rotation(every_seconds=300))
        await sink.open()
        await until(lambda: not list(folder.glob(f"{STAGING}.*")))
        assert dataset.dataset(folder, partitioning="hive").count_rows() == 1
        await sink.close()

    async def test_a_conversion_that_fails_keeps_the_staged_lines_and_says_so(self, folder: Path) -> None:
        folder.mkdir()
        staged = folder / f"{STAGING}.20261129T050000.000Z"
        staged.write_bytes(text_of(RECORD))
        (folder / "day=2026-11-29").write_text("a file where the folder should be")
        sink = ParquetSink(folder, Rotation(every_seconds=300))
        with capture_logs() as logs:
            await sink.open()
            await until(lambda: bool(logs))
        assert logs[0]["event"] == "rotated file not compressed or deleted"
        assert staged.exists()
        await sink.close()

    async def test_a_folder_that_cannot_be_created_is_an_error_with_its_reason(self, tmp_path: Path) -> None:
        sink = ParquetSink(tmp_path / "no" / "lake", Rotation(every_seconds=300))
        with pytest.raises(SinkError, match="no such file or folder"):
            await sink.open()
        (tmp_path / "no").mkdir()
        await sink.check()
        await sink.close()
