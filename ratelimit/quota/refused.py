"""What of the reports of Envoys is refused, and why."""

from enum import StrEnum


class Refused(StrEnum):
    """Why a stream is ended, or a bucket gets no assignment: `reason` in metrics."""

    NOT_A_REPORT = "not_a_report"
    """Ends the stream: the bytes are not RateLimitQuotaUsageReports."""
    NO_DOMAIN = "no_domain"
    """Ends the stream: its first message has no domain, or one longer than `max_id_length`."""
    DOMAIN_CHANGED = "domain_changed"
    """Ends the stream."""
    TOO_MANY_STREAMS = "too_many_streams"
    """Ends the stream: there are `max_streams` already."""
    NO_BUCKET_ID = "no_bucket_id"
    """Skips the usage: its bucket has no keys, or an empty one."""
    NOT_UTF8 = "not_utf8"
    """Skips the usage: its bucket has bytes that are not UTF-8, which no message can name."""
    LONG_BUCKET_ID = "long_bucket_id"
    """Skips the usage: its bucket has more than `max_entries` or `max_id_length`."""
    TOO_MANY_BUCKETS = "too_many_buckets"
    """Skips the usage: the stream has `max_stream_buckets`, or all have `max_buckets`."""


class QuotaError(Exception):
    """A stream that cannot go on. The message reaches the caller."""

    def __init__(self, reason: Refused, text: str) -> None:
        super().__init__(text)
        self.reason = reason
