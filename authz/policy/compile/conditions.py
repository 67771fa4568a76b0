"""Compiles a block of a policy file into conditions."""

from collections.abc import Iterator, Sequence

from authz.policy.conditions.caller_conditions import caller_conditions
from authz.policy.conditions.condition import Condition
from authz.policy.conditions.request_conditions import (
    body_condition,
    client_condition,
    header_condition,
    query_condition,
    time_condition,
)
from authz.policy.conditions.route_context import context_condition
from authz.policy.conditions.share import share_condition
from authz.policy.expression.expression import Callers, expression_condition
from authz.policy.model import ConditionConfig
from authz.policy.types.paths import EXACT, PathMatching
from authz.policy.types.pattern import Template


def conditions_of(
    config: ConditionConfig,
    name: str,
    templates: Sequence[Template],
    callers: Callers,
    *,
    denies: bool,
    matching: PathMatching = EXACT,
) -> Iterator[Condition]:
    """Yield the conditions of a block, the cheap ones first.

    `denies` says whether the rule denies: of several values of a header, an allow rule tests all and a deny
    rule any. `templates` are the paths of the rule, `matching` says how it compares paths.
    """
    if config.time is not None:
        yield time_condition(config.time, name)
    if config.client is not None:
        yield client_condition(config.client, name)
    if config.client_not is not None:
        yield client_condition(config.client_not, name, inside=False)
    for key, text in config.context_extensions.items():
        yield context_condition(key, text, name, denies=denies)
    if config.share is not None:
        yield share_condition(config.share, name)
    for header, text in config.headers.items():
        yield header_condition(header, text, name, denies=denies)
    for parameter, text in config.query.items():
        yield query_condition(parameter, text, name, denies=denies)
    for field, comparison in config.body.items():
        yield body_condition(field, comparison, name, denies=denies)
    if config.caller is not None:
        yield from caller_conditions(config.caller, name)
    if config.when is not None:
        yield expression_condition(config.when, templates, callers, name, denies=denies, matching=matching)
