"""A suite that has seen some traffic, hostile values included."""

from collections.abc import Iterator

import pytest

from tests.support.console import HOSTILE_KEY, KEY, TAKEN, Suite


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    suite = Suite(tmp_path_factory.mktemp("suite"))
    with suite.running as running:
        running.wait_until_ready()
        suite.check("/public/a")
        suite.check("/reports", KEY)
        suite.check("/orders", KEY, "11111111-aaaa-4000-8000-000000000000")
        suite.check("/reports", "reports.wrong")
        suite.check(f"/public/{TAKEN}", request_id=TAKEN)
        suite.check("/reports", HOSTILE_KEY)
        for _ in range(5):
            suite.limit("192.0.2.7")
        suite.limit(TAKEN)
        suite.log(path="/orders", request_id="11111111-aaaa-4000-8000-000000000000")
        suite.log(path=f"/{TAKEN}", request_headers={"x-note": TAKEN}, user_agent=TAKEN)
        yield suite
