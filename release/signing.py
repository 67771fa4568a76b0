"""Signs and verifies files with an SSH key (`ssh-keygen -Y`), which needs no service and no key server."""

import subprocess
from pathlib import Path
from typing import Final

NAMESPACE: Final = "edge-sidecars-release"
"""A signature is valid for this purpose only, so one from a commit cannot be used for a release."""


class SignatureError(Exception):
    """A file could not be signed, or its signature is not valid; the message is that of ssh-keygen."""


def sign(file: Path, key: Path) -> Path:
    """Sign `file` with the private `key` (or a public key whose private key ssh-agent holds).

    Returns the path of the signature, `file` with `.sig`. Raises SignatureError.
    """
    signature = file.with_name(f"{file.name}.sig")
    signature.unlink(missing_ok=True)  # ssh-keygen would ask whether to replace it
    _ssh_keygen(["-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(file)], b"")
    return signature


def verify(file: Path, signature: Path, allowed_signers: Path, signer: str) -> None:
    """Return if `signature` is that of `signer` in the file `allowed_signers`. Raises SignatureError."""
    who = ["-f", str(allowed_signers), "-I", signer, "-n", NAMESPACE, "-s", str(signature)]
    _ssh_keygen(["-Y", "verify", *who], file.read_bytes())


def _ssh_keygen(arguments: list[str], text: bytes) -> None:
    done = subprocess.run(["ssh-keygen", *arguments], input=text, capture_output=True, check=False)
    if done.returncode:
        raise SignatureError((done.stderr or done.stdout).decode(errors="replace").strip())
