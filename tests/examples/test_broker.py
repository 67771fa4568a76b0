"""The reference service broker with a real HTTP server, and the SQS and DynamoDB of moto.

Statuses are those of the Open Service Broker API 2.17.
"""

import base64
import http.client
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from tests.support.free_ports import free_port

ROOT = Path(__file__).parents[2]
BROKER = ROOT / "examples" / "broker"
ESTATE = ROOT / "examples" / "edge"
NEEDED = ("boto3", "fastapi", "flask", "flask_cors", "moto", "py_partiql_parser", "uvicorn")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
WAIT_SECONDS = 90.0
PASSWORD = "a-password-of-the-platform"
OFFERING, SILVER, GOLD = (
    "5f0a4f5c-7f0d-4b7a-9b51-2f1f6a5c9d10",
    "b9b6a1de-3c39-4b1e-8f6a-1d3f1b8f7a01",
    "c41d7c0e-8a1f-4f5e-9f77-6d0b7b2f4c02",
)

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs the extra broker: {', '.join(MISSING)}")
T = TypeVar("T")
builds = pytest.mark.skipif(
    importlib.util.find_spec("edge") is None or not ESTATE.is_dir(), reason="needs `sidecars edge build`"
)


class Broker:
    """The running broker, and requests to it as a platform sends them."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port, self.folder = port, folder

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        password: str = PASSWORD,
        version: str | None = "2.17",
    ) -> tuple[int, dict[str, Any]]:
        basic = base64.b64encode(f"platform:{password}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "X-Broker-API-Request-Identity": "r1"}
        if version is not None:
            headers["X-Broker-API-Version"] = version
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        try:
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            assert response.headers["X-Broker-API-Request-Identity"] == "r1"
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def put(
        self, instance: str, wish: object, query: str = "?accepts_incomplete=true"
    ) -> tuple[int, dict[str, Any]]:
        return self.ask("PUT", f"/v2/service_instances/{instance}{query}", wish)

    def patch(self, instance: str, **changes: object) -> tuple[int, dict[str, Any]]:
        path = f"/v2/service_instances/{instance}?accepts_incomplete=true"
        return self.ask("PATCH", path, {"service_id": OFFERING, **changes})

    def delete(self, instance: str, query: str = "&accepts_incomplete=true") -> tuple[int, dict[str, Any]]:
        path = f"/v2/service_instances/{instance}?service_id={OFFERING}&plan_id={SILVER}{query}"
        return self.ask("DELETE", path)

    def last(self, instance: str, operation: str | None = None) -> tuple[int, dict[str, Any]]:
        query = "" if operation is None else f"?operation={operation}"
        return self.ask("GET", f"/v2/service_instances/{instance}/last_operation{query}")

    def ended(self, instance: str) -> tuple[int, dict[str, Any]]:
        """The answer to polls once the operation is over."""
        return until(
            lambda: found if (found := self.last(instance))[1].get("state") != "in progress" else None
        )

    def file(self, service: str) -> Path:
        return self.folder / "services" / f"{service}.yaml"

    def rules(self) -> str:
        """The rules that the build has made."""
        return Path(f"{self.folder}-built", "policy.json").read_text()


def until(condition: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("never came to pass")


def wish(service: str, plan: str = SILVER, owner: str = "search", **changes: object) -> dict[str, Any]:
    """A request to provision a service below api.example.com/search/, which the team `search` owns."""
    parameters = {
        "service": service,
        "hosts": ["api.example.com"],
        "upstream": {"address": f"{service}.internal:8080"},
        "routes": [{"id": "all", "paths": [f"/search/{service}/{{rest=**}}"], "who": {"allow": "anyone"}}],
        **changes,
    }
    context = {"platform": "cloudfoundry", "organization_name": owner}
    return {"service_id": OFFERING, "plan_id": plan, "context": context, "parameters": parameters}


def new() -> tuple[str, str]:
    """The ids of a new instance and of its service."""
    return str(uuid.uuid4()), f"s{uuid.uuid4().hex[:8]}"


def run(folder: Path, worker: str) -> Iterator[Broker]:
    port = free_port()
    environment = {
        **os.environ,
        "PORT": str(port),
        "PASSWORD": PASSWORD,
        **({"BROKER_BUILD": worker} if worker else {}),
    }
    with (folder.parent / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(BROKER / "local.py"), str(folder)],
            env=environment,
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )
    broker = Broker(port, folder)

    def answers() -> bool:
        assert process.poll() is None, (folder.parent / "log").read_text()
        try:
            return broker.ask("GET", "/v2/catalog")[0] == 200
        except OSError:
            return False

    try:
        until(answers)
        yield broker
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)
        sys.stdout.write((folder.parent / "log").read_text())


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker whose operations stay in progress: its build has a defect and is tried again later."""
    folder = tmp_path_factory.mktemp("waiting") / "intents"
    (folder / "services").mkdir(parents=True)
    yield from run(folder, "sh -c 'exit 3'")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that builds the example of this repository."""
    folder = tmp_path_factory.mktemp("broker") / "intents"
    shutil.copytree(ESTATE, folder)
    yield from run(folder, "")


class TestRequests:
    def test_the_catalog_has_the_offering_and_a_plan_for_each_tier(self, waiting: Broker) -> None:
        status, catalog = waiting.ask("GET", "/v2/catalog")
        [offering] = catalog["services"]
        assert (status, offering["id"], offering["bindable"]) == (200, OFFERING, False)
        assert {plan["id"]: plan["name"] for plan in offering["plans"]} == {SILVER: "silver", GOLD: "gold"}

    @pytest.mark.parametrize(
        ("version", "status"), [(None, 412), ("1.0", 412), ("2", 412), ("3.0", 412), ("2.13", 200)]
    )
    def test_the_version_of_the_api_is_needed(
        self, waiting: Broker, version: str | None, status: int
    ) -> None:
        assert waiting.ask("GET", "/v2/catalog", version=version)[0] == status

    def test_the_password_is_needed_everywhere(self, waiting: Broker) -> None:
        for method, path in (("GET", "/v2/catalog"), ("GET", "/v2/service_instances/i/last_operation")):
            assert waiting.ask(method, path, password="wrong")[0] == 401

    @pytest.mark.parametrize(
        "change",
        [
            {"service_id": "other"},
            {"plan_id": "other"},
            {"plan_id": None},
            {"context": {}},
            {"context": {"organization_name": 7}},
            {"parameters": {}},
            {"parameters": wish("a")["parameters"] | {"owner": "checkout"}},
            {"parameters": wish("a")["parameters"] | {"tier": "gold"}},
            {"parameters": wish("../a")["parameters"]},
            {"parameters": wish("a")["parameters"] | {"routes": []}},
        ],
    )
    def test_a_malformed_request_is_400(self, waiting: Broker, change: dict[str, Any]) -> None:
        status, answer = waiting.put(new()[0], wish("a") | change)
        assert status == 400
        assert answer["description"]

    def test_no_json_and_too_much_json_are_refused(self, waiting: Broker) -> None:
        assert waiting.put("i", b"{")[0] == 400
        assert waiting.put("i", b" " * 70_000)[0] == 413

    def test_a_platform_that_cannot_wait_is_told_so(self, waiting: Broker) -> None:
        instance, service = new()
        answers = [waiting.put(instance, wish(service), ""), waiting.delete(instance, "")]
        answers.append(waiting.ask("PATCH", f"/v2/service_instances/{instance}", {"service_id": OFFERING}))
        for status, answer in answers:
            assert (status, answer["error"]) == (422, "AsyncRequired")

    def test_what_does_not_exist_is_gone(self, waiting: Broker) -> None:
        instance, _ = new()
        assert (waiting.delete(instance)[0], waiting.last(instance)[0]) == (410, 410)
        assert waiting.patch(instance)[0] == 404


class TestInProgress:
    def test_a_repeated_request_has_the_same_operation(self, waiting: Broker) -> None:
        instance, service = new()
        first, second = (waiting.put(instance, wish(service)) for _ in range(2))
        assert (first[0], second) == (202, first)
        status, answer = waiting.last(instance, first[1]["operation"])
        assert (status, answer["state"]) == (200, "in progress")
        assert waiting.last(instance, "other")[0] == 400

    def test_another_request_is_a_conflict_or_has_to_wait(self, waiting: Broker) -> None:
        instance, service = new()
        assert waiting.put(instance, wish(service))[0] == 202
        assert waiting.put(instance, wish(service, GOLD))[0] == 409
        assert waiting.put(instance, wish(service, owner="checkout"))[0] == 409
        for status, answer in (waiting.delete(instance), waiting.patch(instance, plan_id=GOLD)):
            assert (status, answer["error"]) == (422, "ConcurrencyError")

    def test_a_name_belongs_to_one_instance(self, waiting: Broker) -> None:
        service = new()[1]
        assert waiting.put(new()[0], wish(service))[0] == 202
        status, answer = waiting.put(new()[0], wish(service))
        assert (status, answer["description"]) == (400, f"the service name {service} is taken")


@builds
class TestLife:
    def test_provisioned_updated_and_deprovisioned(self, broker: Broker) -> None:
        instance, service = new()
        assert broker.put(instance, wish(service))[0] == 202
        assert broker.ended(instance)[1] == {"state": "succeeded", "description": ""}
        assert broker.put(instance, wish(service)) == (200, {})
        assert broker.put(instance, wish(service, GOLD))[0] == 409
        file = yaml.safe_load(broker.file(service).read_text())
        assert (file["owner"], file["tier"], file["service"]) == ("search", "silver", service)
        assert f"{service}.all" in broker.rules()

        assert broker.patch(instance, plan_id=SILVER) == (200, {})
        assert broker.patch(instance, plan_id=GOLD)[0] == 202
        assert broker.ended(instance)[1]["state"] == "succeeded"
        assert yaml.safe_load(broker.file(service).read_text())["tier"] == "gold"

        assert broker.delete(instance)[0] == 202
        assert broker.ended(instance)[0] == 410
        assert (broker.delete(instance)[0], broker.file(service).exists()) == (410, False)
        assert f"{service}.all" not in broker.rules()
        assert broker.put(new()[0], wish(service))[0] == 202  # the name is free again

    def test_a_host_of_another_team_is_refused_in_words_for_the_user(self, broker: Broker) -> None:
        instance, service = new()
        assert broker.put(instance, wish(service, hosts=["checkout.example.com"]))[0] == 202
        answer = broker.ended(instance)[1]
        assert answer["state"] == "failed"
        assert f"services/{service}.yaml:" in answer["description"]
        assert not broker.file(service).exists()
        assert broker.delete(instance)[0] == 202
        assert broker.ended(instance)[0] == 410

    def test_an_update_that_is_refused_leaves_what_was(self, broker: Broker) -> None:
        instance, service = new()
        broker.put(instance, wish(service))
        broker.ended(instance)
        before, rules = broker.file(service).read_text(), broker.rules()
        bad = wish(service, hosts=["checkout.example.com"])["parameters"]
        assert broker.patch(instance, parameters=bad)[0] == 202
        assert broker.ended(instance)[1]["state"] == "failed"
        assert (broker.file(service).read_text(), broker.rules()) == (before, rules)
        assert broker.put(instance, wish(service)) == (200, {})
        assert broker.patch(instance, parameters=wish(new()[1])["parameters"])[0] == 422

    def test_a_file_of_others_is_never_touched(self, broker: Broker) -> None:
        instance, _ = new()
        before = broker.file("checkout").read_text()
        assert broker.put(instance, wish("checkout", owner="checkout"))[0] == 202
        answer = broker.ended(instance)[1]
        assert (answer["state"], "exists already" in answer["description"]) == ("failed", True)
        assert broker.delete(instance)[0] == 202
        assert broker.ended(instance)[0] == 410
        assert broker.file("checkout").read_text() == before
