"""With several workers, pages show the sum of all or each of them."""

import re
from pathlib import Path

import pytest

from tests.support.console import KEY, Suite
from tests.support.free_ports import adjacent_ports

# Pages give way to what serves: on a busy machine the second of CPU that the first ones take is a minute.
pytestmark = pytest.mark.timeout(300)


def two_workers(folder: Path) -> Suite:
    """Return a suite without sessions in memory, which cannot be with workers."""
    suite = Suite(folder, workers=2)
    policy = folder / "policy.yaml"
    policy.write_text(policy.read_text().replace("  sessions: {}\n  revocations: {}\n", ""))
    return suite


def test_pages_show_all_workers(tmp_path: Path) -> None:
    suite = two_workers(tmp_path)
    with suite.running as running:
        running.wait_until_ready()
        suite.check("/reports", KEY, worker=0)
        suite.check("/orders", KEY, worker=1)
        for worker in (0, 1):
            suite.limit("192.0.2.7", worker=worker)
            suite.limit("192.0.2.7", worker=worker)
        page = suite.page()
        assert re.search(r"allow \S+ 1 deny \S+ 1", page.text)
        assert re.search(r"within limit \S+ 4", page.text)
        assert "0: ready" in page.text
        assert "1: ready" in page.text
        assert "0, 1" in page.text  # both serve the same revision
        decisions = suite.page("decisions")
        assert "credentials_insufficient" in decisions.text
        assert "allowed" in decisions.text
        [denied] = [one for one in suite.decisions() if one["outcome"] == "deny"]
        page = suite.page(f"decision?id={denied['decision_id']}")
        assert "deny 403 credentials_insufficient by rule orders" in page.text
        assert re.search(r"client=192.0.2.7 edge.client 4 0", suite.page("limits").text)
        # Limits in memory: what is left is listed for each.
        suite.limit("192.0.2.7", worker=1)
        state = suite.page("limits?domain=edge&descriptor=client%3D192.0.2.7").text
        assert "Worker 0" in state
        assert "left now 1" in state
        assert "left now 0" in state
        assert "accesslog" in suite.page("configuration").text
        assert "written 0" in suite.page("logs").text
        assert "does not show sessions" in suite.page("sessions").text


def test_the_playground_has_the_policy_of_the_workers(tmp_path: Path) -> None:
    suite = two_workers(tmp_path)
    with suite.running as running:
        running.wait_until_ready()
        page = suite.post("playground", "use=loaded&question=request%3A%20%7Burl%3A%20/reports%7D")
        assert "credentials_missing" in page.text


def test_a_process_with_one_sidecar_has_pages_that_say_so(tmp_path: Path) -> None:
    suite = Suite(tmp_path, authz=None, accesslog=None)
    with suite.running as running:
        running.wait_until_ready()
        assert "ratelimit" in suite.page().text
        assert "No decisions are kept" in suite.page("decisions").text
        assert "accesslog does not run here" in suite.page("logs").text
        assert "does not show sessions" in suite.page("sessions").text
        assert "3 per hour" in suite.page("limits").text
        assert "ratelimit" in suite.page("configuration").text
        assert "the loaded one" not in suite.page("playground").text
        page = suite.post("playground", "use=loaded&question=request%3A%20%7Burl%3A%20/a%7D")
        assert "No policy is loaded here" in page.text


def test_the_supervisor_shows_its_workers_the_token(tmp_path: Path) -> None:
    """Where their admin servers listen on TCP: on unix sockets none is needed."""
    (tmp_path / "token").write_text("a-token-of-many-characters")
    admin = {
        "listen": "127.0.0.1:0",
        "port_file": "admin.port",
        "token_file": "token",
        "workers": f"127.0.0.1:{adjacent_ports()[0]}",
    }
    suite = Suite(tmp_path, workers=2, authz=None, accesslog=None, admin=admin)
    with suite.running as running:
        running.wait_until_ready()
        assert suite.ask("/console/")[0] == 401
        headers = {"Authorization": "Bearer a-token-of-many-characters"}
        status, text, _ = suite.ask("/console/configuration", headers=headers)
        assert status == 200
        assert "Workers without an answer" not in text
        assert f"unix:{tmp_path}/r.1" in text
