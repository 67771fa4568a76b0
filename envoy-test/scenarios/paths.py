"""No spelling of a path leads to what it is not allowed to.

Rules that match one spelling while the upstream reads another: CVE-2019-9901, CVE-2021-29492, CVE-2026-26205,
CVE-2026-42274.
"""

import re

from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge

PUBLIC = re.compile(r"/public(/[a-z]+)+")
"""Where no reader finds a way out."""

TO_THE_ORDERS = (
    "/public/../orders",
    "/public/./../orders",
    "/public/%2e%2e/orders",
    "/public/.%2E/orders",
    "//orders",
    "/public//../orders",
    "/public/..%2forders",
    "/public/..%2Forders",
    "/public/..%5corders",
    "/public/..\\orders",
    "/public/..%252forders",
    "/public/..;/orders",
    "/public;/../orders",
    "/%6frders",
    "/public/..%00/orders",
    "/orders;x=1",
    "/orders?/public/hello",
    "/ORDERS",
    "/public/../public/../orders",
)


async def scenario(edge: Edge) -> None:
    for path in TO_THE_ORDERS:
        edge.echo.received.clear()
        answer = await ask(edge.url, path)
        assert answer.status < 500, f"{path} was answered {answer.status}"
        for seen in edge.echo.received:
            assert PUBLIC.fullmatch(seen["path"]), f"{path} reached the upstream as {seen['path']}"
