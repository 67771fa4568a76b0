"""`sidecars bundle`."""

import json
from pathlib import Path

import pytest

from edge.bundle.bundle import read_bundle
from tests.support.bundles import LIMITS, POLICY, Signer, write_keys
from tests.support.command import Command


@pytest.fixture
def sidecars(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in (("policy/a.yaml", POLICY), ("limits/a.yaml", LIMITS), (".git/config", b"")):
        file = tmp_path / "edge" / name
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
    return tmp_path / "edge"


def test_a_folder_is_built_signed_verified_and_shown(sidecars: Command, folder: Path) -> None:
    private, public = write_keys(folder.parent)
    bundle = folder.parent / "edge.tar.gz"
    built = sidecars("bundle", "build", folder, "-o", bundle, "--sequence", "7", "--revision", "r7")
    assert built.out == f"{bundle}: revision r7, sequence 7, 2 files, unsigned\n"
    signing = ("--key", private, "--key-id", "release", "--valid-days", "1", "--scope", "eu")
    assert sidecars("bundle", "sign", bundle, *signing).code == 0
    verified = sidecars("bundle", "verify", bundle, "--key", f"release={public}", "--scope", "eu")
    assert verified.out.startswith(
        f"{bundle}: ok: revision r7, sequence 7, 2 files, signed by release (EdDSA), until"
    )
    shown = json.loads(sidecars("bundle", "inspect", bundle, "--json").out)
    assert shown["files"] == {"limits/a.yaml": len(LIMITS), "policy/a.yaml": len(POLICY)}
    assert (shown["roots"], shown["signature"]["scope"]) == (["limits", "policy"], "eu")
    assert "root       limits\n" in sidecars("bundle", "inspect", bundle).out


def test_a_forged_signature_is_shown_whatever_it_claims(sidecars: Command, tmp_path: Path) -> None:
    bundle, signer = tmp_path / "edge.tar.gz", Signer(tmp_path)
    bundle.write_bytes(signer.archive(issued_at=1 << 70))
    shown = json.loads(sidecars("bundle", "inspect", bundle, "--json").out)
    assert shown["signature"]["iat"] == 1 << 70
    assert f"iat: {1 << 70}" in sidecars("bundle", "inspect", bundle).out


def test_the_same_folder_and_sequence_give_the_same_bytes(sidecars: Command, folder: Path) -> None:
    private, _ = write_keys(folder.parent)
    archives = []
    for name in ("a.tar.gz", "b.tar.gz"):
        assert sidecars("bundle", "build", folder, "-o", folder.parent / name, "--sequence", "7").code == 0
        archives.append((folder.parent / name).read_bytes())
    assert archives[0] == archives[1]
    signed = folder.parent / "c.tar.gz"
    sidecars("bundle", "build", folder, "-o", signed, "--sequence", "7", "--key", private)
    assert read_bundle(signed.read_bytes()).content == read_bundle(archives[0]).content


def test_what_may_not_be_used_exits_with_1_and_says_why(sidecars: Command, folder: Path) -> None:
    private, public = write_keys(folder.parent)
    bundle = folder.parent / "edge.tar.gz"
    sidecars("bundle", "build", folder, "-o", bundle)
    verify = ("bundle", "verify", bundle, "--key", f"release={public}")
    refused = sidecars(*verify)
    assert (refused.code, refused.err) == (1, f"{bundle}: it has no .signatures.json (unsigned)\n")
    sidecars("bundle", "sign", bundle, "--key", private, "--key-id", "release", "--valid-days", "0")
    assert sidecars(*verify).code == 0  # within the leeway of the clocks
    bundle.write_bytes(bundle.read_bytes()[:-9])
    refused = sidecars(*verify)
    assert (refused.code, refused.err) == (1, f"{bundle}: the gzip file is cut short (unreadable)\n")


def test_bad_usage_exits_with_2(sidecars: Command, folder: Path) -> None:
    bundle = folder.parent / "edge.tar.gz"
    sidecars("bundle", "build", folder, "-o", bundle)
    for key in ("release", f"release={folder}/none.pem"):
        assert sidecars("bundle", "verify", bundle, "--key", key).code == 2
    assert sidecars("bundle", "build", folder, "-o", bundle, "--key", bundle).code == 2


def test_a_file_outside_the_roots_is_refused(sidecars: Command, folder: Path) -> None:
    built = sidecars("bundle", "build", folder, "-o", folder.parent / "a", "--root", "policy")
    assert (built.code, built.err) == (
        1,
        f"{folder}: 'limits/a.yaml' is below none of the roots (unreadable)\n",
    )
