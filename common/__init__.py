"""What several libraries use: configuration files, redaction, buckets, a cache and a circuit breaker."""
