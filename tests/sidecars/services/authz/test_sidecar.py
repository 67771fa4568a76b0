import asyncio
import hashlib
import threading
import weakref
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict
from structlog.testing import capture_logs

from authz.request.identity import Authentication
from authz.request.request import Request
from common.configfile import ConfigError
from protos.authz_pb2 import CheckRequest, CheckResponse
from sidecars.process.redis import ClientMaker
from sidecars.process.redis_cluster import RedisCluster
from sidecars.services.sidecar import Sidecar
from sidecars.settings.redis import RedisSettings
from sidecars.transport.api.service import Code, StatusError
from tests.support.authz_sidecar import KEY, POLICY, SECRET, Broken, Built, Never, OneCall
from tests.support.checks import check_request


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return Built(tmp_path)


def reason(response: CheckResponse) -> str:
    return str(MessageToDict(response.dynamic_metadata)["reason"])


def test_it_is_a_sidecar(built: Built) -> None:
    sidecar: Sidecar = built.sidecar
    assert sidecar.name == "authz"
    assert [service.name for service in sidecar.services] == ["envoy.service.auth.v3.Authorization"]
    assert list(sidecar.services[0].methods) == ["Check"]


def test_a_check_is_answered_at_once(built: Built) -> None:
    response = built.ask(check_request(path="/orders", headers=KEY))
    assert response.status.code == 0
    headers = {option.header.key: option.header.value for option in response.ok_response.headers}
    assert headers["x-auth-subject"] == "reports"


def test_both_forms_of_headers_carry_credentials(built: Built) -> None:
    response = built.ask(check_request(path="/orders", headers=list(KEY.items())))
    assert response.status.code == 0


def test_malformed_bytes_are_an_invalid_argument(built: Built) -> None:
    with pytest.raises(StatusError) as caught:
        built.sidecar.check(b"\xff\xff\xff", OneCall())
    assert caught.value.status.code is Code.INVALID_ARGUMENT
    assert built.ask(check_request(path="/public")).status.code == 0


def ask_with_odd_bytes(built: Built, message: CheckRequest) -> CheckResponse:
    data = message.SerializeToString()
    assert b"UTF8" in data
    answer = built.sidecar.check(data.replace(b"UTF8", b"\xff\xfe\xff\xfe"), OneCall())
    assert isinstance(answer, bytes)
    return CheckResponse.FromString(answer)


def test_a_server_name_that_is_not_utf_8_does_not_make_a_check_an_error(built: Built) -> None:
    """`failure_mode_allow` would let it pass."""
    message = check_request(path="/orders", headers=KEY)
    message.attributes.tls_session.sni = "UTF8"
    assert ask_with_odd_bytes(built, message).status.code == 0


def test_metadata_that_is_not_utf_8_does_not_make_a_check_an_error(built: Built) -> None:
    message = check_request(path="/orders")
    message.attributes.metadata_context.filter_metadata["x"].update({"tenant": "UTF8"})
    assert reason(ask_with_odd_bytes(built, message)) == "credentials_missing"


def test_a_path_that_is_not_utf_8_is_what_no_rule_may_accept(built: Built) -> None:
    response = ask_with_odd_bytes(built, check_request(path="/public/UTF8", headers=KEY))
    assert reason(response) == "path_not_utf8"


@pytest.mark.parametrize("message", [b"", CheckRequest().SerializeToString()])
def test_an_empty_check_is_refused(built: Built, message: bytes) -> None:
    answer = built.sidecar.check(message, OneCall())
    assert isinstance(answer, bytes)
    assert reason(CheckResponse.FromString(answer)) == "method_missing"


def test_a_request_that_cannot_be_judged_is_answered_400(built: Built) -> None:
    response = built.ask(check_request(host="a.example,b.example"))
    assert (response.denied_response.status.code, reason(response)) == (400, "host_malformed")


class BrokenLater:
    async def authenticate(self, request: Request, now: float) -> Authentication:
        await asyncio.sleep(0)
        raise RuntimeError("a defect")


def test_a_defect_is_an_error_and_no_allow(built: Built) -> None:
    built.replace_authenticator(Broken())
    with capture_logs() as logs:
        response = built.ask(check_request(path="/orders"))
    assert response.HasField("error_response")
    assert reason(response) == "internal_error"
    metadata = MessageToDict(response.dynamic_metadata)
    assert [line["decision_id"] for line in logs] == [metadata["decision_id"]]


async def test_a_defect_while_waiting_is_an_error_and_no_allow(built: Built) -> None:
    built.replace_authenticator(BrokenLater())
    message = check_request(path="/orders").SerializeToString()
    with capture_logs():
        pending = built.sidecar.check(message, OneCall())
        assert not isinstance(pending, bytes)
        response = CheckResponse.FromString(await pending)
    assert (response.HasField("error_response"), reason(response)) == (True, "internal_error")


