"""Signatures: what is not exactly what a trusted key signed is refused, for the right reason."""

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from common.configfile import ConfigError
from edge.bundle.archive import pack, unpack
from edge.bundle.bundle import Bundle, Trust, order_of, read_bundle
from edge.bundle.errors import BundleError, Fault
from edge.bundle.keys import public_keys, signing_key
from edge.bundle.names import SIGNATURES
from edge.bundle.signature import LEEWAY_SECONDS
from tests.support.bundles import CONTENT, NOW, Signer, unsigned_archive, write_keys
from tests.support.signing import private_key, rsa_key


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path)


def with_files(archive: bytes, **changes: bytes | None) -> Bundle:
    """Return the bundle with files replaced; `__` in a name is `/`, and None removes the file."""
    files: dict[str, bytes | None] = {**unpack(archive)}
    files |= {name.replace("__", "/"): content for name, content in changes.items()}
    return read_bundle(pack({name: content for name, content in files.items() if content is not None}))


def refusal(trust: Trust, bundle: Bundle, now: float = NOW) -> BundleError:
    with pytest.raises(BundleError) as caught:
        trust.check(bundle, now)
    return caught.value


def forged(signer: Signer, **changes: Any) -> Bundle:
    """Return a bundle whose claims are changed, signed again by the trusted key."""
    files = unpack(signer.archive())
    token = json.loads(files[SIGNATURES])["signatures"][0]
    claims = jwt.decode(token, options={"verify_signature": False}) | changes
    token = jwt.encode(claims, signer.key.key, signer.key.algorithm, {"kid": signer.key.id})
    return with_files(signer.archive(), **{SIGNATURES: json.dumps({"signatures": [token]}).encode()})


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "ES384", "ES512", "EdDSA"])
def test_a_signed_bundle_is_accepted(tmp_path: Path, algorithm: str) -> None:
    signer = Signer(tmp_path, algorithm)
    signature = Trust(signer.keys).check(read_bundle(signer.archive(expires_at=NOW + 5)), NOW)
    assert signature is not None
    assert (signature.key_id, signature.algorithm, signature.expires_at) == ("release", algorithm, NOW + 5)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"policy__edge.yaml": b"rules: []\n"}, Fault.BAD_SIGNATURE),
        ({"policy__more.yaml": b"rules: []\n"}, Fault.BAD_SIGNATURE),
        ({"policy__edge.yaml": None}, Fault.BAD_SIGNATURE),
        ({".manifest": b'{"revision": "r9", "metadata": {"sequence": 9}}'}, Fault.BAD_SIGNATURE),
        ({SIGNATURES: None}, Fault.UNSIGNED),
        ({SIGNATURES: b"{}"}, Fault.BAD_SIGNATURE),
        ({SIGNATURES: b'{"signatures": ["a.b.c"]}'}, Fault.BAD_SIGNATURE),
        ({SIGNATURES: b'{"signatures": []}'}, Fault.BAD_SIGNATURE),
        ({SIGNATURES: b"["}, Fault.BAD_SIGNATURE),
    ],
)
def test_what_was_not_signed_is_refused(
    signer: Signer, changes: dict[str, bytes | None], fault: Fault
) -> None:
    assert refusal(Trust(signer.keys), with_files(signer.archive(), **changes)).fault is fault


def test_the_form_of_the_manifest_does_not_matter_but_its_values_do(signer: Signer) -> None:
    manifest = json.loads(unpack(signer.archive())[".manifest"])
    spaced = json.dumps(dict(reversed(manifest.items())), indent=7).encode()
    Trust(signer.keys).check(with_files(signer.archive(), **{".manifest": spaced}), NOW)


def test_another_key_of_the_same_name_is_refused(signer: Signer, tmp_path: Path) -> None:
    other = Signer(tmp_path, "ES256")
    assert refusal(Trust(signer.keys), read_bundle(other.archive())).fault is Fault.BAD_SIGNATURE


def test_an_unknown_key_is_named(signer: Signer, tmp_path: Path) -> None:
    other = Signer(tmp_path, key_id="other")
    assert "the key 'other' is not" in str(refusal(Trust(signer.keys), read_bundle(other.archive())))


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_the_key_determines_the_algorithm(tmp_path: Path, algorithm: str) -> None:
    signer = Signer(tmp_path, "RS256")
    claims = {"files": [], "keyid": "release"}
    secret = None if algorithm == "none" else b"a secret of more than thirty-two bytes"
    token = jwt.encode(claims, secret or "", algorithm, {"kid": "release"})
    bundle = with_files(signer.archive(), **{SIGNATURES: json.dumps({"signatures": [token]}).encode()})
    assert refusal(Trust(signer.keys), bundle).fault is Fault.BAD_SIGNATURE


