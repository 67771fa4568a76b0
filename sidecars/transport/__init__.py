"""gRPC over HTTP/2. It does not know the libraries."""
