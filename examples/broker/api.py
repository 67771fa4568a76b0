"""The Open Service Broker API 2.17: the catalog, and instances that are provisioned asynchronously.

`application` is the factory for uvicorn. README.md next to this file says how to run it.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any, Final

import orjson
from botocore.exceptions import BotoCoreError, ClientError
from catalog import CATALOG, OFFERING_ID, PLANS
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from instances import ChangedError, Instance, Instances, Kind, NameTakenError, State, Wanted
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from settings import Settings

VERSION: Final = (2, 17)
"""The version of the API. A platform with another minor version of 2 is served, too (it is compatible)."""

MAX_BODY_BYTES: Final = 64 * 1024

_Next = Callable[[Request], Awaitable[Response]]

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
InstanceId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]


class Parameters(BaseModel):
    """What a user configures: a service file of the intent, without its owner and tier.

    The build checks the content of each key; here only the keys are known.
    """

    model_config = ConfigDict(extra="forbid")

    service: Name
    description: str | None = None
    hosts: list[str] = Field(min_length=1)
    upstream: dict[str, Any]
    routes: list[dict[str, Any]] = Field(min_length=1)
    log: dict[str, Any] | None = None
    objectives: dict[str, Any] | None = None


class Provision(BaseModel):
    """The body of a PUT. Unknown fields are ignored, as the specification says."""

    service_id: str
    plan_id: str
    context: dict[str, Any]
    parameters: Parameters


class Update(BaseModel):
    """The body of a PATCH. What is absent does not change."""

    service_id: str
    plan_id: str | None = None
    parameters: dict[str, Any] | None = None


class Refusal(HTTPException):
    """An answer with an error code of the specification (`AsyncRequired`, `ConcurrencyError`) or without."""

    def __init__(self, status: int, description: str, error: str | None = None) -> None:
        super().__init__(status, {"description": description} | ({"error": error} if error else {}))


class Broker:
    """The operations on instances."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._instances = Instances(settings.aws("dynamodb"), settings.table)
        self._sqs = settings.aws("sqs")

    def provision(self, instance_id: str, wish: Provision) -> tuple[int, dict[str, Any]]:
        """Return status and body of a PUT."""
        owner = wish.context.get(self._settings.owner_key)
        if not isinstance(owner, str) or not owner:
            raise Refusal(400, f"context.{self._settings.owner_key} does not name a team")
        wanted = Wanted(owner, PLANS[wish.plan_id], wish.parameters.model_dump(exclude_none=True))
        before = self._instances.get(instance_id)
        if before is not None:
            if before.wanted != wanted:
                raise Refusal(409, "an instance with this id exists, with other attributes")
            if before.state is State.IN_PROGRESS:
                return self._still(before, Kind.PROVISION)
            if before.applied is not None:
                return 200, {}
        return self._begin(Instance(instance_id, wanted, None, Kind.PROVISION, "", State.IN_PROGRESS), before)

    def update(self, instance_id: str, wish: Update) -> tuple[int, dict[str, Any]]:
        """Return status and body of a PATCH."""
        before = self._existing(instance_id, 404)
        parameters = before.wanted.parameters
        if wish.parameters is not None:
            parameters = Parameters.model_validate(wish.parameters).model_dump(exclude_none=True)
        plan = before.wanted.plan if wish.plan_id is None else PLANS[wish.plan_id]
        wanted = replace(before.wanted, plan=plan, parameters=parameters)
        if wanted.service != before.wanted.service:
            raise Refusal(422, "a service cannot be renamed: provision another one")
        if before.state is State.IN_PROGRESS:
            if wanted != before.wanted:
                raise Refusal(422, "another operation is in progress", "ConcurrencyError")
            return self._still(before, Kind.UPDATE)
        if before.applied is None:
            raise Refusal(422, "the instance was never provisioned")
        if wanted == before.applied:
            return 200, {}
        return self._begin(replace(before, wanted=wanted, kind=Kind.UPDATE, state=State.IN_PROGRESS), before)

    def deprovision(self, instance_id: str) -> tuple[int, dict[str, Any]]:
        """Return status and body of a DELETE."""
        before = self._existing(instance_id, 410)
        if before.state is State.IN_PROGRESS:
            return self._still(before, Kind.DEPROVISION)
        return self._begin(replace(before, kind=Kind.DEPROVISION, state=State.IN_PROGRESS), before)

    def last_operation(self, instance_id: str, operation: str | None) -> Instance:
        """Return the instance, whose last operation is `operation`. 410 once it is gone."""
        found = self._existing(instance_id, 410)
        if operation not in {None, found.operation}:
            raise Refusal(400, "operation is not the last one of this instance")
        return found

    def _existing(self, instance_id: str, status: int) -> Instance:
        found = self._instances.get(instance_id)
        if found is None:
            raise Refusal(status, "there is no such instance")
        return found

    def _still(self, instance: Instance, kind: Kind) -> tuple[int, dict[str, Any]]:
        """Answer a request while an operation is in progress, and queue that again.

        Its message may be lost, if the API ended between the two writes; a second one does no harm.
        """
        self._send(instance)
        if instance.kind is not kind:
            raise Refusal(422, "another operation is in progress", "ConcurrencyError")
        return 202, {"operation": instance.operation}

    def _begin(self, instance: Instance, before: Instance | None) -> tuple[int, dict[str, Any]]:
        begun = replace(instance, operation=secrets.token_hex(8), description="")
        try:
            self._instances.begin(begun, before)
        except ChangedError:
            raise Refusal(422, "another operation has begun", "ConcurrencyError") from None
        except NameTakenError as error:
            raise Refusal(400, f"the service name {error} is taken") from None
        self._send(begun)
        return 202, {"operation": begun.operation}

    def _send(self, instance: Instance) -> None:
        task = orjson.dumps({"instance": instance.id, "operation": instance.operation}).decode()
        try:
            self._sqs.send_message(QueueUrl=self._settings.queue_url, MessageBody=task)
        except (BotoCoreError, ClientError):
            raise Refusal(503, "the queue does not answer; send the request again") from None


