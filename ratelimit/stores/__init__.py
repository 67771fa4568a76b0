"""Where buckets are kept: in memory or in Redis."""
