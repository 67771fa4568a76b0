"""Does what the API has put into the queue: `python worker.py` until SIGTERM.

SQS delivers a message at least once, and several workers may run: an operation that has ended, or that is
not the last one of its instance, is dropped.
"""

import json
import logging
import signal
from dataclasses import replace
from typing import Any, Final

from instances import Instance, Instances, Kind, State
from intents import Intents, RefusedError
from settings import Settings

WAIT_SECONDS: Final = 5
VISIBILITY_SECONDS: Final = 300
"""How long a message is hidden from other workers. A build takes two of BUILD_SECONDS at most."""

MAX_ATTEMPTS: Final = 5
"""How often a defect or an outage is tried again, before the operation fails."""

_log = logging.getLogger("broker.worker")


class Worker:
    """Takes one task at a time."""

    def __init__(self, settings: Settings) -> None:
        self._queue_url = settings.queue_url
        self._sqs = settings.aws("sqs")
        self._instances = Instances(settings.aws("dynamodb"), settings.table)
        self._intents = Intents(settings)
        self.stopped = False

    def run(self) -> None:
        """Work until `stopped`."""
        while not self.stopped:
            received = self._sqs.receive_message(
                QueueUrl=self._queue_url,
                MaxNumberOfMessages=1,
                WaitTimeSeconds=WAIT_SECONDS,
                VisibilityTimeout=VISIBILITY_SECONDS,
                AttributeNames=["ApproximateReceiveCount"],
            )
            for message in received.get("Messages", []):
                self._work(message)

    def _work(self, message: dict[str, Any]) -> None:
        task = json.loads(message["Body"])
        instance = self._instances.get(task["instance"])
        is_last = instance is not None and instance.operation == task["operation"]
        if instance is not None and is_last and instance.state is State.IN_PROGRESS:
            try:
                self._finish(instance)
            except Exception:
                _log.exception("operation %s of %s", instance.operation, instance.id)
                if int(message["Attributes"]["ApproximateReceiveCount"]) < MAX_ATTEMPTS:
                    return  # SQS delivers it again
                failed = replace(
                    instance, state=State.FAILED, description="an internal error; the log has it"
                )
                self._instances.finish(failed)
        self._sqs.delete_message(QueueUrl=self._queue_url, ReceiptHandle=message["ReceiptHandle"])

    def _finish(self, instance: Instance) -> None:
        wanted = None if instance.kind is Kind.DEPROVISION else instance.wanted
        try:
            self._intents.apply(instance.id, instance.wanted.service, wanted)
        except RefusedError as error:
            _log.info("%s of %s refused: %s", instance.kind, instance.id, error)
            # What is applied stays, and is wanted again.
            kept = instance.applied or instance.wanted
            self._instances.finish(replace(instance, wanted=kept, state=State.FAILED, description=str(error)))
            return
        _log.info("%s of %s done", instance.kind, instance.id)
        if wanted is None:
            self._instances.remove(instance)
        else:
            self._instances.finish(replace(instance, applied=wanted, state=State.SUCCEEDED))


def main() -> None:
    """Work until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    worker = Worker(Settings.of())

    def stop(*_: object) -> None:
        worker.stopped = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    worker.run()


if __name__ == "__main__":
    main()
