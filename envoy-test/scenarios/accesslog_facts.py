"""Fields that Envoy omits from its access logs, and fields that a client can choose (docs/accesslog.md)."""

import ssl
from copy import deepcopy
from pathlib import Path
from typing import Any

from sidecars.demo.ask import ask
from sidecars.demo.configuration import http_manager
from sidecars.demo.demo import log_lines
from sidecars.demo.edge import Edge
from tests.support.authority import Authority

LENIENT = "lenient"
"""A listener with `tls_inspector` that keeps the request ids of clients."""

URI = "spiffe://prod.example/shop"
CHOSEN = "chosen-by-the-client"
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
INSPECTOR = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"


def change_envoy(configuration: dict[str, Any], folder: Path) -> None:
    authority = Authority("authority of the test")
    (folder / "ca.pem").write_bytes(authority.certificate)
    # Each certificate is for localhost and 127.0.0.1, too.
    for name in ("server", "client"):
        pair = authority.sign(name, uri=URI)
        (folder / f"{name}.pem").write_bytes(pair.certificate)
        (folder / f"{name}.key").write_bytes(pair.key)
    listeners = configuration["static_resources"]["listeners"]
    strict = listeners[0]
    certificate = {
        "certificate_chain": {"filename": str(folder / "server.pem")},
        "private_key": {"filename": str(folder / "server.key")},
    }
    context = {
        "tls_certificates": [certificate],
        "validation_context": {"trusted_ca": {"filename": str(folder / "ca.pem")}},
    }
    strict["filter_chains"][0]["transport_socket"] = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": TLS,
            "require_client_certificate": True,
            "common_tls_context": context,
        },
    }
    lenient = deepcopy(strict)
    lenient["name"] = LENIENT
    lenient["listener_filters"] = [
        {"name": "envoy.filters.listener.tls_inspector", "typed_config": {"@type": INSPECTOR}}
    ]
    http_manager(lenient)["preserve_external_request_id"] = True
    listeners.append(lenient)


async def scenario(edge: Edge) -> None:
    folder = edge.places.folder
    tls = ssl.create_default_context(cafile=folder / "ca.pem")
    tls.load_cert_chain(folder / "client.pem", folder / "client.key")
    listeners = ("edge", LENIENT)
    for listener in listeners:
        origin = f"https://localhost:{edge.envoy.ports[listener]}"
        headers = {"x-request-id": CHOSEN}
        assert (await ask(origin, f"/public/{listener}", headers=headers, tls=tls)).status == 200

    lines = await log_lines(edge.places.access_log, lambda lines: len(lines) == len(listeners))
    by_path = {line["path"]: line for line in lines}
    strict, lenient = (by_path[f"/public/{listener}"] for listener in listeners)
    for line in (strict, lenient):
        assert line["tls_peer_san"] == line["tls_local_san"] == [f"uri:{URI}"]
        assert line["stream_id"] == line["request_id"]
    assert "tls_sni" not in strict
    assert lenient["tls_sni"] == "localhost"
    assert strict["stream_id"] != CHOSEN
    assert lenient["stream_id"] == CHOSEN
