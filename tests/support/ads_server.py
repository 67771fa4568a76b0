"""A state-of-the-world ADS server on grpcio and the official protos, in a process of its own.

The official protos register the names of ours, which protobuf allows only once in a process. Run with
PYTHONPATH=xds-protos as `ads_server.py ADDRESS [CERT KEY]`. It reads commands and writes events, a line of
JSON each. {"version": V, "type_url": T, "resources": [[TYPE_URL, BASE64], ...]} sets what is sent to every
stream, now and later; {"end": true} ends all streams. The events are {"port": P}, then each request.
"""

import base64
import json
import queue
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2  # type: ignore[import-not-found, import-untyped, unused-ignore]
from google.protobuf.json_format import MessageToDict

_lock = threading.Lock()


def say(event: dict[str, Any]) -> None:
    with _lock:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


class Server(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]  # it has no types
    def __init__(self) -> None:
        self.current: dict[str, Any] | None = None
        self.streams: list[queue.Queue[Any]] = []

    def StreamAggregatedResources(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        todo: queue.Queue[Any] = queue.Queue()

        def read() -> None:
            try:
                for request in requests:
                    say({"request": MessageToDict(request, preserving_proto_field_name=True)})
                    if not request.response_nonce and self.current is not None:
                        todo.put(self.current)
            except grpc.RpcError:
                pass
            todo.put(None)

        threading.Thread(target=read, daemon=True).start()
        say(
            {
                "metadata": {
                    key: value for key, value in context.invocation_metadata() if isinstance(value, str)
                }
            }
        )
        self.streams.append(todo)
        number = 0
        while (command := todo.get()) is not None:
            number += 1
            response = discovery_pb2.DiscoveryResponse(
                version_info=command["version"], nonce=f"n{number}", type_url=command["type_url"]
            )
            for type_url, value in command["resources"]:
                response.resources.add(type_url=type_url, value=base64.b64decode(value))
            yield response
        self.streams.remove(todo)

    def command(self, command: dict[str, Any]) -> None:
        if "version" in command:
            self.current = command
        for stream in list(self.streams):
            stream.put(None if command.get("end") else command)


def main(address: str, *files: str) -> None:
    server, servicer = grpc.server(ThreadPoolExecutor(8)), Server()
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(servicer, server)
    if files:
        cert, key = (Path(file).read_bytes() for file in files)
        port = server.add_secure_port(address, grpc.ssl_server_credentials([(key, cert)]))
    else:
        port = server.add_insecure_port(address)
    server.start()
    say({"port": port})
    for line in sys.stdin:
        servicer.command(json.loads(line))
    server.stop(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
