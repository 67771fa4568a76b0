"""Reads Envoy resources in JSON strictly, by the messages of the xds-protos package.

It runs in a process of its own, because that package and `protos` both register Envoy's names. Arguments:
pairs of a message name and a JSON file. Prints `ok`, or what the messages do not know, and exits with 1.
"""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from google.protobuf import json_format, symbol_database
from google.protobuf.message import Message


def main(arguments: list[str]) -> int:
    """Read each file; print the first problem."""
    for name, file in zip(arguments[::2], arguments[1::2], strict=True):
        content = json.loads(Path(file).read_bytes())
        for kind in {name, *_kinds(content)}:
            _import_package(kind.rpartition(".")[0])
        try:
            json_format.ParseDict(content, _message(name))
        except json_format.ParseError as error:
            sys.stdout.write(f"{file}: {error}\n")
            return 1
    sys.stdout.write("ok\n")
    return 0


def _kinds(content: Any) -> Iterator[str]:
    """Yield the name of each type in a google.protobuf.Any."""
    if isinstance(content, dict):
        if "@type" in content:
            yield content["@type"].partition("/")[2]
        content = list(content.values())
    if isinstance(content, list):
        for item in content:
            yield from _kinds(item)


def _import_package(package: str) -> None:
    for module in iter_modules(import_module(package).__path__):
        if module.name.endswith("_pb2"):
            import_module(f"{package}.{module.name}")


def _message(name: str) -> Message:
    return symbol_database.Default().GetSymbol(name)()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
