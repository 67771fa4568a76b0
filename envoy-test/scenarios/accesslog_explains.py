"""One record explains a 401, a 403 and a 429, and a 503 and a 500 for which Envoy got no answer."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from common.configfile import read
from sidecars.demo.ask import ask
from sidecars.demo.configuration import http_manager
from sidecars.demo.demo import Lines, log_lines
from sidecars.demo.edge import STOP_SECONDS, Edge, serve_sidecars
from sidecars.demo.rows import BURST, LOGIN_LIMIT, bearer


def change_envoy(configuration: dict[str, Any], _folder: Path) -> None:
    """Refuse requests for which ratelimit gives no answer: else they pass, and no response flag tells."""
    listener = configuration["static_resources"]["listeners"][0]
    for one in http_manager(listener)["http_filters"]:
        if "ratelimit" in one["name"]:
            one["typed_config"]["failure_mode_deny"] = True


async def scenario(edge: Edge) -> None:
    token = bearer(edge.provider.token("alice", "orders:read"))
    assert (await ask(edge.url, "/orders")).status == 401
    assert (await ask(edge.url, "/orders/7", method="DELETE", headers=token)).status == 403
    statuses = [(await ask(edge.url, "/login", method="POST")).status for _ in range(BURST)]
    assert statuses[-1] == 429
    # Envoy sends nothing twice: what it logged must be written before the sidecars stop.
    await log_lines(edge.places.access_log, lambda lines: all(_of(lines, code) for code in (401, 403, 429)))

    await edge.sidecars.stop(STOP_SECONDS)
    file = edge.places.settings_file
    whole = read(file).data
    for gone, status in (("authz", 503), ("ratelimit", 500)):
        file.write_text(yaml.safe_dump({name: value for name, value in whole.items() if name != gone}))
        async with serve_sidecars(edge.places, os.environ):
            answer = await ask(edge.url, f"/orders/{gone}", headers=token)
            assert answer.status == status
            await log_lines(edge.places.access_log, partial(_has, status))

    lines = await log_lines(edge.places.access_log, lambda lines: bool(_of(lines, 500)))
    [unauthenticated] = _of(lines, 401)
    assert (unauthenticated["authz_outcome"], unauthenticated["code_details"]) == ("deny", "ext_authz_denied")
    assert unauthenticated["authz_reason"]
    [denied] = _of(lines, 403)
    assert (denied["authz_rule"], denied["authz_subject"], denied["response_flags"]) == (
        "orders-write",
        "alice",
        ["UAEX"],
    )
    assert denied["authz_decision_id"] != unauthenticated["authz_decision_id"]
    limited = _of(lines, 429)[-1]
    assert (limited["ratelimit_outcome"], limited["ratelimit_domain"]) == ("over_limit", "edge")
    assert limited["ratelimit_rule"] == "edge.route_login.remote_address"
    assert (limited["ratelimit_limit"], limited["ratelimit_period"], limited["ratelimit_remaining"]) == (
        LOGIN_LIMIT,
        "1m",
        0,
    )
    left = [line.get("ratelimit_remaining") for line in lines if line.get("path") == "/login"]
    assert left == [None] * (LOGIN_LIMIT - 1) + [0] * (BURST - LOGIN_LIMIT + 1)
    assert limited["response_flags"] == ["RL"]
    [no_authz] = _of(lines, 503)
    assert (no_authz["code_details"], no_authz["response_flags"]) == ("ext_authz_error", ["UAEX"])
    assert "authz_outcome" not in no_authz
    [no_ratelimit] = _of(lines, 500)
    assert no_ratelimit["code_details"] == "rate_limiter_error"
    assert no_ratelimit["response_flags"] == ["RLSE"]
    assert no_ratelimit["authz_outcome"] == "allow"
    assert "ratelimit_outcome" not in no_ratelimit


def _has(code: int, lines: Lines) -> bool:
    return bool(_of(lines, code))


def _of(lines: Lines, code: int) -> Lines:
    return [line for line in lines if line["code"] == code]
