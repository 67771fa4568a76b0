import json

from accesslog.records.encode import json_line
from accesslog.records.redact import Redaction
from accesslog.wire.record import http_record
from tests.support.entries import ORIGIN, http_entry


def test_a_record_is_one_line_of_json() -> None:
    record = http_record(http_entry(path="/a\n\u2028b"), ORIGIN, 0)
    line = json_line(record)
    assert line is not None
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line)["path"] == "/a\n\u2028b"


def test_a_record_that_is_too_large_has_its_long_texts_cut() -> None:
    record = http_record(http_entry(path="/" + "a" * 5_000, request_headers={"x": "y" * 5_000}), ORIGIN, 0)
    line = json_line(record, 4_096)
    assert line is not None
    assert len(line) <= 4_096
    read = json.loads(line)
    assert read["truncated"] is True
    assert read["path"] == "/" + "a" * 1_023 + "..."
    assert read["code"] == 200
    assert read["request_headers"]["x"].startswith("yyy")


def test_maps_are_left_out_when_cutting_is_not_enough() -> None:
    headers = {f"h{number}": "v" * 500 for number in range(50)}
    record = http_record(http_entry(request_headers=headers, tags={"team": "orders"}), ORIGIN, 0)
    line = json_line(record, 4_096)
    assert line is not None
    read = json.loads(line)
    assert "request_headers" not in read
    assert read["tags"] == {"team": "orders"}
    assert read["truncated"] is True


def test_long_lists_are_cut_too() -> None:
    names = [f"dns:{number}.example" for number in range(5_000)]
    line = json_line({"type": "http", "code": 200, "tls_peer_san": names}, 4_096)
    assert line is not None
    read = json.loads(line)
    assert read["tls_peer_san"] == names[:64]
    assert read["truncated"] is True


def test_what_a_client_repeats_does_not_take_its_request_out_of_the_log() -> None:
    """Envoy accepts 60 kB of headers by default; each of them could be a secret to redact."""
    record = http_record(
        http_entry(path="/admin?" + "token=&" * 8_500, referer="/?" + "€" * 9_000), ORIGIN, 0
    )
    Redaction().apply(record)
    line = json_line(record, 4_096)
    assert line is not None
    assert json.loads(line)["path"] == "/admin"


def test_a_record_that_nothing_can_shorten_is_none() -> None:
    assert json_line(http_record(http_entry(), ORIGIN, 0), 100) is None


def test_the_record_itself_stays_as_it_is() -> None:
    record = http_record(http_entry(path="/" + "a" * 5_000), ORIGIN, 0)
    before = dict(record)
    json_line(record, 4_096)
    assert record == before
