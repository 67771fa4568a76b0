"""HTTP/2 and gRPC without I/O: bytes and times in, bytes and calls out."""
