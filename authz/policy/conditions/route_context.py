"""Conditions on the route, as Envoy's configuration describes it."""

from collections.abc import Sequence

from authz.policy.conditions.condition import Condition, Subject
from authz.policy.conditions.values import TextComparison, check_of
from authz.request.identity import Identity
from authz.request.request import Request


def context_condition(key: str, comparison: TextComparison, name: str, *, denies: bool) -> Condition:
    """Return a condition that compares one of the route's `context_extensions` for the ext_authz filter.

    They come from Envoy's configuration, so clients cannot set them (envoyproxy/envoy#23615).
    """
    check = check_of(comparison)

    def seen(_identity: Identity, request: Request, _now: float) -> Sequence[str]:
        return request.context_values(key)

    return Condition(
        f"context {key} {check.text}",
        lambda _identity, request, _now: check.of_untrusted(request.context_values(key), denies=denies),
        Subject.REQUEST,
        seen,
        name,
    )
