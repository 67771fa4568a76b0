"""A policy, a request and a test suite that belong together: the playground starts with them."""

from typing import Final

EXAMPLE_POLICY: Final = """\
rules:
  - name: orders-read
    methods: [GET]
    paths: ["/orders", "/orders/{id}"]
    allow: {scopes: [orders:read]}
"""
EXAMPLE_QUESTION: Final = """\
request:
  method: GET
  url: https://api.example.com/orders
caller:
  subject: alice
  scopes: [orders:read]
"""
EXAMPLE_SUITE: Final = """\
tests:
  - name: readers may read
    requests: [{url: https://api.example.com/orders}]
    callers: [{subject: alice, scopes: [orders:read]}]
    expect: {outcome: allow, rule: orders-read}
"""
