import json
from itertools import count
from typing import Any

import pytest

from accesslog.records.counters import MAX_LOGS, DropReason, EntryCounters, LogCounters
from accesslog.records.decoder import BATCH_ENTRIES, BATCH_SECONDS, EntryDecoder, Rules
from accesslog.records.fields import FIELDS
from accesslog.records.redact import Redaction
from accesslog.records.sample import Sampling
from accesslog.wire.message import UnreadableMessageError
from common.redaction import REDACTED
from protos.wire import field_with
from tests.support.entries import http_entry, message, tcp_entry


class Setup:
    def __init__(self, rate: float = 1.0, max_record_bytes: int = 65_536) -> None:
        self.counters = EntryCounters()
        rules = Rules(Redaction(), Sampling(rate), max_record_bytes)
        self.decoder = EntryDecoder(rules, self.counters, lambda: 1_790_000_000.0, lambda: 0.5)

    def read(self, *entries: Any, log_name: str | None = "edge") -> list[dict[str, Any]]:
        line_batches = self.decoder.read(message(*entries, log_name=log_name).SerializeToString())
        return [json.loads(line) for line_batch in line_batches for line in line_batch.lines]

    def log(self, name: str = "edge", kind: str = "http") -> LogCounters:
        return self.counters.log(name, kind)


class TestIdentifier:
    def test_of_the_first_message_holds_for_all_of_the_stream(self) -> None:
        setup = Setup()
        setup.read(http_entry())
        [record] = setup.read(http_entry(), log_name=None)
        assert (record["log_name"], record["node_id"], record["node_cluster"]) == ("edge", "envoy-1", "front")
        assert setup.log().received == 2
        assert setup.counters.unidentified_streams == 0

    def test_the_time_of_receipt_is_that_of_the_message(self) -> None:
        """That holds for entries that only protobuf can read, too."""
        setup = Setup()
        [usual] = setup.read(http_entry())
        data = message(http_entry(path="/UTF8")).SerializeToString().replace(b"UTF8", b"\xff" * 4)
        [odd] = [json.loads(line) for batch in setup.decoder.read(data) for line in batch.lines]
        assert usual["receive_time"] == odd["receive_time"] == "2026-09-21T14:13:20.000000Z"

    def test_the_time_of_receipt_is_read_for_each_message(self) -> None:
        times = count(1_790_000_000)
        rules = Rules(Redaction(), Sampling())
        decoder = EntryDecoder(rules, EntryCounters(), lambda: float(next(times)), lambda: 0.5)
        data = message(http_entry()).SerializeToString()
        lines = [line for _ in range(2) for batch in decoder.read(data) for line in batch.lines]
        assert [json.loads(line)["receive_time"][-10:] for line in lines] == ["20.000000Z", "21.000000Z"]

    def test_may_be_missing_and_is_then_counted_once(self) -> None:
        setup = Setup()
        records = setup.read(http_entry(), log_name=None) + setup.read(http_entry(), log_name=None)
        assert [record["code"] for record in records] == [200, 200]
        assert "log_name" not in records[0]
        assert setup.log("unknown").received == 2
        assert setup.counters.unidentified_streams == 1

    def test_that_comes_late_holds_from_then_on(self) -> None:
        setup = Setup()
        setup.read(http_entry(), log_name=None)
        [record] = setup.read(http_entry())
        assert record["log_name"] == "edge"
        assert (setup.log("unknown").received, setup.log().received) == (1, 1)

    def test_a_log_name_is_a_label_only_as_long_as_there_are_few(self) -> None:
        setup = Setup()
        for number in range(MAX_LOGS + 10):
            [record] = setup.read(http_entry(), log_name=f"log-{number}")
            assert record["log_name"] == f"log-{number}"
        assert len(list(setup.counters)) == MAX_LOGS + 1
        assert setup.log("(other)").received == 10


class TestOrder:
    """protobuf reads maps in an order that differs from process to process."""

    def test_of_fields_is_that_of_their_table(self) -> None:
        metadata = {"envoy.filters.http.ext_authz": {"rule": "r", "decision_id": "d", "outcome": "deny"}}
        [record] = Setup().read(http_entry(tags={"t": "v"}, metadata=metadata, path="/a?token=x"))
        assert list(record) == [name for name in FIELDS if name in record]

    def test_of_names_in_maps_and_of_redacted_places_is_sorted(self) -> None:
        names = ["zulu", "token", "secret", "kilo", "echo", "alpha"]
        maps: dict[str, Any] = dict.fromkeys(
            ("request_headers", "response_headers", "response_trailers", "tags"), dict.fromkeys(names, "v")
        )
        filters = {name: {"a": dict.fromkeys(names, "v"), **dict.fromkeys(names, "v")} for name in names}
        [record] = Setup().read(http_entry(**maps, metadata=filters))
        for name in (*maps, "metadata"):
            assert list(record[name]) == sorted(names), name
        assert list(record["metadata"]["zulu"]) == ["a", *sorted(names)]
        assert list(record["metadata"]["zulu"]["a"]) == sorted(names)
        assert record["redacted"] == sorted(record["redacted"])


