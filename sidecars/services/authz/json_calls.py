"""Handles calls that are JSON objects: their fields, and the statuses of what goes wrong."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson

from authz.credentials.admin import CredentialAdminError
from authz.credentials.core.store_errors import StoreUnavailableError
from authz.credentials.revocation.revocation_list import RevocationsFullError
from authz.credentials.session.model import StoreFullError
from common.configfile import json_place
from sidecars.admin.routes import AdminAnswer, AdminRequest

NO_STORE: Final = {"cache-control": "no-store"}


async def with_json(
    request: AdminRequest, work: Callable[[Mapping[str, Any]], Awaitable[Any]]
) -> AdminAnswer:
    """Return the answer with the result of `work` on the JSON object in the body, or with what is wrong."""
    # A page of another site can send a form to this port from a browser, but no JSON.
    if request.content_type != "application/json":
        return failed(415, "bad_request", "expected application/json")
    try:
        asked = orjson.loads(request.body)
        if not isinstance(asked, dict):
            return failed(400, "bad_request", "expected a JSON object")
        return await answered(work(asked))
    except orjson.JSONDecodeError as error:
        return failed(400, "bad_request", f"no JSON from {json_place(error)} on")
    except CredentialAdminError as error:
        return failed(400, "bad_request", str(error))


async def answered(work: Awaitable[Any]) -> AdminAnswer:
    """Return the answer with the result of `work` as JSON, or with the status of its failure."""
    try:
        return AdminAnswer(200, orjson.dumps(await work), headers=NO_STORE)
    except (CredentialAdminError, ValueError) as error:
        return failed(400, "bad_request", str(error))
    except (StoreFullError, RevocationsFullError) as error:
        return failed(507, "full", str(error))
    except StoreUnavailableError as error:
        return failed(503, "unavailable", str(error))


def failed(status: int, error: str, description: str) -> AdminAnswer:
    """Return an answer in the form of RFC 6749 section 5.2."""
    body = orjson.dumps({"error": error, "error_description": description})
    return AdminAnswer(status, body, headers=NO_STORE)


def text(asked: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """Return the text `name`. Raises CredentialAdminError."""
    value = asked.get(name, default)
    if not isinstance(value, str):
        raise CredentialAdminError(f"{name} is a text")
    return value


def texts(asked: Mapping[str, Any], name: str) -> list[str]:
    """Return the list of texts `name`, empty by default. Raises CredentialAdminError."""
    value = asked.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise CredentialAdminError(f"{name} is a list of texts")
    return value
