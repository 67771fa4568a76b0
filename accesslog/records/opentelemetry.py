"""Names of record fields in the semantic conventions of OpenTelemetry (1.37).

Fields without a convention keep their name below `envoy.`, those of the sidecars below `authz.` and
`ratelimit.`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from accesslog.records.sample import is_notable

ATTRIBUTES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "method": "http.request.method",
        "code": "http.response.status_code",
        "request_body_bytes": "http.request.body.size",
        "response_body_bytes": "http.response.body.size",
        "request_headers": "http.request.header",
        "response_headers": "http.response.header",
        "scheme": "url.scheme",
        "authority": "server.address",
        "path": "url.path",
        "query": "url.query",
        "user_agent": "user_agent.original",
        "client_ip": "client.address",
        "downstream_direct_remote_address": "network.peer.address",
        "tls_version": "tls.protocol.version",
        "tls_cipher": "tls.cipher",
        "tls_sni": "tls.client.server_name",
        "tls_ja3": "tls.client.ja3",
        "tls_peer_subject": "tls.client.subject",
        "tls_peer_issuer": "tls.client.issuer",
        "authz_subject": "enduser.id",
    }
)


_SERVER_ERROR: Final = 500


def attribute_name(field: str) -> str:
    """The name of the attribute for `field`."""
    return name_in(ATTRIBUTES, field)


def name_in(names: Mapping[str, str], field: str) -> str:
    """The name of `field` in `names`, or below a name of our own."""
    known = names.get(field)
    if known is not None:
        return known
    for prefix in ("authz", "ratelimit"):
        if field.startswith(f"{prefix}_"):
            return f"{prefix}.{field[len(prefix) + 1 :]}"
    return f"envoy.{field}"


def severity(record: Mapping[str, Any]) -> tuple[str, int]:
    """The text and number of a severity: ERROR for failures, WARN for refusals (OpenTelemetry data model)."""
    if not is_notable(record):
        return "INFO", 9
    code = record.get("code")
    failed = code is not None and (code == 0 or code >= _SERVER_ERROR)
    return ("ERROR", 17) if failed else ("WARN", 13)


def summary(record: Mapping[str, Any]) -> str:
    """A short text: method, path and status, or the client of a connection."""
    if record.get("type") == "http":
        return f"{record.get('method', '-')} {record.get('path', '-')} {record.get('code', '-')}"
    return f"{record.get('type', 'entry')} {record.get('downstream_remote_address', '-')}"
