"""Records of the access log, for the tests of replay."""

from typing import Any

from authz.policy.compile.load import parse_policy

NOW = "2026-02-02T02:40:00.000000Z"
OLD = """
rules:
  - {name: public, paths: [/public], allow: anyone}
  - {name: orders, paths: [/orders], allow: {scopes: [orders.read]}}
"""


def record(**changes: Any) -> dict[str, Any]:
    entry = {
        "time": NOW,
        "type": "http",
        "method": "GET",
        "authority": "api.example.com",
        "path": "/orders",
        "client_ip": "192.0.2.1",
        "authz_outcome": "allow",
        "authz_reason": "allowed",
        "authz_rule": "orders",
        "authz_subject": "alice",
        "authz_credential": "jwt",
        "authz_policy_revision": parse_policy(OLD).revision,
    }
    return {name: value for name, value in {**entry, **changes}.items() if value is not None}
