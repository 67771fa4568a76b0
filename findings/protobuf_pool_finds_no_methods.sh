#!/usr/bin/env bash
# A reflection request names the symbol whose file it wants: "<package>.<service>[.<method>] or <package>.<type>"
# (grpc/grpc reflection.proto). DescriptorPool.FindFileContainingSymbol finds fields and enum values, but no methods, so
# grpcio-reflection answers NOT_FOUND for each method.
# Needs: python3 with venv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
  protobuf==7.36.2 grpcio==1.85.1 grpcio-reflection==1.85.1 grpcio-health-checking==1.85.1
cat > see.py <<'PYTHON'
import concurrent.futures, sys, google.protobuf, grpc
from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

NAMES = ("Health", "HealthCheckRequest", "HealthCheckRequest.service", "HealthCheckResponse.SERVING", "Health.Check")

def in_the_pool(symbol):
    try:
        return descriptor_pool.Default().FindFileContainingSymbol(symbol).name
    except KeyError:
        return None

server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
reflection.enable_server_reflection(["grpc.health.v1.Health"], server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()

def by_reflection(stub, symbol):
    question = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
    [answer] = stub.ServerReflectionInfo(iter([question]), timeout=10)
    return answer.WhichOneof("message_response")

print(f"protobuf {google.protobuf.__version__}, grpcio-reflection 1.85.1")
missing = set()
with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    for name in NAMES:
        symbol = f"grpc.health.v1.{name}"
        found, answer = in_the_pool(symbol), by_reflection(stub, symbol)
        print(f"{symbol}: the pool finds {found}, reflection answers {answer}")
        if found is None and answer == "error_response":
            missing.add(name)
print("FindMethodByName finds", descriptor_pool.Default().FindMethodByName("grpc.health.v1.Health.Check").full_name)
server.stop(None)
sys.exit(0 if missing == {"Health.Check"} else 1)
PYTHON
venv/bin/python see.py
