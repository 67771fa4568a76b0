"""From the bytes of an entry to a redacted, sampled line."""
