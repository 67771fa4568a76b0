from structlog.testing import capture_logs

from accesslog.records.counters import DropReason
from accesslog.sinks.drops import REPORT_SECONDS, DropLog
from tests.support.sinks import Clock


def test_the_first_drop_is_said_at_once_and_the_rest_as_a_sum() -> None:
    clock = Clock()
    drops = DropLog("redis", clock)
    with capture_logs() as logs:
        drops.note(DropReason.IO_ERROR, 5)
        drops.note(DropReason.IO_ERROR, 7)
        drops.note(DropReason.QUEUE_FULL, 1)
        assert [(log["reason"], log["entries"]) for log in logs] == [("io_error", 5)]
        clock.now = REPORT_SECONDS
        drops.note(DropReason.IO_ERROR, 2)
        drops.report()
    assert [(log["reason"], log["entries"]) for log in logs[1:]] == [("io_error", 9), ("queue_full", 1)]
    assert {(log["event"], log["sink"]) for log in logs} == {("entries dropped", "redis")}
