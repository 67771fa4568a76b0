"""`sidecars logs tail`, `query` and `why`."""

import gzip
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecars.cli.log_files import Follower, last_lines, lines_of
from sidecars.cli.log_lines import filter_of
from tests.support.command import Command

DENIED: dict[str, Any] = {
    "time": "2026-09-21T14:13:20.123456Z",
    "type": "http",
    "node_id": "envoy-1",
    "request_id": "id-denied",
    "method": "POST",
    "scheme": "https",
    "authority": "api.example.com",
    "path": "/orders/7",
    "query": "a=1",
    "code": 403,
    "code_details": "ext_authz_denied",
    "response_flags": ["UAEX"],
    "client_ip": "203.0.113.9",
    "duration_us": 4200,
    "authz_duration_us": 900,
    "authz_decision_id": "d-1",
    "authz_rule": "orders-write",
    "authz_subject": "alice",
    "authz_outcome": "deny",
    "authz_reason": "missing_scope",
    "authz_credential": "jwt",
}
DECISION = {"decision_id": "d-1", "detail": "needs scope orders:write", "issuer": "https://idp"}
LIMITED: dict[str, Any] = {
    **{key: DENIED[key] for key in ("time", "type", "method", "scheme", "authority", "path")},
    "request_id": "id-limited",
    "code": 429,
    "code_details": "rate_limited",
    "response_flags": ["RL"],
    "duration_us": 1000,
    "ratelimit_outcome": "over_limit",
    "ratelimit_domain": "edge",
    "ratelimit_rule": "edge.per_ip",
    "ratelimit_descriptors": [{"entries": ["remote_address=203.0.113.9", "path=/a b"]}],
    "response_headers": {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "20"},
}
SERVED: dict[str, Any] = {
    **{key: DENIED[key] for key in ("time", "type", "method", "scheme", "authority")},
    "path": "/ok",
    "request_id": "id-served",
    "code": 200,
    "code_details": "via_upstream",
    "authz_outcome": "allow",
    "upstream_remote_address": "10.0.0.1:80",
    "upstream_wire_bytes_sent": 2**64 - 1,
    "duration_us": 4200,
    "authz_duration_us": 900,
    "time_to_first_upstream_tx_byte_us": 1500,
    "time_to_first_upstream_rx_byte_us": 3500,
    "time_to_last_upstream_rx_byte_us": 3600,
}
FAILED: dict[str, Any] = {
    **{key: DENIED[key] for key in ("time", "type", "method", "scheme", "authority", "path")},
    "request_id": "id-failed",
    "code": 503,
    "code_details": "ext_authz_error",
    "response_flags": ["UAEX"],
}


def text_of(*records: dict[str, Any]) -> bytes:
    return b"".join(orjson.dumps(record) + b"\n" for record in records)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "access.jsonl"
    path.write_bytes(text_of(DENIED, LIMITED, SERVED, FAILED))
    return path


