"""A client certificate identifies its owner; a header from a trusted proxy identifies the proxy's client.

The scenario makes the certificates. Envoy verifies them; authz decides which callers and proxies to accept.
"""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sidecars.demo.ask import EdgeResponse, ask
from sidecars.demo.configuration import http_manager
from sidecars.demo.edge import Edge

TRUST = "spiffe://prod.example/ns"
SHOP, PROXY, STRANGER = f"{TRUST}/shop/sa/web", f"{TRUST}/edge/sa/proxy", "spiffe://other.example/x"
NAMES = {"shop": SHOP, "proxy": PROXY, "stranger": STRANGER}


def change_envoy(configuration: dict[str, Any], folder: Path) -> None:
    _write_certificates(folder)
    edge = configuration["static_resources"]["listeners"][0]
    http_manager(edge)["forward_client_cert_details"] = "FORWARD_ONLY"
    edge["filter_chains"][0]["transport_socket"] = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": {
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": str(folder / "server.pem")},
                        "private_key": {"filename": str(folder / "server.key")},
                    }
                ],
                "validation_context": {"trusted_ca": {"filename": str(folder / "ca.pem")}},
            },
        },
    }


async def scenario(edge: Edge) -> None:
    def configure(policy: dict[str, Any]) -> None:
        policy["credentials"]["mtls"] = {
            "principals": [f"{TRUST}/shop/*"],
            "forwarded": {"trusted_peers": [PROXY]},
        }
        policy["rules"].append({"name": "mesh", "paths": ["/mesh"], "allow": {"kinds": ["mtls"]}})

    await edge.change_policy(configure)
    as_shop = await _ask(edge, "shop")
    assert as_shop.status == 200
    assert as_shop.upstream_values("x-auth-subject") == [SHOP]
    # The same authority signed it, but that alone does not identify a caller.
    assert (await _ask(edge, "stranger")).status == 401

    # A peer that is not a trusted proxy cannot name other clients.
    said = await _ask(edge, "shop", f"URI={TRUST}/shop/sa/admin")
    assert (said.status, said.upstream_values("x-auth-subject")) == (200, [SHOP])
    assert (await _ask(edge, "stranger", f"URI={SHOP}")).status == 401

    behind = await _ask(edge, "proxy", f"By={PROXY};Hash=00;URI={TRUST}/shop/sa/cart")
    assert (behind.status, behind.upstream_values("x-auth-subject")) == (200, [f"{TRUST}/shop/sa/cart"])
    # The first element is from the client, the last from the proxy.
    forged = f"URI={SHOP},By={PROXY};Hash=00;URI={STRANGER}"
    assert (await _ask(edge, "proxy", forged)).status == 401
    # The proxy itself is not accepted as a caller.
    assert (await _ask(edge, "proxy")).status == 401


async def _ask(edge: Edge, who: str, forwarded: str = "") -> EdgeResponse:
    folder = edge.places.folder
    tls = ssl.create_default_context(cafile=folder / "ca.pem")
    tls.load_cert_chain(folder / f"{who}.pem", folder / f"{who}.key")
    headers = {"x-forwarded-client-cert": forwarded} if forwarded else {}
    return await ask(
        edge.url.replace("http://127.0.0.1", "https://localhost"), "/mesh", headers=headers, tls=tls
    )


def _write_certificates(folder: Path) -> None:
    authority = _key()
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority of the test")])
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    ca = (
        _certificate(ca_name, authority)
        .add_extension(constraints, critical=True)
        .add_extension(usage, critical=True)
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    ca = ca.issuer_name(ca_name).add_extension(identifier, critical=False)
    (folder / "ca.pem").write_bytes(ca.sign(authority, hashes.SHA256()).public_bytes(Encoding.PEM))
    names: dict[str, x509.GeneralName] = {
        name: x509.UniformResourceIdentifier(uri) for name, uri in NAMES.items()
    }
    for name, alternative in {**names, "server": x509.DNSName("localhost")}.items():
        key = _key()
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        built = (
            _certificate(subject, key)
            .issuer_name(ca_name)
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
            )
        )
        (folder / f"{name}.pem").write_bytes(
            built.sign(authority, hashes.SHA256()).public_bytes(Encoding.PEM)
        )
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _certificate(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
    )
