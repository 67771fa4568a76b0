#!/usr/bin/env bash
# A server may end a client-streaming call before it has read all messages, with a status that says why. The synchronous
# client reports this status. In grpc.aio a write at that moment raises INTERNAL "Internal error from Core", and code()
# and details() of the call repeat it: the status of the server is lost. Awaiting the call mostly returns the server's
# status.
# Needs: python3 with venv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check grpcio==1.85.1
cat > see.py <<'PYTHON'
import asyncio, collections, sys, grpc, grpc.aio

METHOD, MESSAGE = "/probe.Probe/Send", b"x" * 1000

async def refuse(messages, context):
    async for _ in messages:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")

class Handlers(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.stream_unary_rpc_method_handler(refuse)

def synchronous(target):
    with grpc.insecure_channel(target) as channel:
        try:
            channel.stream_unary(METHOD)(iter([MESSAGE] * 100_000), timeout=10)
        except grpc.RpcError as error:
            return error.code().name, error.details()

async def aio(target, how):
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.stream_unary(METHOD)(timeout=10)
        try:
            while True:
                await call.write(MESSAGE)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        if how == "code()":
            return (await call.code()).name, await call.details()
        try:
            await call
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details()

async def main():
    server = grpc.aio.server(handlers=[Handlers()])
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    seen = {
        "synchronous client": [await asyncio.to_thread(synchronous, target) for _ in range(100)],
        "grpc.aio client, await call": [await aio(target, "await") for _ in range(100)],
        "grpc.aio client, call.code()": [await aio(target, "code()") for _ in range(100)],
    }
    await server.stop(None)
    print(f"grpcio {grpc.__version__}, Python {sys.version.split()[0]}")
    for client, statuses in seen.items():
        for (code, details), count in collections.Counter(statuses).most_common():
            print(f"{client}: {count} times {code} {details!r}")
    real, lost = ("RESOURCE_EXHAUSTED", "enough"), ("INTERNAL", "Internal error from Core")
    return set(seen["synchronous client"]) == {real} and lost in seen["grpc.aio client, call.code()"]

sys.exit(0 if asyncio.run(main()) else 1)
PYTHON
timeout 120 venv/bin/python see.py
