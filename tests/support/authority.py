"""Certificates for tests, signed by test authorities, with the extensions that RFC 5280 requires."""

import datetime as dt
from dataclasses import dataclass
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = dt.timedelta(days=1)

_SIGNS_CERTIFICATES = x509.KeyUsage(
    key_cert_sign=True,
    crl_sign=True,
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """A certificate authority that signs certificates for servers and clients.

    `identified=False` omits the Authority Key Identifier in certificates that it signs, as some authorities
    do; `identifies=False` omits its own Subject Key Identifier. With `below` it is an intermediate of that
    authority.
    """

    def __init__(
        self, name: str, *, identified: bool = True, identifies: bool = True, below: "Authority | None" = None
    ) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self._identified = identified
        above = below or self
        built = (
            self._build(self._name, self._key, issuer=above._name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_SIGNS_CERTIFICATES, critical=True)
        )
        if identifies:
            built = built.add_extension(self._identifier, critical=False)
        if below is not None:
            of_issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(below._identifier)
            built = built.add_extension(of_issuer, critical=False)
        self.certificate = pem(built.sign(above._key, hashes.SHA256()))

    def sign(self, name: str, expires: dt.datetime | None = None, *, uri: str = "") -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names: list[x509.GeneralName] = [
            x509.DNSName("localhost"),
            x509.IPAddress(ip_address("127.0.0.1")),
        ]
        if uri:
            names.append(x509.UniformResourceIdentifier(uri))
        alternatives = x509.SubjectAlternativeName(names)
        built = self._build(subject, key, expires).add_extension(alternatives, critical=False)
        if self._identified:
            of_issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier)
            built = built.add_extension(of_issuer, critical=False)
        return Pair(
            pem(built.sign(self._key, hashes.SHA256())),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def _build(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        expires: dt.datetime | None = None,
        issuer: x509.Name | None = None,
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(expires or now + DAY)
        )


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
