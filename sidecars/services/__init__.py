"""The gRPC services: adapters between the transport and the libraries."""