class TestTail:
    def test_shows_one_line_for_each_record(self, sidecars: Command, log: Path) -> None:
        lines = sidecars("logs", "tail", "--no-follow", log).out.splitlines()
        assert lines[0] == (
            "14:13:20.123 403 POST api.example.com/orders/7 4.2 ms alice authz: deny orders-write UAEX "
            "ext_authz_denied"
        )
        assert lines[1].endswith("ratelimit: over_limit edge.per_ip RL rate_limited")
        assert lines[2] == "14:13:20.123 200 POST api.example.com/ok 4.2 ms"

    @pytest.mark.parametrize(
        ("options", "found"),
        [
            (["--errors"], ["id-denied", "id-limited", "id-failed"]),
            (["--denied"], ["id-denied", "id-failed"]),
            (["--limited"], ["id-limited"]),
            (["-w", "code=4xx"], ["id-denied", "id-limited"]),
            (["-w", "code!=4xx"], ["id-served", "id-failed"]),
            (["-w", "code>=429"], ["id-limited", "id-failed"]),
            (["-w", "path=/orders/*", "-w", "duration_us>1000"], ["id-denied"]),
            (["-w", "response_flags=UAEX"], ["id-denied", "id-failed"]),
            (["-w", "response_headers.x-ratelimit-remaining=0"], ["id-limited"]),
            (["-w", "authz_outcome="], ["id-limited", "id-failed"]),
            (["-n", "1"], ["id-failed"]),
            (["-n", "0"], []),
        ],
    )
    def test_filters_choose_the_records(
        self, sidecars: Command, log: Path, options: list[str], found: list[str]
    ) -> None:
        out = sidecars("logs", "tail", "--no-follow", "--json", *options, log).out
        assert [orjson.loads(line)["request_id"] for line in out.splitlines()] == found

    @pytest.mark.parametrize("text", ["code", "cod=1", "code>x", "=1"])
    def test_a_filter_that_makes_no_sense_is_refused(self, sidecars: Command, log: Path, text: str) -> None:
        assert sidecars("logs", "tail", "--no-follow", "-w", text, log).code == 2

    def test_control_characters_of_a_client_do_not_reach_the_terminal(
        self, sidecars: Command, log: Path
    ) -> None:
        log.write_bytes(text_of({**DENIED, "path": "/\x1b]0;title\x07\u202e", "code_details": "\x9b31m"}))
        for command in (["tail", "--no-follow"], ["why", "id-denied"]):
            out = sidecars("logs", *command, log).out
            assert not any(character in out for character in "\x1b\x07\x9b\u202e")
            assert r"/\x1b]0;title\x07\u202e" in out

    def test_lines_that_are_not_records_are_skipped(self, sidecars: Command, log: Path) -> None:
        log.write_bytes(b'{"cut\n[]\n\n' + text_of(SERVED))
        assert len(sidecars("logs", "tail", "--no-follow", log).out.splitlines()) == 1

    def test_follows_the_file_of_the_settings_and_ends_by_ctrl_c(self, tmp_path: Path) -> None:
        (tmp_path / "sidecars.yaml").write_text(
            "accesslog: {listen: ['unix:a'], sinks: [{type: file, path: access.jsonl}]}\n"
        )
        command = [sys.executable, "-u", "-m", "sidecars", "logs", "tail", "--json", "-c"]
        with subprocess.Popen([*command, str(tmp_path / "sidecars.yaml")], stdout=subprocess.PIPE) as tail:
            assert tail.stdout is not None
            path = tmp_path / "access.jsonl"
            for number in range(3):
                with path.open("ab") as file:
                    file.write(text_of({**SERVED, "request_id": f"id-{number}"}))
                assert orjson.loads(tail.stdout.readline())["request_id"] == f"id-{number}"
                if number == 1:
                    path.rename(tmp_path / "access.jsonl.1")
            tail.send_signal(signal.SIGINT)
            assert tail.wait(30) == 0


