"""`POST /limits/explain` and `/limits/reset` of the admin port: the limits of one request."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import orjson
import structlog

from ratelimit.bans import Bans
from ratelimit.decision import LimitPlan
from ratelimit.explain_request import ask_left, explained, plan_of
from ratelimit.plan import Modes
from ratelimit.request import RequestError
from ratelimit.reset import ResetKey
from ratelimit.rules import CompiledLimits
from ratelimit.stores.store import Store, StoreError
from sidecars.admin.routes import AdminAnswer, AdminRequest

_log = structlog.get_logger("sidecars.ratelimit")


async def answer_explain(
    limits: CompiledLimits, modes: Modes, store: Store, bans: Bans, prefix: str, request: AdminRequest
) -> AdminAnswer:
    """The explanation of each descriptor. Nothing is charged or counted.

    The body is `{"domain": "edge", "descriptors": ["route=login,remote_address=192.0.2.1"]}`. 400 with the
    reason for anything else, 503 if the store does not answer.
    """
    try:
        domain, descriptors = _question(orjson.loads(request.body))
        plan = plan_of(limits, domain, descriptors, modes)
    except (ValueError, RequestError) as error:
        return AdminAnswer(400, f"{error}\n".encode(), "text/plain")
    try:
        left = await ask_left(store, plan) if plan.takes else []
    except StoreError as error:
        return AdminAnswer(503, f"the store gives no answer: {error}\n".encode(), "text/plain")
    answers = [
        asdict(one)
        if one.key is None
        else asdict(one) | {"banned_seconds": bans.seconds_left(one.key.removeprefix(prefix))}
        for one in explained(plan, descriptors, prefix, left)
    ]
    return AdminAnswer(body=orjson.dumps(answers))


async def answer_reset(
    limits: CompiledLimits,
    modes: Modes,
    reset: Callable[[LimitPlan], Awaitable[list[ResetKey]]],
    request: AdminRequest,
) -> AdminAnswer:
    """The keys of the request that `reset` has reset; the log names each.

    The body is that of `answer_explain`, and so are the answers to what cannot be done.
    """
    # A page of another site can send a form to this port from a browser, but no JSON.
    if request.content_type != "application/json":
        return AdminAnswer(415, b"expected application/json\n", "text/plain")
    try:
        domain, descriptors = _question(orjson.loads(request.body))
        plan = plan_of(limits, domain, descriptors, modes)
    except (ValueError, RequestError) as error:
        return AdminAnswer(400, f"{error}\n".encode(), "text/plain")
    try:
        found = await reset(plan)
    except StoreError as error:
        return AdminAnswer(503, f"the store gives no answer: {error}\n".encode(), "text/plain")
    for one in found:
        _log.warning("limit reset", domain=domain, descriptor=one.descriptor, rule=one.rule)
    return AdminAnswer(body=orjson.dumps(list(map(asdict, found))), headers={"cache-control": "no-store"})


def _question(body: Any) -> tuple[str, list[str]]:
    """The domain and the descriptors of the body. Raises ValueError."""
    if isinstance(body, dict) and body.keys() == {"domain", "descriptors"}:
        domain, descriptors = body["domain"], body["descriptors"]
        texts = isinstance(descriptors, list) and all(isinstance(text, str) for text in descriptors)
        if isinstance(domain, str) and texts and descriptors:
            return domain, descriptors
    raise ValueError('expected {"domain": TEXT, "descriptors": ["KEY=VALUE,...", ...]}')
