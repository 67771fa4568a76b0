"""The service instances in DynamoDB, and the names that they hold."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from botocore.exceptions import ClientError


class State(StrEnum):
    """The state of the last operation, in the words of the Open Service Broker API."""

    IN_PROGRESS = "in progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Kind(StrEnum):
    """The kind of the last operation."""

    PROVISION = "provision"
    UPDATE = "update"
    DEPROVISION = "deprovision"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a user asks for. `owner` is the team, which the platform names and no user can choose."""

    owner: str
    plan: str
    parameters: Mapping[str, Any]

    @property
    def service(self) -> str:
        """The name of the service, unique among all instances."""
        return str(self.parameters["service"])


@dataclass(frozen=True, slots=True)
class Instance:
    """A service instance, with its last operation."""

    id: str
    wanted: Wanted
    applied: Wanted | None
    """What is in the intent file; None before the first success."""
    kind: Kind
    operation: str
    state: State
    description: str = ""

    def to_item(self) -> dict[str, Any]:
        """Return the item of the table. Operation and state are attributes of their own, for conditions."""
        return {
            "pk": {"S": f"instance#{self.id}"},
            "operation": {"S": self.operation},
            "state": {"S": self.state},
            "content": {"S": json.dumps(asdict(self))},
        }

    @classmethod
    def from_item(cls, item: Mapping[str, Any]) -> Self:
        """Return the instance in an item."""
        content = json.loads(item["content"]["S"])
        applied = content["applied"]
        return cls(
            content["id"],
            Wanted(**content["wanted"]),
            None if applied is None else Wanted(**applied),
            Kind(content["kind"]),
            content["operation"],
            State(content["state"]),
            content["description"],
        )


class ChangedError(Exception):
    """Another request has changed the instance."""


class NameTakenError(Exception):
    """Another instance has a service of this name."""


class Instances:
    """The table. Each change is conditional, so concurrent requests and repeated messages do no harm."""

    def __init__(self, dynamodb: Any, table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    def get(self, instance_id: str) -> Instance | None:
        """Return the instance; None if there is none."""
        key = {"pk": {"S": f"instance#{instance_id}"}}
        found = self._dynamodb.get_item(TableName=self._table, Key=key, ConsistentRead=True)
        return Instance.from_item(found["Item"]) if "Item" in found else None

    def begin(self, instance: Instance, before: Instance | None) -> None:
        """Store an operation that begins, if the instance is still as `before`, and hold the service's name.

        Raises ChangedError and NameTakenError.
        """
        name = {"pk": {"S": f"service#{instance.wanted.service}"}, "instance": {"S": instance.id}}
        held = {
            "TableName": self._table,
            "Item": name,
            "ConditionExpression": "attribute_not_exists(pk) OR instance = :id",
            "ExpressionAttributeValues": {":id": {"S": instance.id}},
        }
        try:
            put = {"Put": self._as_before(instance, before)}
            self._dynamodb.transact_write_items(TransactItems=[put, {"Put": held}])
        except ClientError as error:
            reasons = [reason.get("Code") for reason in error.response.get("CancellationReasons", [])]
            if not {"ConditionalCheckFailed", "TransactionConflict"} & set(reasons):
                raise
            # In the order of the items; "None" for one whose condition holds.
            if reasons == ["None", "ConditionalCheckFailed"]:
                raise NameTakenError(instance.wanted.service) from None
            raise ChangedError(instance.id) from None

    def finish(self, instance: Instance) -> None:
        """Store the end of the operation of `instance`, unless it has ended already."""
        in_progress = {":operation": {"S": instance.operation}, ":state": {"S": State.IN_PROGRESS}}
        self._conditionally(
            self._dynamodb.put_item,
            Item=instance.to_item(),
            ConditionExpression="operation = :operation AND #state = :state",
            ExpressionAttributeNames={"#state": "state"},
            ExpressionAttributeValues=in_progress,
        )

    def remove(self, instance: Instance) -> None:
        """Delete the instance, and let its name go."""
        for key in (f"service#{instance.wanted.service}", f"instance#{instance.id}"):
            self._dynamodb.delete_item(TableName=self._table, Key={"pk": {"S": key}})

    def _as_before(self, instance: Instance, before: Instance | None) -> dict[str, Any]:
        put: dict[str, Any] = {"TableName": self._table, "Item": instance.to_item()}
        if before is None:
            return put | {"ConditionExpression": "attribute_not_exists(pk)"}
        values = {":operation": {"S": before.operation}, ":state": {"S": before.state}}
        return put | {
            "ConditionExpression": "operation = :operation AND #state = :state",
            "ExpressionAttributeNames": {"#state": "state"},
            "ExpressionAttributeValues": values,
        }

    def _conditionally(self, write: Any, **options: Any) -> None:
        try:
            write(TableName=self._table, **options)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