def application() -> FastAPI:
    """The application, configured by the environment."""
    settings = Settings.of()
    broker = Broker(settings)
    guard = [Depends(_authentication(settings)), Depends(_check_version)]
    app = FastAPI(title="edge service broker", dependencies=guard, docs_url=None, openapi_url=None)
    app.middleware("http")(_bound_and_identify)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    path = "/v2/service_instances/{instance_id}"

    @app.get("/v2/catalog")
    def catalog() -> dict[str, Any]:
        return CATALOG

    @app.put(path)
    def provision(
        instance_id: InstanceId, wish: Provision, response: Response, accepts_incomplete: bool = False
    ) -> dict[str, Any]:
        _check_ids(wish.service_id, wish.plan_id)
        _check_asynchronous(accepts_incomplete)
        response.status_code, body = broker.provision(instance_id, wish)
        return body

    @app.patch(path)
    def update(
        instance_id: InstanceId, wish: Update, response: Response, accepts_incomplete: bool = False
    ) -> dict[str, Any]:
        _check_ids(wish.service_id, wish.plan_id)
        _check_asynchronous(accepts_incomplete)
        try:
            response.status_code, body = broker.update(instance_id, wish)
        except ValueError as error:
            raise Refusal(400, _problems(error)) from None
        return body

    @app.delete(path)
    def deprovision(
        instance_id: InstanceId,
        service_id: str,
        plan_id: str,
        response: Response,
        accepts_incomplete: bool = False,
    ) -> dict[str, Any]:
        _check_ids(service_id, plan_id)
        _check_asynchronous(accepts_incomplete)
        response.status_code, body = broker.deprovision(instance_id)
        return body

    @app.get(f"{path}/last_operation")
    def last_operation(
        instance_id: InstanceId,
        response: Response,
        operation: Annotated[str | None, Query(max_length=10_000)] = None,
    ) -> dict[str, Any]:
        found = broker.last_operation(instance_id, operation)
        if found.state is State.IN_PROGRESS:
            response.headers["Retry-After"] = "2"
        return {"state": found.state, "description": found.description}

    return app


def _authentication(settings: Settings) -> Any:
    def check(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> None:
        shown = f"{credentials.username}:{credentials.password}".encode()
        if not hmac.compare_digest(shown, f"{settings.user}:{settings.password}".encode()):
            raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})

    return check


def _check_version(x_broker_api_version: Annotated[str | None, Header()] = None) -> None:
    major, _, minor = (x_broker_api_version or "").partition(".")
    if major != str(VERSION[0]) or not minor.isdecimal():
        raise Refusal(412, f"the header X-Broker-API-Version must be 2.x; this is {VERSION[0]}.{VERSION[1]}")


async def _bound_and_identify(request: Request, call_next: _Next) -> Response:
    """Refuse a body that is large or of unknown length, and return the platform's name of the request."""
    length = request.headers.get("content-length", "0")
    if "transfer-encoding" in request.headers or not length.isdecimal() or int(length) > MAX_BODY_BYTES:
        response: Response = JSONResponse({"description": f"a body has at most {MAX_BODY_BYTES} bytes"}, 413)
    else:
        response = await call_next(request)
    identity = request.headers.get("x-broker-api-request-identity")
    if identity is not None:
        response.headers["X-Broker-API-Request-Identity"] = identity
    return response


def _check_ids(service_id: str, plan_id: str | None) -> None:
    if service_id != OFFERING_ID or (plan_id is not None and plan_id not in PLANS):
        raise Refusal(400, "service_id or plan_id is not in the catalog")


def _check_asynchronous(accepts_incomplete: bool) -> None:
    if not accepts_incomplete:
        raise Refusal(422, "this service needs accepts_incomplete=true", "AsyncRequired")


async def _refused(_request: Request, error: Any) -> JSONResponse:
    return JSONResponse(error.detail, error.status_code)


async def _malformed(_request: Request, error: Any) -> JSONResponse:
    return JSONResponse({"description": _problems(error)}, 400)


def _problems(error: Any) -> str:
    """Return the first problems of a pydantic error: where, and what."""
    found = error.errors()[:5] if hasattr(error, "errors") else []
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found) or str(error)
