"""Asks a running authz sidecar for one decision."""

from pathlib import Path

from protos.authz_pb2 import CheckRequest, CheckResponse
from tests.support.running import call, connect

CHECK = "/envoy.service.auth.v3.Authorization/Check"


def is_allowed(folder: Path) -> bool:
    """Return whether authz on the socket `a` in `folder` allows GET of /."""
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.host, http.path = "GET", "example.com", "/"
    with connect(f"unix:{folder}/a") as channel:
        answer = call(channel, CHECK, request.SerializeToString())
    return bool(CheckResponse.FromString(answer).status.code == 0)
