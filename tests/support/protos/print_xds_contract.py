"""Prints the contract of the xds-protos package as JSON, in a process of its own.

Both it and `protos` register Envoy's names, which one process takes only once.
"""

import json
import sys
from importlib import import_module

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from tests.support.protos.contract import contract


def main() -> None:
    """Reads module names from the command line."""
    files = []
    for module in sys.argv[1:]:
        file = FileDescriptorProto()
        import_module(module).DESCRIPTOR.CopyToProto(file)
        files.append(file)
    json.dump(contract(files), sys.stdout)


if __name__ == "__main__":
    main()