async def test_the_deadline_of_the_call_ends_the_wait(built: Built) -> None:
    built.replace_authenticator(Never())
    deadline = asyncio.get_running_loop().time() + 0.05
    pending = built.sidecar.check(check_request(path="/orders").SerializeToString(), OneCall(deadline))
    assert not isinstance(pending, bytes)
    response = CheckResponse.FromString(await pending)
    assert (response.HasField("error_response"), reason(response)) == (True, "deadline")


def test_decisions_are_counted(built: Built) -> None:
    built.ask(check_request(path="/orders", headers=KEY))
    labels = {"outcome": "allow", "reason": "allowed", "rule": "orders", "credential": "api_key"}
    assert built.registry.get_sample_value("authz_decisions_total", labels) == 1


async def test_a_reload_takes_effect_at_the_swap(built: Built) -> None:
    built.file.write_text(POLICY.replace("allow: anyone", "deny: anyone"))
    before = built.sidecar.describe()["revision"]
    swap = built.sidecar.prepare()
    assert built.ask(check_request(path="/public")).status.code == 0
    swap()
    assert built.ask(check_request(path="/public")).denied_response.status.code == 403
    assert built.sidecar.describe()["revision"] != before


async def test_a_reload_frees_the_replaced_policy(built: Built) -> None:
    gone = threading.Event()
    replaced = weakref.ref(built.sidecar._serving, lambda _: gone.set())
    assert built.ask(check_request(path="/users")).HasField("denied_response")
    built.sidecar.prepare()()
    assert await asyncio.to_thread(gone.wait, 5)
    assert replaced() is None
    assert built.ask(check_request(path="/users")).HasField("denied_response")


async def test_a_reload_brings_new_credentials(built: Built) -> None:
    built.file.write_text(POLICY.replace("scopes: [orders.read]\nrules", "scopes: [other]\nrules"))
    built.sidecar.prepare()()
    response = built.ask(check_request(path="/orders", headers=KEY))
    assert reason(response) == "credentials_insufficient"


@pytest.mark.parametrize("block", ["sessions", "revocations"])
def test_what_one_worker_keeps_in_memory_is_refused_with_several(tmp_path: Path, block: str) -> None:
    """A restarted worker would accept sessions that were logged out, and others miss a logout."""
    policy = POLICY.replace("credentials:", f"credentials:\n  {block}: {{store: memory}}")
    Built(tmp_path, policy)
    with pytest.raises(ConfigError, match=f"credentials.{block}.store: .*workers: 2.* store: redis"):
        Built(tmp_path, policy, workers=2)


@pytest.mark.parametrize("block", ["sessions", "revocations"])
def test_a_redis_cluster_cannot_keep_sessions(tmp_path: Path, block: str) -> None:
    """It would refuse their scripts, whose keys lie in different slots; nor can a reload ask for it."""
    cluster = RedisCluster(ClientMaker(RedisSettings(url="redis://127.0.0.1:1", cluster={})))
    policy = POLICY.replace("credentials:", f"credentials:\n  {block}: {{store: redis}}")
    with pytest.raises(ConfigError, match=f"credentials.{block}.store: .*redis.cluster.*Sentinels"):
        Built(tmp_path, policy, redis=cluster)
    built = Built(tmp_path, redis=cluster)
    built.file.write_text(policy)
    with pytest.raises(ConfigError, match=f"credentials.{block}.store: .*redis.cluster"):
        built.sidecar.prepare()


def test_nor_does_a_reload_bring_it(tmp_path: Path) -> None:
    built = Built(tmp_path, workers=2)
    built.file.write_text(POLICY.replace("credentials:", "credentials:\n  revocations: {}"))
    with pytest.raises(ConfigError, match=r"credentials.revocations.store"):
        built.sidecar.prepare()


def test_a_bad_reload_changes_nothing(built: Built) -> None:
    built.file.write_text("rules: [{name: x}]")
    with pytest.raises(ConfigError, match="either allow or deny"):
        built.sidecar.prepare()
    assert built.ask(check_request(path="/public")).status.code == 0


def test_a_bad_policy_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="either allow or deny"):
        Built(tmp_path, "rules: [{name: x}]")


def test_the_state_shows_no_secret(built: Built) -> None:
    state = built.sidecar.describe()
    assert state["rules"] == 2
    assert SECRET not in repr(state)
    assert hashlib.sha256(SECRET.encode()).hexdigest() not in repr(state)


def test_the_policy_is_watched(built: Built) -> None:
    assert built.file in built.sidecar.watched_files


def test_warnings_are_logged_and_shown(tmp_path: Path) -> None:
    policy = "rules: [{name: shut, deny: anyone}, {name: never, hosts: [a.example], allow: anyone}]"
    with capture_logs() as logs:
        built = Built(tmp_path, policy)
    assert [line["event"] for line in logs] == ["policy warning"]
    assert "never decides" in built.sidecar.describe()["warnings"][0]


async def test_it_starts_and_stops(built: Built) -> None:
    await built.sidecar.start()
    await built.sidecar.finish_streams()
    await built.sidecar.stop()
