"""Files of names and values, such as headers with secrets, that are read when they are needed."""

import errno
from pathlib import Path


def pairs_in(file: Path | None, sign: str) -> dict[str, str]:
    """The lines NAME, `sign`, VALUE of `file`. Raises OSError."""
    if file is None:
        return {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise OSError(errno.EINVAL, "it is not UTF-8 text", str(file)) from None
    pairs = (line.partition(sign) for line in lines if line.strip() and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}
