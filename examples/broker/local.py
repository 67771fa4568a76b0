"""Runs the broker with everything around it on this machine: `python local.py FOLDER`, until Ctrl-C.

FOLDER has platform.yaml and services/, as examples/edge of this repository; the build writes to FOLDER-built.
SQS and DynamoDB are those of moto, in memory. PORT of the environment is that of the API.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

HERE = Path(__file__).parent
START_SECONDS = 60.0


def main() -> None:
    """Run until Ctrl-C or SIGTERM."""
    intents = Path(sys.argv[1]).absolute()
    port = int(os.environ.get("PORT", "8090"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="broker-local-")))
        aws_port = _free_port()
        aws = {
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": "eu-west-1",
        }
        os.environ.update(aws)
        _start(running, [_script("moto_server"), "-H", "127.0.0.1", "-p", str(aws_port)], {})
        endpoint = f"http://127.0.0.1:{aws_port}"
        password = folder / "password"
        password.touch(mode=0o600)
        password.write_text(os.environ.get("PASSWORD") or secrets.token_urlsafe(16), encoding="ascii")
        settings = {
            "BROKER_PASSWORD_FILE": str(password),
            "BROKER_TABLE": "edge-broker",
            "BROKER_QUEUE_URL": _create(endpoint),
            "BROKER_ENDPOINT_URL": endpoint,
            "BROKER_INTENTS": str(intents),
            "BROKER_OUT": f"{intents}-built",
            "BROKER_BUILD": os.environ.get(
                "BROKER_BUILD", f"{sys.executable} -m sidecars edge build {{folder}} --out {{out}}"
            ),
        }
        _start(running, [sys.executable, str(HERE / "worker.py")], settings)
        api = ["-m", "uvicorn", "--factory", "api:application", "--app-dir", str(HERE), "--port", str(port)]
        _start(running, [sys.executable, *api, "--no-access-log"], settings)
        sys.stdout.write(f"the broker: http://platform:{password.read_text()}@127.0.0.1:{port}/v2/catalog\n")
        sys.stdout.flush()
        signal.pause()


def _create(endpoint: str) -> str:
    """Create the table and the queues in the stand-in, once it answers, and return the URL of the queue."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            dynamodb = boto3.client("dynamodb", endpoint_url=endpoint)
            dynamodb.list_tables()
            break
        except (BotoCoreError, ClientError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    dynamodb.create_table(
        TableName="edge-broker",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    queue: dict[str, Any] = boto3.client("sqs", endpoint_url=endpoint).create_queue(QueueName="edge-broker")
    return str(queue["QueueUrl"])


def _start(running: ExitStack, command: list[str], settings: dict[str, str]) -> None:
    process = subprocess.Popen(command, env={**os.environ, **settings})

    def stop() -> None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    running.callback(stop)


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
