"""A real Apache Kafka in KRaft mode for tests, if `$KAFKA_JARS` names the folder with its jars.

The folder is filled by `make test-all`.
"""

import base64
import os
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.support.free_ports import free_port

START_SECONDS = 60.0


class KafkaBroker:
    """One broker that is its own controller. After a stop it starts again with its data."""

    def __init__(self, folder: Path, jars: str, properties: str = "") -> None:
        self.port, controller = free_port(), free_port()
        self.servers = f"127.0.0.1:{self.port}"
        self._folder = folder
        self._java = ("java", "-Xmx256m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{jars}/*")
        self._settings = folder / "server.properties"
        self._settings.write_text(
            "process.roles=broker,controller\nnode.id=1\n"
            f"controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n"
            f"listeners=PLAINTEXT://{self.servers},CONTROLLER://127.0.0.1:{controller}\n"
            f"advertised.listeners=PLAINTEXT://{self.servers}\n"
            "controller.listener.names=CONTROLLER\n"
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
            f"log.dirs={folder}/data\n"
            "offsets.topic.replication.factor=1\n"
            "transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n"
            f"{properties}"
        )
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = ("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._settings), "--standalone")
        subprocess.run([*self._java, *tool], check=True, capture_output=True, timeout=START_SECONDS)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the broker, and wait until it answers."""
        with (self._folder / "kafka.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._java, "kafka.Kafka", str(self._settings)], stdout=log, stderr=log
            )
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        until = time.monotonic() + START_SECONDS
        while True:
            try:
                AdminClient({"bootstrap.servers": self.servers, "log_level": 0}).list_topics(timeout=2)
            except KafkaException:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError((self._folder / "kafka.log").read_text()) from None
            else:
                return

    def stop(self) -> None:
        """Kill the broker, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Suspend the broker: connections stay open without an answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume a paused broker."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def messages(self, topic: str, count: int) -> list[bytes]:
        """Return the first messages of `topic`, once there are `count` of them."""
        from confluent_kafka import Consumer, TopicPartition

        consumer: Any = Consumer({"bootstrap.servers": self.servers, "group.id": "test", "log_level": 0})
        consumer.assign([TopicPartition(topic, 0, 0)])
        found: list[bytes] = []
        until = time.monotonic() + START_SECONDS
        while len(found) < count and time.monotonic() < until:
            message = consumer.poll(0.5)
            if message is not None and message.error() is None:
                found.append(message.value())
        consumer.close()
        return found


def jars() -> str:
    """Return the folder of Kafka's jars; skips the test without it."""
    folder = os.environ.get("KAFKA_JARS")
    if not folder or shutil.which("java") is None:
        pytest.skip("needs Apache Kafka: `make test-all` fetches it and sets KAFKA_JARS")
    return folder