@pytest.mark.parametrize(
    "changes",
    [
        {"files": None},
        {"files": [{"name": "policy/edge.yaml"}]},
        {"files": [{"name": "policy/edge.yaml", "hash": "00", "algorithm": "MD5"}]},
        {"exp": "tomorrow"},
        {"iat": True},
    ],
)
def test_claims_of_another_form_are_refused(signer: Signer, changes: dict[str, Any]) -> None:
    assert refusal(Trust(signer.keys), forged(signer, **changes)).fault is Fault.BAD_SIGNATURE


def test_a_signature_ends_and_does_not_begin_early(signer: Signer) -> None:
    bundle = read_bundle(signer.archive(expires_at=NOW + 10))
    trust = Trust(signer.keys)
    assert trust.check(bundle, NOW + 10 + LEEWAY_SECONDS - 1)
    assert refusal(trust, bundle, NOW + 10 + LEEWAY_SECONDS).fault is Fault.EXPIRED
    assert trust.check(bundle, NOW - LEEWAY_SECONDS)
    assert refusal(trust, bundle, NOW - LEEWAY_SECONDS - 1).fault is Fault.EXPIRED


def test_a_bundle_that_was_accepted_serves_on_after_its_end(signer: Signer) -> None:
    assert Trust(signer.keys).check(read_bundle(signer.archive(expires_at=1)), None)


def test_the_scope_must_be_that_of_the_edge(signer: Signer) -> None:
    bundle = read_bundle(signer.archive(scope="eu"))
    assert Trust(signer.keys, "eu").check(bundle, NOW)
    assert "the scope is 'eu', not ''" in str(refusal(Trust(signer.keys), bundle))


def test_an_unsigned_bundle_needs_a_setting_and_a_signature_that_is_there_must_hold(signer: Signer) -> None:
    lenient = Trust(signer.keys, signature_required=False)
    assert lenient.check(read_bundle(unsigned_archive()), NOW) is None
    assert refusal(Trust(signer.keys), read_bundle(unsigned_archive())).fault is Fault.UNSIGNED
    changed = with_files(signer.archive(), **{"policy__edge.yaml": b"rules: []\n"})
    assert refusal(lenient, changed).fault is Fault.BAD_SIGNATURE


def test_the_order_is_the_sequence_or_else_the_time_of_the_signature(signer: Signer) -> None:
    trust = Trust(signer.keys)
    for sequence, order in ((7, 7), (None, NOW)):
        bundle = read_bundle(signer.archive(sequence=sequence))
        assert order_of(bundle, trust.check(bundle, NOW)) == order
    with pytest.raises(BundleError, match="it has no order"):
        order_of(read_bundle(signer.archive(sequence=None)), None)


@pytest.mark.parametrize(
    "manifest",
    [
        "[]",
        "{",
        "{}",
        '{"revision": ""}',
        '{"revision": "a\\nb"}',
        '{"revision": "a", "roots": "b"}',
        '{"revision": "a", "roots": ["b", "b/c"]}',
        '{"revision": "a", "roots": ["", "b"]}',
        '{"revision": "a", "metadata": []}',
        '{"revision": "a", "metadata": {"sequence": -1}}',
        '{"revision": "a", "metadata": {"sequence": true}}',
        '{"revision": "a", "metadata": {"sequence": 9007199254740992}}',
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(manifest: str) -> None:
    with pytest.raises(BundleError, match=r"\.manifest (has|is)"):
        read_bundle(pack({**CONTENT, ".manifest": manifest.encode()}))


class TestKeys:
    def test_a_private_key_does_not_verify(self, tmp_path: Path) -> None:
        private, _ = write_keys(tmp_path)
        with pytest.raises(ConfigError, match="it is a private key"):
            public_keys({"a": private})

    @pytest.mark.parametrize(
        ("encryption", "why"),
        [(BestAvailableEncryption(b"password"), "encrypted"), (NoEncryption(), "an RSA key of 1024 bits")],
    )
    def test_an_encrypted_key_and_a_short_one_are_refused(
        self, tmp_path: Path, encryption: KeySerializationEncryption, why: str
    ) -> None:
        pem = rsa_key(1024).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        (tmp_path / "a.key").write_bytes(pem)
        with pytest.raises(ConfigError, match=why):
            signing_key(tmp_path / "a.key", "a")

    def test_an_algorithm_must_fit_the_key(self, tmp_path: Path) -> None:
        private, _ = write_keys(tmp_path, "RS256")
        assert signing_key(private, "a", "PS512").algorithm == "PS512"
        with pytest.raises(ConfigError, match="does not fit ES256"):
            signing_key(private, "a", "ES256")

    @pytest.mark.parametrize(
        "content", [b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"]
    )
    def test_other_content_is_no_key(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.pem").write_bytes(content)
        with pytest.raises(ConfigError, match="holds no public key"):
            public_keys({"a": tmp_path / "a.pem"})
        with pytest.raises(ConfigError, match="holds no private key"):
            signing_key(tmp_path / "a.pem", "a")


def test_private_keys_do_not_print(signer: Signer) -> None:
    assert str(private_key("EdDSA")) not in repr(signer.key)