class TestEntries:
    def test_become_redacted_lines(self) -> None:
        setup = Setup()
        [record] = setup.read(http_entry(path="/a?token=t", request_headers={"cookie": "c"}))
        assert record["query"] == f"token={REDACTED}"
        assert record["request_headers"] == {"cookie": REDACTED}
        assert setup.log().redacted == 1

    def test_of_tcp_are_counted_apart(self) -> None:
        setup = Setup()
        setup.read(tcp_entry(), tcp_entry())
        assert setup.log(kind="tcp").received == 2

    def test_that_are_bad_cost_themselves_alone(self) -> None:
        setup = Setup()
        bad = http_entry()
        bad.common_properties.start_time.seconds = 2**60
        assert len(setup.read(http_entry(), bad, http_entry())) == 2
        assert setup.log().received == 3
        assert setup.log().dropped == {DropReason.MALFORMED: 1}

    def test_that_are_not_utf_8_are_written_and_marked(self) -> None:
        setup = Setup()
        data = (
            message(http_entry(path="/UTF8"), http_entry()).SerializeToString().replace(b"UTF8", b"\xff" * 4)
        )
        lines = [line for line_batch in setup.decoder.read(data) for line in line_batch.lines]
        odd, plain = (json.loads(line) for line in lines)
        assert (odd["path"], odd["not_utf8"]) == (r"/\xff\xff\xff\xff", ["path"])
        assert "not_utf8" not in plain
        assert setup.log().received == 2
        assert not setup.log().dropped

    def test_of_a_message_that_cannot_be_parsed_cost_themselves_alone(self) -> None:
        setup = Setup()
        good = field_with(1, http_entry().SerializeToString())
        data = field_with(2, good + field_with(1, b"\x0a\x7f") + good)
        assert sum(len(line_batch.lines) for line_batch in setup.decoder.read(data)) == 2
        assert setup.log("unknown").received == 3
        assert setup.log("unknown").dropped == {DropReason.MALFORMED: 1}

    def test_beyond_the_size_of_a_record_are_counted(self) -> None:
        setup = Setup(max_record_bytes=100)
        assert setup.read(http_entry()) == []
        assert setup.log().dropped == {DropReason.TOO_LARGE: 1}

    def test_sampled_out_are_counted_and_errors_never_are(self) -> None:
        setup = Setup(rate=0)
        records = setup.read(http_entry(code=200), http_entry(code=503), http_entry(code=403))
        assert [record["code"] for record in records] == [503, 403]
        assert setup.log().sampled_out == 1

    def test_of_a_large_message_come_in_small_blocks(self) -> None:
        """The event loop is free between the blocks."""
        setup = Setup()
        entries = [http_entry()] * (2 * BATCH_ENTRIES + 1)
        sizes = [
            len(line_batch.lines) for line_batch in setup.decoder.read(message(*entries).SerializeToString())
        ]
        assert sizes == [BATCH_ENTRIES, BATCH_ENTRIES, 1]

    def test_that_take_long_come_in_smaller_blocks(self) -> None:
        """A client can determine how long its entries take."""
        times = count(0, BATCH_SECONDS / 2)
        decoder = EntryDecoder(
            Rules(Redaction(), Sampling()), EntryCounters(), lambda: next(times), lambda: 0.5
        )
        data = message(*[http_entry(path="/UTF8")] * 5).SerializeToString().replace(b"UTF8", b"\xff" * 4)
        line_batches = list(decoder.read(data))
        assert [(len(line_batch.lines), line_batch.more) for line_batch in line_batches] == [
            (2, True),
            (2, True),
            (1, False),
        ]

    def test_that_are_never_asked_for_are_dropped_and_counted(self) -> None:
        setup = Setup()
        entries = [http_entry()] * (BATCH_ENTRIES + 5)
        line_batches = setup.decoder.read(message(*entries).SerializeToString())
        next(line_batches)
        line_batches.close()
        assert setup.log().received == BATCH_ENTRIES + 5
        assert setup.log().dropped == {DropReason.STREAM_CANCELLED: 5}


def test_a_message_of_no_entries_brings_nothing() -> None:
    setup = Setup()
    assert setup.read() == []
    assert list(setup.counters) == []


def test_bytes_that_are_not_a_message_are_refused_and_counted() -> None:
    setup = Setup()
    with pytest.raises(UnreadableMessageError):
        setup.decoder.read(b"\xff\xff")
    assert setup.counters.unreadable_messages == 1
