"""Limits from a management server: state-of-the-world ADS for RateLimitConfig."""
