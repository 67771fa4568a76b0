"""Prints the contract of the xds-protos package as JSON, in a separate process.

The package and `protos` both register Envoy's names, which protobuf allows only once in a process.
"""

import json
import sys
from importlib import import_module

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from tests.support.protos.contract import contract


def main() -> None:
    """Print the contract of the modules named on the command line."""
    files = []
    for module in sys.argv[1:]:
        file = FileDescriptorProto()
        import_module(module).DESCRIPTOR.CopyToProto(file)
        files.append(file)
    json.dump(contract(files), sys.stdout)


if __name__ == "__main__":
    main()
