"""No spelling of a path evades a rule: either Envoy or authz refuses it.

Rules that matched one spelling while the upstream read another: CVE-2019-9901, CVE-2021-29492,
CVE-2021-31920, CVE-2021-39156, CVE-2021-32779, CVE-2026-26205, CVE-2026-32811, CVE-2026-33494,
CVE-2026-42274, GHSA-qcxp-gm7m-4j5v. A prefix that ends within a segment: CVE-2026-32716.
"""

import re
from pathlib import Path
from typing import Any

from sidecars.demo.edge import Edge
from sidecars.demo.rows import bearer
from sidecars.demo.until import until
from tests.support.bare_envoy import BARE, add_bare_listener, refused, send, send_http2

PUBLIC = re.compile(r"/public(/[a-z]+)+")
"""Paths that every server reads in the same way."""

NORMALISED = "authz credentials_missing"
"""Envoy normalised the path to `/orders`, and authz decided about that."""
BY_ENVOY = "envoy path_normalization_failed"
PASSED = ""

ANSWERS = {
    # The path, and who refuses it and why: with envoy.yaml, and if Envoy changes nothing.
    "/public/../orders": (NORMALISED, "authz path_dot_segment"),
    "/public/./../orders": (NORMALISED, "authz path_dot_segment"),
    "/public/%2e%2e/orders": (NORMALISED, "authz path_dot_segment"),
    "/public/.%2E/orders": (NORMALISED, "authz path_dot_segment"),
    "/public/../public/../orders": (NORMALISED, "authz path_dot_segment"),
    "//orders": (NORMALISED, "authz path_empty_segment"),
    "/public//../orders": (PASSED, "authz path_empty_segment"),
    "/public/..%2forders": (BY_ENVOY, "authz path_encoded_slash"),
    "/public/..%2Forders": (BY_ENVOY, "authz path_encoded_slash"),
    "/public/..%5corders": (BY_ENVOY, "authz path_backslash"),
    "/public/..\\orders": (NORMALISED, "authz path_backslash"),
    "/public/..%252forders": ("authz path_double_encoding", "authz path_double_encoding"),
    "/public/..;/orders": (NORMALISED, "authz path_dot_segment"),
    "/public;/../orders": (NORMALISED, "authz path_dot_segment"),
    "/orders;x=1": ("authz path_parameters", "authz path_parameters"),
    "/public/..%00/orders": (BY_ENVOY, "authz path_nul"),
    "/public/%0a": ("authz path_control", "authz path_control"),
    "/public/%7f": ("authz path_control", "authz path_control"),
    "/public/%zz": ("authz path_bad_escape", "authz path_bad_escape"),
    "/public/%c0%ae": ("authz path_not_utf8", "authz path_not_utf8"),
    "/%6frders": (NORMALISED, "authz credentials_missing"),
    "/orders?/public/hello": ("authz credentials_missing", "authz credentials_missing"),
    "/ORDERS": ("authz no_rule", "authz no_rule"),
    "/healthz/": ("authz no_rule", "authz no_rule"),
    # A prefix ends at the end of a segment.
    "/publicity": ("authz no_rule", "authz no_rule"),
    "/public.orders": ("authz no_rule", "authz no_rule"),
    # Envoy refuses a fragment on every listener.
    "/orders#/public/hello": (BY_ENVOY, BY_ENVOY),
    "/public/hello#/../orders": (BY_ENVOY, BY_ENVOY),
    "/public/hello?#/orders": (BY_ENVOY, BY_ENVOY),
}

CONTROL = (b"\0", b"\x01", b"\t", b"\r", b"\x1f", b" ", b"\x7f", b"\x80", b"\xff")
"""Bytes that HTTP/1 forbids in a path, so that Envoy refuses such a request on every listener."""


def change_envoy(configuration: dict[str, Any], folder: Path) -> None:
    add_bare_listener(configuration, folder)
    # Allows switching features at runtime.
    configuration["layered_runtime"] = {"layers": [{"name": "admin", "admin_layer": {}}]}


async def scenario(edge: Edge) -> None:
    for path, answers in ANSWERS.items():
        for listener, expected in zip(("edge", BARE), answers, strict=True):
            edge.echo.received.clear()
            answer = await send(edge, path, listener=listener)
            assert refused(answer) == expected, f"{path} by {listener}"
            assert (answer.status < 300) == bool(edge.echo.received) == (expected == PASSED), path
            for seen in edge.echo.received:
                assert PUBLIC.fullmatch(seen["path"]), f"{path} reached the upstream as {seen['path']}"

    await _control_bytes(edge)
    await _segment_edge(edge)
    await _fragments_cut_off(edge)


async def _control_bytes(edge: Edge) -> None:
    edge.echo.received.clear()
    for byte in CONTROL:
        for listener in ("edge", BARE):
            answer = await send(edge, b"/public/a%bb" % byte, listener=listener)
            assert (answer.status, refused(answer)[:11]) == (400, "envoy http1"), (byte, listener)
    # HTTP/2 carries bytes beyond ASCII: the hardened edge escapes them, the other listener leaves them to
    # authz.
    assert refused(await send_http2(edge, "/public/\xe9".encode())) == "authz path_not_ascii"
    # Envoy sends `!` to authz for each byte that is not UTF-8, and the byte itself to the upstream.
    for path in (b"/public/\xc0\xae\xc0\xae/orders", b"/public/a\x80b", b"/public/x?a\xff;debug=1"):
        assert refused(await send_http2(edge, path)) == "authz path_not_utf8", path
    assert not edge.echo.received


async def _segment_edge(edge: Edge) -> None:
    """CVE-2026-32716: `/john` opened `/johnathan`."""
    admin = bearer(edge.provider.token("ann", roles=["admin"])).items()
    for listener in ("edge", BARE):
        assert (await send(edge, "/admin/users", admin, listener=listener)).status == 200
        for path in (
            "/administrator/users",
            "/administrator",
            "/admin-users",
            "/admin.users",
            "/Admin/users",
        ):
            assert refused(await send(edge, path, admin, listener=listener)) == "authz no_rule", path


async def _fragments_cut_off(edge: Edge) -> None:
    """CVE-2021-39156, CVE-2021-32779: Envoy can be configured to remove a fragment before the check."""
    await edge.envoy.admin(
        "/runtime_modify?envoy.reloadable_features.http_reject_path_with_fragment=false", "POST"
    )

    async def cut_off() -> bool:
        return refused(await send(edge, "/orders#/public/hello")) == "authz credentials_missing"

    await until(cut_off, "Envoy cuts fragments off")
    edge.echo.received.clear()
    for path in ("/orders#/public/hello", "/orders?#/public/hello", "/orders#/../public/hello"):
        for listener in ("edge", BARE):
            assert refused(await send(edge, path, listener=listener)) == "authz credentials_missing", path
    assert not edge.echo.received
    for listener in ("edge", BARE):
        assert (await send(edge, "/public/hello#/../../orders", listener=listener)).status == 200
    assert [seen["path"] for seen in edge.echo.received] == ["/public/hello"] * 2
