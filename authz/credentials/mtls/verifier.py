"""Identifies callers by client certificates, which Envoy has verified.

Envoy names the peer of the connection (`source.principal`). A proxy in front names its own client in a
header, which counts only if the peer is a trusted proxy.
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final

from authz.credentials.mtls.config import ForwardedConfig, MtlsConfig
from authz.credentials.mtls.principals import Principals
from authz.request.identity import Authentication, CredentialKind, Identity, Refusal, RefusalReason
from authz.request.request import Request, unmapped

HEADER: Final = "x-forwarded-client-cert"

MAX_HEADER_CHARACTERS: Final = 16 * 1024
"""The longest header read. With `Cert` or `Chain`, an element holds a certificate of 2 to 8 KiB."""

_PAIR: Final = re.compile(r'([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^",;]*)(;|,|$)')


class ForwardedError(ValueError):
    """The header is not in the form that Envoy writes."""


class Certificates:
    """Identifies the caller of a request by its certificate."""

    def __init__(self, config: MtlsConfig) -> None:
        self._callers = Principals.of(config.principals)
        self._forwarded = config.forwarded
        self._proxies = Principals.of(config.forwarded.trusted_peers if config.forwarded else ())
        # The same caller gets the same object, so that answers can be cached for it.
        self._identities: dict[tuple[str, str], Identity] = {}

    def verify(self, request: Request) -> Authentication:
        """Return the identity of the certificate; None if the client has none."""
        peer = request.peer_principal
        if self._forwarded is not None and self._is_proxy(peer, request.source_address, self._forwarded):
            return self._forwarded_identity(request, self._forwarded)
        return self._identity(peer, "peer") if peer else None

    def _is_proxy(self, peer: str, address: str, config: ForwardedConfig) -> bool:
        if peer and peer in self._proxies:
            return True
        if not config.trusted_networks or not address:
            return False
        try:
            found = ip_address(unmapped(address))
        except ValueError:
            return False
        return any(found in network for network in config.trusted_networks)

    def _forwarded_identity(self, request: Request, config: ForwardedConfig) -> Authentication:
        # The proxy is not the caller: without a header, the caller is unknown.
        values = request.header_values(HEADER)
        if not values:
            return None
        if len(values) > 1:
            return Refusal(RefusalReason.CREDENTIALS_AMBIGUOUS, f"duplicate {HEADER}", CredentialKind.MTLS)
        try:
            elements = read_forwarded(values[0])
            if len(elements) < config.depth:
                raise ForwardedError(f"{len(elements)} elements, not {config.depth}")
            name = _name(elements[-config.depth], config)
            if "!" in name and request.masks_bytes:
                raise ForwardedError("a name with !, which Envoy shows for bytes that are not UTF-8")
        except ForwardedError as error:
            return Refusal(RefusalReason.PRINCIPAL_MALFORMED, f"{HEADER}: {error}", CredentialKind.MTLS)
        return self._identity(name, "forwarded") if name else None

    def _identity(self, name: str, source: str) -> Identity | Refusal:
        known = self._identities.get((name, source))
        if known is not None:
            return known
        if name not in self._callers:
            return self._refused(name)
        identity = Identity(CredentialKind.MTLS, name, claims={"source": source})
        if len(self._identities) >= MAX_IDENTITIES:
            self._identities.clear()
        self._identities[name, source] = identity
        return identity

    def _refused(self, name: str) -> Refusal:
        if self._callers.begins(name):
            detail = f"{name[:200]!r} matches a prefix in mtls.principals, but {self._callers.fault(name)}"
            return Refusal(RefusalReason.PRINCIPAL_MALFORMED, detail, CredentialKind.MTLS)
        detail = f"{name[:200]!r} is not in mtls.principals"
        return Refusal(RefusalReason.PRINCIPAL_UNTRUSTED, detail, CredentialKind.MTLS)


MAX_IDENTITIES: Final = 10_000
"""The most identities cached, about 0.5 KB each. Only holders of a certificate can fill the cache."""


def read_forwarded(value: str) -> list[Mapping[str, list[str]]]:
    """Return the elements of the header, by lower-case key (Envoy, "HTTP header manipulation").

    Raises ForwardedError.
    """
    if len(value) > MAX_HEADER_CHARACTERS:
        raise ForwardedError(f"longer than {MAX_HEADER_CHARACTERS} characters")
    elements: list[Mapping[str, list[str]]] = []
    element: dict[str, list[str]] = {}
    at = 0
    while True:
        pair = _PAIR.match(value, at)
        if pair is None:
            raise ForwardedError(f"not key=value at character {at}")
        text = pair[2]
        if text.startswith('"'):
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        element.setdefault(pair[1].lower(), []).append(text)
        at = pair.end()
        if pair[3] != ";":
            elements.append(element)
            element = {}
        if not pair[3]:
            return elements


def _name(element: Mapping[str, list[str]], config: ForwardedConfig) -> str:
    for kind in config.names:
        names = [name for name in element.get(kind, []) if name]
        if len(names) > 1:
            # It is unknown which of them the proxy checked; a SPIFFE certificate has exactly one URI.
            raise ForwardedError(f"{len(names)} names of kind {kind}")
        if names:
            return names[0]
    return ""
