#!/usr/bin/env bash
# A load tool that is used as a check should fail when the calls fail. ghz exits with 0 even if all calls failed, so
# read the distribution of status codes.
# Needs: go, python3 with venv.
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$folder"' EXIT
cd "$folder"
GOBIN=$folder/bin go install github.com/bojand/ghz/cmd/ghz@v0.93.0 2>/dev/null
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check grpcio==1.85.1
cat > probe.proto <<'PROTO'
syntax = "proto3";
package probe;
message Nothing {}
service Probe { rpc Ask(Nothing) returns (Nothing); }
PROTO
cat > serve.py <<'PYTHON'
import concurrent.futures, grpc

class Refuse(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: context.abort(grpc.StatusCode.UNAVAILABLE, "not today")
        )

server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), handlers=[Refuse()])
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
PYTHON
venv/bin/python serve.py > port & server=$!
until [ -s port ]; do sleep 0.1; done
code=0
bin/ghz --insecure --proto probe.proto --call probe.Probe/Ask -d '{}' -n 50 -c 5 "127.0.0.1:$(cat port)" > output || code=$?
echo "ghz $(go version -m bin/ghz | awk '$1 == "mod" {print $3}')"
sed -n '/^Status code distribution/,$p' output
echo "exit code $code"
grep -q '\[Unavailable\] *50 responses' output && [ "$code" = 0 ]
