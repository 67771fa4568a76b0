"""SHA256SUMS is signed with an SSH key, and anyone with ssh-keygen can verify it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from release.signing import NAMESPACE, SignatureError, sign, verify

ROOT = Path(__file__).parents[2]
SIGNER = "release@example.com"

pytestmark = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="needs ssh-keygen (Debian: apt install openssh-client)"
)


def new_key(folder: Path) -> tuple[Path, Path]:
    """Return a throwaway private key, and the file that lists it as the key of SIGNER."""
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    allowed = folder / "allowed_signers"
    public = key.with_suffix(".pub").read_text()
    allowed.write_text(f'{SIGNER} namespaces="{NAMESPACE}" {public}')
    return key, allowed


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    file = tmp_path / "SHA256SUMS"
    file.write_text("0  a\n")
    return file


def test_a_signature_is_verified(tmp_path: Path, sums: Path) -> None:
    key, allowed = new_key(tmp_path)
    signature = sign(sums, key)
    assert sign(sums, key) == signature
    verify(sums, signature, allowed, SIGNER)


def test_a_changed_file_another_key_and_another_purpose_are_refused(tmp_path: Path, sums: Path) -> None:
    key, allowed = new_key(tmp_path)
    signature = sign(sums, key)
    (tmp_path / "other").mkdir()
    _, others = new_key(tmp_path / "other")
    with pytest.raises(SignatureError):
        verify(sums, signature, others, SIGNER)
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", "git", sums],
        check=True,
        input=b"y\n",
        capture_output=True,
    )
    with pytest.raises(SignatureError):
        verify(sums, signature, allowed, SIGNER)
    signature = sign(sums, key)
    sums.write_text("1  a\n")
    with pytest.raises(SignatureError):
        verify(sums, signature, allowed, SIGNER)


def test_the_command_in_the_documentation_verifies(tmp_path: Path, sums: Path) -> None:
    key, _ = new_key(tmp_path)
    (tmp_path / "allowed_signers").unlink()
    sign(sums, key)
    page = (ROOT / "docs" / "releasing.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^(echo .*\nssh-keygen -Y verify .*)$", page, re.MULTILINE)
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert SIGNER in done.stdout