class TestFollower:
    def test_shows_a_line_once_it_is_whole_and_what_was_there_before_not(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.write_bytes(b"old\nbeg")
        follower = Follower(path)
        assert follower.lines() == []
        assert last_lines(path, 5, follower.start) == [b"old"]
        with path.open("ab") as file:
            file.write(b"un\nnext")
        assert follower.lines() == [b"begun"]
        follower.close()

    def test_reads_the_moved_file_to_its_end_and_then_the_new_one(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.touch()
        follower = Follower(path)
        path.write_bytes(b"one\n")
        moved = path.rename(tmp_path / "log.1")
        with moved.open("ab") as file:
            file.write(b"two\n")
        path.write_bytes(b"three\n")
        assert follower.lines() == [b"one", b"two", b"three"]
        os.truncate(path, 0)
        path.write_bytes(b"4\n")
        assert follower.lines() == [b"4"]
        follower.close()


class TestQuery:
    def test_every_field_is_a_column_also_if_no_record_has_it(self, sidecars: Command, log: Path) -> None:
        sql = "SELECT count(tls_sni) AS sni, max(upstream_wire_bytes_sent) AS most, max(time) AS at FROM log"
        result = sidecars("logs", "query", sql, log, "--json")
        assert orjson.loads(result.out) == {
            "sni": 0,
            "most": str(2**64 - 1) if isinstance(orjson.loads(result.out)["most"], str) else 2**64 - 1,
            "at": "2026-09-21T14:13:20.123456+00:00",
        }

    def test_lists_and_maps_can_be_asked(self, sidecars: Command, log: Path) -> None:
        sql = (
            "SELECT request_id, response_headers->>'x-ratelimit-reset' AS reset FROM log "
            "WHERE list_contains(response_flags, 'RL')"
        )
        result = sidecars("logs", "query", sql, log)
        assert [line.split() for line in result.out.splitlines()] == [
            ["request_id", "reset"],
            ["id-limited", "20"],
        ]

    def test_compressed_and_rotated_files_are_read(
        self, sidecars: Command, tmp_path: Path, log: Path
    ) -> None:
        zstandard = pytest.importorskip("zstandard")
        (tmp_path / "access.jsonl.1.gz").write_bytes(gzip.compress(text_of(SERVED)))
        (tmp_path / "access.jsonl.2.zst").write_bytes(zstandard.compress(text_of(SERVED)))
        (tmp_path / "sidecars.yaml").write_text(
            "accesslog: {listen: ['unix:a'], sinks: [{type: file, path: access.jsonl}]}\n"
        )
        sql = "SELECT count(*) AS n FROM log WHERE code = 200"
        result = sidecars("logs", "query", sql, "-c", tmp_path / "sidecars.yaml", "--json")
        assert orjson.loads(result.out) == {"n": 3}
        assert sum(len(list(lines_of(path))) for path in tmp_path.glob("access.jsonl*")) == 6

    def test_a_broken_line_hides_no_other(self, sidecars: Command, log: Path) -> None:
        log.write_bytes(b'{"cut": \n' + text_of(SERVED) + b'{"code": "no number"}\n' + text_of(SERVED))
        result = sidecars("logs", "query", "SELECT count(*) AS n FROM log WHERE code = 200", log, "--json")
        assert orjson.loads(result.out) == {"n": 2}

    def test_sql_that_makes_no_sense_is_one_line(self, sidecars: Command, log: Path) -> None:
        result = sidecars("logs", "query", "SELECT nope FROM log", log)
        assert result.code == 1
        assert len(result.err.splitlines()) == 1
        assert "nope" in result.err

    def test_without_its_extra_it_says_so(
        self, sidecars: Command, log: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "duckdb", None)
        result = sidecars("logs", "query", "SELECT 1", log)
        assert result.code == 2
        assert "needs the extra logs" in result.err


class TestWhy:
    @pytest.mark.parametrize("wanted", ["id-denied", "d-1"])
    def test_a_denial_names_the_rule_the_reason_and_what_was_needed(
        self, sidecars: Command, tmp_path: Path, log: Path, wanted: str
    ) -> None:
        decisions = tmp_path / "decisions.jsonl"
        decisions.write_bytes(text_of(DECISION))
        out = sidecars("logs", "why", wanted, log, decisions).out
        lines = [" ".join(line.split()) for line in out.splitlines()]
        assert lines[0] == "403: authz refused it by rule orders-write: missing_scope."
        assert "detail needs scope orders:write" in lines
        assert "caller jwt alice" in lines
        assert any(line.startswith("0.9 ms ###") and line.endswith("authz decides") for line in lines)
        assert lines[-1] == (
            "sidecars policy explain --policy POLICY -X POST --subject alice --kind jwt "
            "--at 2026-09-21T14:13:20.123456Z https://api.example.com/orders/7"
        )

    def test_a_refused_request_shows_its_limit_and_what_was_left(self, sidecars: Command, log: Path) -> None:
        lines = [
            " ".join(line.split()) for line in sidecars("logs", "why", "id-limited", log).out.splitlines()
        ]
        assert lines[0] == "429: over the limit edge.per_ip."
        assert "left limit 100, remaining 0, reset 20" in lines
        assert lines[-1] == (
            "sidecars limits explain -c SETTINGS --domain edge 'remote_address=203.0.113.9,path=/a b'"
        )

    def test_what_was_left_needs_no_response_headers(self, sidecars: Command, tmp_path: Path) -> None:
        """The numbers are in the dynamic metadata of ratelimit."""
        file = tmp_path / "access.jsonl"
        told = {"ratelimit_limit": 100, "ratelimit_period": "1m", "ratelimit_remaining": 0}
        file.write_bytes(text_of({**LIMITED, **told, "response_headers": {}}))
        lines = [
            " ".join(line.split()) for line in sidecars("logs", "why", "id-limited", file).out.splitlines()
        ]
        assert "left limit 100, period 1m, remaining 0" in lines
        why = orjson.loads(sidecars("logs", "why", "id-limited", file, "--json").out)
        assert why["limits"] == {"limit": 100, "period": "1m", "remaining": 0}

    def test_an_authz_that_gave_no_answer_is_named(self, sidecars: Command, log: Path) -> None:
        out = sidecars("logs", "why", "id-failed", log).out
        assert out.splitlines()[0] == (
            "503: Envoy got no answer from authz, and answered with status_on_error."
        )

    def test_as_json_with_the_phases_in_microseconds(self, sidecars: Command, log: Path) -> None:
        why = orjson.loads(sidecars("logs", "why", "id-served", log, "--json").out)
        assert why["verdict"] == "200: the upstream answered."
        assert [(phase["name"], phase["microseconds"]) for phase in why["phases"]] == [
            ("authz decides", 900),
            ("other filters and connecting", 600),
            ("the upstream thinks", 2000),
            ("the upstream sends its response", 100),
            ("the response goes to the client", 600),
        ]
        assert sum(phase["microseconds"] for phase in why["phases"]) == SERVED["duration_us"]
        assert why["record"]["path"] == "/ok"

    def test_the_newest_record_and_the_number_of_others(self, sidecars: Command, log: Path) -> None:
        with log.open("ab") as file:
            file.write(text_of({**SERVED, "request_id": "id-denied", "path": "/again"}))
        why = orjson.loads(sidecars("logs", "why", "id-denied", log, "--json").out)
        assert (why["record"]["path"], why["others"]) == ("/again", 1)

    @pytest.mark.parametrize("wanted", ["id", "/orders/7", "alice", "id-d.nied", '"'])
    def test_an_id_that_no_record_has_is_not_found(self, sidecars: Command, log: Path, wanted: str) -> None:
        result = sidecars("logs", "why", wanted, log)
        assert result.code == 1
        assert result.err.startswith("none of 1 files has a record with this id")

    def test_what_a_client_wrote_is_quoted_in_the_next_command(self, sidecars: Command, log: Path) -> None:
        log.write_bytes(text_of({**DENIED, "path": "/$(reboot)';x"}))
        out = sidecars("logs", "why", "id-denied", log).out
        assert """'https://api.example.com/$(reboot)'"'"';x'""" in out


def test_files_come_from_arguments_or_from_the_settings(sidecars: Command, log: Path, tmp_path: Path) -> None:
    assert sidecars("logs", "why", "x").code == 2
    (tmp_path / "sidecars.yaml").write_text("accesslog: {listen: ['unix:a']}\n")
    result = sidecars("logs", "why", "x", "-c", tmp_path / "sidecars.yaml")
    assert result.code == 2
    assert "no file sink" in result.err


def test_of_the_file_sinks_those_with_our_format_are_read(
    sidecars: Command, log: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "sidecars.yaml"
    other = "{type: file, name: ecs, path: ecs.jsonl, format: ecs}"
    settings.write_text(f"accesslog: {{listen: ['unix:a'], sinks: [{other}, {{type: file, path: {log}}}]}}\n")
    assert sidecars("logs", "why", "id-limited", "-c", settings).code == 0
    settings.write_text(f"accesslog: {{listen: ['unix:a'], sinks: [{other}]}}\n")
    result = sidecars("logs", "why", "id-limited", "-c", settings)
    assert result.code == 2
    assert "no file sink has `format: sidecars`" in " ".join(result.err.replace("│", "").split())


def test_a_filter_on_a_list_matches_one_of_its_items() -> None:
    assert filter_of("response_flags=U*")({"response_flags": ["RL", "UAEX"]})
    assert not filter_of("response_flags!=U*")({"response_flags": ["RL", "UAEX"]})


def test_parquet_and_json_lines_are_one_table(sidecars: Command, log: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from accesslog.sinks.parquet import convert

    folder = tmp_path / "lake"
    folder.mkdir()
    convert(log, folder)
    sql = (
        "SELECT count(*) AS n, count(response_headers->>'x-ratelimit-limit') AS limited, "
        "sum(len(response_flags)) AS flags FROM log"
    )
    result = sidecars("logs", "query", sql, "--json", folder, log)
    assert orjson.loads(result.out.replace('"6"', "6")) == {"n": 8, "limited": 2, "flags": 6}
