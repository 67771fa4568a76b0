"""The digests that a signature lists, computed as OPA does.

The digest of a file is the SHA-256 of its bytes. Three names are exceptions: `.manifest` and `data.json` are
parsed, and their values hashed with sorted keys and without white space, so that formatting does not matter.
`data.yaml` would be the third; how its values are read differs between YAML libraries, so it is refused.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, Final

from edge.bundle.errors import BundleError, Fault
from edge.bundle.names import MANIFEST

ALGORITHM: Final = "SHA-256"
"""The only one accepted: OPA also knows MD5 and SHA-1."""

_STRUCTURED: Final = frozenset({MANIFEST, "data.json"})
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""Half of a pair, which has no UTF-8; Go writes the replacement character."""
_YAML_DATA: Final = frozenset({"data.yaml", "data.yml"})


class _Number(str):
    """A number as it is written: `1.0` and `1` have different digests."""

    __slots__ = ()


def file_digest(name: str, content: bytes) -> str:
    """Return the digest of a file in hexadecimal. Raises BundleError for data that cannot be read."""
    base = PurePosixPath(name).name
    if base in _YAML_DATA:
        raise BundleError(Fault.UNREADABLE, f"{name}: write data as data.json; its digest is well defined")
    if base not in _STRUCTURED:
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    try:
        value = json.loads(content, parse_int=_Number, parse_float=_Number, parse_constant=_no_constant)
        _walk(value, lambda text: digest.update(text.encode()))
    except (ValueError, RecursionError):
        raise BundleError(Fault.UNREADABLE, f"{name} is not JSON, or nests too deep") from None
    return digest.hexdigest()


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _walk(value: Any, write: Callable[[str], None]) -> None:
    if isinstance(value, dict):
        write("{")
        # Go compares the bytes of UTF-8, which is the order of the code points that Python has.
        for position, key in enumerate(sorted(value)):
            write(("," if position else "") + _primitive(key) + ":")
            _walk(value[key], write)
        write("}")
    elif isinstance(value, list):
        write("[")
        for position, item in enumerate(value):
            if position:
                write(",")
            _walk(item, write)
        write("]")
    else:
        write(_primitive(value))


def _primitive(value: Any) -> str:
    """Return a text, number, truth value or null as Go's `encoding/json` writes it without HTML escapes."""
    if isinstance(value, _Number):
        return str(value)
    text = json.dumps(value, ensure_ascii=False).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)
