"""What the environment configures, for the API and the worker."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import boto3
from botocore.config import Config


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the broker."""

    user: str
    password: str
    """What the platform authenticates with (HTTP Basic)."""
    owner_key: str
    """The key of the platform's `context` that names the team: organization_name on Cloud Foundry."""
    table: str
    """The DynamoDB table, whose key is `pk` (a string)."""
    queue_url: str
    """The SQS queue. Let its redrive policy keep what is received more than six times."""
    endpoint_url: str | None
    """The address of a stand-in for AWS; None for AWS itself."""
    intents: Path
    """The folder with platform.yaml and services/."""
    out: Path
    """The folder that the build writes to."""
    build: tuple[str, ...]
    """The command that checks and builds; {folder} and {out} are replaced."""

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Return the settings. Raises KeyError for a missing variable, OSError for an unreadable file."""
        password_file = Path(environment["BROKER_PASSWORD_FILE"])
        command = environment.get("BROKER_BUILD", "sidecars edge build {folder} --out {out}")
        return cls(
            user=environment.get("BROKER_USER", "platform"),
            password=password_file.read_text(encoding="utf-8").strip(),
            owner_key=environment.get("BROKER_OWNER_KEY", "organization_name"),
            table=environment["BROKER_TABLE"],
            queue_url=environment["BROKER_QUEUE_URL"],
            endpoint_url=environment.get("BROKER_ENDPOINT_URL"),
            intents=Path(environment["BROKER_INTENTS"]),
            out=Path(environment["BROKER_OUT"]),
            build=tuple(shlex.split(command)),
        )

    def aws(self, service: str) -> Any:
        """Return a client of `dynamodb` or `sqs`."""
        bounds = Config(connect_timeout=5, read_timeout=30, retries={"max_attempts": 3, "mode": "standard"})
        return boto3.client(service, endpoint_url=self.endpoint_url, config=bounds)
