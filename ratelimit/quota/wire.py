"""Reads usage reports and writes assignments in protobuf (`envoy.service.rate_limit_quota.v3`)."""

from collections.abc import Iterable
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value

from protos.lenient import parse
from protos.rate_limit_quota_pb2 import BucketId as BucketIdMessage
from protos.rate_limit_quota_pb2 import RateLimitQuotaResponse, RateLimitQuotaUsageReports
from protos.ratelimit_strategy_pb2 import RateLimitStrategy, TokenBucket
from ratelimit.quota.assignment import Abandon, Action, Strategy
from ratelimit.quota.limit import Blanket, BucketId
from ratelimit.quota.quotas import Report, Usage

_BucketAction = RateLimitQuotaResponse.BucketAction

_BLANKETS: Final = {
    Blanket.ALLOW_ALL: RateLimitStrategy.ALLOW_ALL,
    Blanket.DENY_ALL: RateLimitStrategy.DENY_ALL,
}


def read_report(message: bytes) -> Report:
    """The content of RateLimitQuotaUsageReports. Raises google.protobuf.message.DecodeError."""
    reports = parse(RateLimitQuotaUsageReports, message)
    usages = [
        Usage(dict(usage.bucket_id.bucket), usage.num_requests_allowed, usage.num_requests_denied)
        for usage in reports.bucket_quota_usages
    ]
    return Report(reports.domain, usages)


def write_actions(actions: Iterable[tuple[BucketId, Action]]) -> bytes:
    """One RateLimitQuotaResponse with all `actions`."""
    response = RateLimitQuotaResponse(
        bucket_action=[_bucket_action(bucket_id, action) for bucket_id, action in actions]
    )
    return response.SerializeToString()


def _bucket_action(bucket_id: BucketId, action: Action) -> _BucketAction:
    written = _BucketAction(bucket_id=BucketIdMessage(bucket=bucket_id))
    if isinstance(action, Abandon):
        written.abandon_action.SetInParent()
    else:
        assigned = written.quota_assignment_action
        assigned.assignment_time_to_live.seconds = action.seconds
        assigned.rate_limit_strategy.CopyFrom(_strategy(action.strategy))
    return written


def _strategy(strategy: Strategy) -> RateLimitStrategy:
    if isinstance(strategy, Blanket):
        return RateLimitStrategy(blanket_rule=_BLANKETS[strategy])
    return RateLimitStrategy(
        token_bucket=TokenBucket(
            max_tokens=strategy.max_tokens,
            tokens_per_fill=UInt32Value(value=strategy.tokens_per_fill),
            fill_interval=Duration(seconds=strategy.fill_seconds),
        )
    )
