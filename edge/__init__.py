"""The part between teams and edges: what teams intend, and what is built of it.

The library contains no gRPC and no command line; `sidecars edge` is its command.
"""
