"""What every kind of credential uses: the verifier protocol, locations, HTTP, Redis calls and metrics."""
