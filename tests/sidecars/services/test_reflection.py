"""Server reflection, as grpc/grpc doc/server-reflection.md wants it, on both transports."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from protos.descriptors import read_descriptors
from protos.reflection_pb2 import ExtensionRequest, ServerReflectionRequest, ServerReflectionResponse
from sidecars.services.reflection import MAX_STREAMS, NAMES, Reflection
from sidecars.transport.api.address import UnixAddress
from sidecars.transport.server.connection_manager import ConnectionManager
from sidecars.transport.server.protocol import SocketProtocol
from sidecars.transport.server.server import GrpcServer
from tests.support.running import SIDECARS, WAIT_SECONDS, Running, connect
from tests.support.transport.harness import (
    LOOPBACK,
    TRANSPORTS,
    Client,
    Served,
    make_server,
    outcome,
    read_all,
    settled,
    until,
    within,
)
from tests.support.transport.rawclient import message, raw_client, request_headers

AUTHORIZATION = "envoy.service.auth.v3.Authorization"
Question = ServerReflectionRequest


class Asked:
    """A server with reflection, and a client that asks it."""

    def __init__(self, reflection: Reflection, target: str) -> None:
        self.reflection = reflection
        self.client = Client(target)

    def open(self, service: str = NAMES[0], requests: Any = None) -> Any:
        return self.client.both(f"/{service}/ServerReflectionInfo", requests)

    async def ask(self, *questions: Question, service: str = NAMES[0]) -> list[ServerReflectionResponse]:
        call = self.open(service, iter([question.SerializeToString() for question in questions]))
        return [ServerReflectionResponse.FromString(reply) for reply in await read_all(call)]

    async def files(self, question: Question) -> list[FileDescriptorProto]:
        [answer] = await self.ask(question)
        files = answer.file_descriptor_response.file_descriptor_proto
        return [FileDescriptorProto.FromString(file) for file in files]

    async def error(self, question: Question) -> int:
        [answer] = await self.ask(question)
        assert answer.WhichOneof("message_response") == "error_response"
        assert answer.error_response.error_message
        return answer.error_response.error_code


@pytest_asyncio.fixture(params=TRANSPORTS)
async def asked(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Asked]:
    reflection = Reflection([AUTHORIZATION])
    address = UnixAddress(str(tmp_path / "s"))
    server = make_server(request.param, reflection.services, (address,))
    await server.start()
    found = Asked(reflection, f"unix:{address.path}")
    yield found
    await found.client.channel.close()
    await within(server.drain(0))


@pytest.mark.parametrize("service", NAMES)
async def test_it_lists_what_the_address_serves(asked: Asked, service: str) -> None:
    [answer] = await asked.ask(Question(host="h", list_services="*"), service=service)
    assert [one.name for one in answer.list_services_response.service] == [AUTHORIZATION, *NAMES]
    assert answer.valid_host == "h"
    assert answer.original_request == Question(host="h", list_services="*")


async def test_a_client_that_knows_nothing_can_build_every_message(asked: Asked) -> None:
    files = await asked.files(Question(file_containing_symbol=AUTHORIZATION))
    pool = DescriptorPool()
    imports_first = [one.name for one in read_descriptors().file]
    for file in sorted(files, key=lambda one: imports_first.index(one.name)):
        pool.Add(file)
    check = pool.FindMethodByName(f"{AUTHORIZATION}.Check")
    assert check.input_type.full_name == "envoy.service.auth.v3.CheckRequest"
    metadata = check.output_type.fields_by_name["dynamic_metadata"].message_type
    assert metadata is not None
    assert metadata.full_name == "google.protobuf.Struct"


@pytest.mark.parametrize(
    "symbol",
    [
        AUTHORIZATION,
        f"{AUTHORIZATION}.Check",
        "envoy.service.auth.v3.AttributeContext.HttpRequest",
        "envoy.service.auth.v3.AttributeContext.HttpRequest.path",
    ],
)
async def test_every_kind_of_symbol_leads_to_its_file_and_what_it_imports(asked: Asked, symbol: str) -> None:
    names = [file.name for file in await asked.files(Question(file_containing_symbol=symbol))]
    assert names[0] == "protos/authz.proto"
    assert {"protos/core.proto", "google/protobuf/struct.proto", "google/rpc/status.proto"} < set(names)
    assert len(set(names)) == len(names)


async def test_a_file_is_found_by_its_name(asked: Asked) -> None:
    files = await asked.files(Question(file_by_filename="google/protobuf/any.proto"))
    assert [file.name for file in files] == ["google/protobuf/any.proto"]


@pytest.mark.parametrize(
    "question",
    [
        Question(file_containing_symbol="no.such.Thing"),
        Question(file_containing_symbol=""),
        Question(file_containing_symbol="envoy.service.auth.v3"),
        Question(file_by_filename="/etc/passwd"),
        Question(all_extension_numbers_of_type="no.such.Thing"),
        Question(file_containing_extension=ExtensionRequest(containing_type="google.protobuf.Any")),
    ],
    ids=["symbol", "empty", "package", "file", "type", "extension"],
)
async def test_what_is_not_there_is_not_found(asked: Asked, question: Question) -> None:
    assert await asked.error(question) == grpc.StatusCode.NOT_FOUND.value[0]


async def test_a_message_has_no_extensions(asked: Asked) -> None:
    name = "envoy.service.auth.v3.CheckRequest"
    [answer] = await asked.ask(Question(all_extension_numbers_of_type=name))
    assert answer.all_extension_numbers_response.base_type_name == name
    assert not answer.all_extension_numbers_response.extension_number


async def test_a_request_without_a_question_is_an_invalid_argument(asked: Asked) -> None:
    assert await asked.error(Question(host="h")) == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_questions_are_answered_in_their_order_and_the_stream_survives_a_wrong_one(
    asked: Asked,
) -> None:
    answers = await asked.ask(
        Question(list_services="1"), Question(file_by_filename="none"), Question(list_services="3")
    )
    assert [answer.WhichOneof("message_response") for answer in answers] == [
        "list_services_response",
        "error_response",
        "list_services_response",
    ]


async def test_bytes_that_are_not_a_request_end_the_stream(asked: Asked) -> None:
    call = asked.open(requests=iter([b"\xff\xff"]))
    assert (await outcome(read_all(call)))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_shutdown_ends_an_open_stream_with_ok_after_its_answers(asked: Asked) -> None:
    """As grpcui keeps one open as long as it runs."""
    call = asked.open()
    await call.write(Question(list_services="").SerializeToString())
    assert await within(call.read())
    asked.reflection.finish_streams()
    assert await within(call.read()) is grpc.aio.EOF
    assert await within(call.code()) is grpc.StatusCode.OK
    assert await read_all(asked.open()) == []


async def test_streams_have_a_limit_and_leave_their_place(asked: Asked) -> None:
    question = Question(list_services="").SerializeToString()
    calls = [asked.open() for _ in range(MAX_STREAMS)]
    for call in calls:
        await call.write(question)
        assert await within(call.read())
    code, text = await outcome(read_all(asked.open()))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(MAX_STREAMS) in text
    await calls[0].done_writing()
    assert await read_all(calls[0]) == []
    assert len(await asked.ask(Question(list_services=""))) == 1


async def test_answers_that_are_not_read_do_not_pile_up() -> None:
    """A question of 25 bytes has an answer of 40 KB, and the client opens its windows as wide as it likes."""
    reflection = Reflection([])
    server = GrpcServer(reflection.services, (LOOPBACK,))
    await server.start()
    asked = message(Question(file_by_filename="protos/authz.proto").SerializeToString())
    async with raw_client(Served(server, (LOOPBACK,)), INITIAL_WINDOW_SIZE=2**31 - 1) as client:
        client.h2.increment_flow_control_window(2**30)
        path = f"/{NAMES[0]}/ServerReflectionInfo"
        stream_id = client.open(request_headers(path))
        client.send(stream_id, asked * 600)
        assert server._connections is not None
        [protocol] = await within(opened(server._connections))
        transport = protocol._transport
        assert transport is not None
        await until(lambda: transport.get_write_buffer_size() > 0)
        largest = await settled(transport.get_write_buffer_size)
        assert largest < 1_000_000
    await within(server.drain(0))


async def opened(connections: ConnectionManager) -> set[SocketProtocol]:
    await until(lambda: bool(connections._open))
    return connections._open


class TestProcess:
    @pytest.fixture(params=TRANSPORTS)
    def settings(self, request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
        (tmp_path / "policy.yaml").write_text("rules: []\n")
        sink = {"type": "file", "path": str(tmp_path / "access.jsonl")}
        return {
            "transport": request.param,
            "authz": {"listen": [f"unix:{tmp_path}/authz"], "policy": ["policy.yaml"]},
            "accesslog": {"listen": [f"unix:{tmp_path}/accesslog"], "sinks": [sink]},
        }

    @staticmethod
    def listed(address: str) -> list[str]:
        with connect(address) as channel:
            ask = channel.stream_stream(f"/{NAMES[0]}/ServerReflectionInfo")
            question = Question(list_services="").SerializeToString()
            [reply] = ask(iter([question]), timeout=WAIT_SECONDS, wait_for_ready=True)
        answer = ServerReflectionResponse.FromString(reply)
        return [one.name for one in answer.list_services_response.service]

    def test_each_address_lists_its_own_services(self, settings: dict[str, Any], tmp_path: Path) -> None:
        with Running(tmp_path, settings, program=SIDECARS) as running:
            running.wait_until_ready()
            authz, accesslog = (self.listed(f"unix:{tmp_path}/{name}") for name in ("authz", "accesslog"))
        shared = ["grpc.health.v1.Health", *NAMES]
        assert authz == [AUTHORIZATION, *shared]
        assert accesslog == ["envoy.service.accesslog.v3.AccessLogService", *shared]

    def test_a_setting_turns_it_off(self, settings: dict[str, Any], tmp_path: Path) -> None:
        with Running(tmp_path, {**settings, "reflection": False}, program=SIDECARS) as running:
            running.wait_until_ready()
            with pytest.raises(grpc.RpcError) as caught:
                self.listed(f"unix:{tmp_path}/authz")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
