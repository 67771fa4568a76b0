from hypothesis import given
from hypothesis import strategies as st

from authz.policy.conditions.caller_conditions import callers_of
from authz.policy.index import Index
from authz.policy.rule import Outcome, Rule, Verdict
from authz.policy.types.pattern import HostPattern, Template, parse_host, parse_template
from authz.request.identity import ANONYMOUS, CredentialKind, Identity
from authz.request.path import NO_ANOMALY
from tests.support.checks import request

HOSTS = ["*", "a.example", "b.example", "*.example", "*.a.example"]
PATHS = [
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/a/{x}",
    "/{x}",
    "/{x}/b",
    "/{x}/{y}",
    "/**",
    "/a/{rest=**}",
    "/{x}/b/**",
    "/a/b/c",
]
METHODS = ["GET", "PUT"]


def rule(order: int, allows: bool = True, open_: bool = True) -> Rule:
    outcome = Outcome.ALLOW if allows else Outcome.DENY
    verdict = Verdict(outcome, "test", 200 if allows else 403, rule=f"r{order}")
    callers = callers_of(("anyone",) if open_ else ("authenticated",))
    return Rule(f"r{order}", order, "test:1", verdict, callers, NO_ANOMALY, shadow=False)


def naive_host(pattern: HostPattern, host: str) -> bool:
    if not pattern.wildcard:
        return host == pattern.name
    return not pattern.name or host.endswith(f".{pattern.name}")


def naive_path(template: Template, segments: tuple[str, ...]) -> bool:
    wanted = template.segments
    if len(segments) < len(wanted) or (len(segments) > len(wanted) and not template.rest):
        return False
    return all(
        bool(segment) if want is None else segment == want
        for want, segment in zip(wanted, segments, strict=False)
    )


written = st.tuples(
    st.lists(st.sampled_from(HOSTS), min_size=1, max_size=3),
    st.lists(st.sampled_from(PATHS), min_size=1, max_size=3),
    st.none() | st.lists(st.sampled_from(METHODS), min_size=1),
    st.booleans(),
    st.booleans(),
)


@given(
    st.lists(written, max_size=12),
    st.sampled_from(["a.example", "b.example", "c.a.example", "d.c.a.example", "example", "other"]),
    st.sampled_from([*METHODS, "POST"]),
    st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=1, max_size=4).map(tuple),
    st.booleans(),
)
def test_the_index_finds_what_a_linear_scan_finds(
    texts: list[tuple[list[str], list[str], list[str] | None, bool, bool]],
    host: str,
    method: str,
    segments: tuple[str, ...],
    known: bool,
) -> None:
    index = Index()
    covering = []
    for order, (hosts, paths, methods, allows, open_) in enumerate(texts):
        one = rule(order, allows, open_)
        patterns, templates = [parse_host(h) for h in hosts], [parse_template(p) for p in paths]
        index.add(one, patterns, templates, methods)
        if (
            any(naive_host(pattern, host) for pattern in patterns)
            and any(naive_path(template, segments) for template in templates)
            and (methods is None or method in methods)
        ):
            covering.append(one)
    rule_set = index.compile().find(host, method, segments)
    assert sorted(found.order for found in rule_set.rules) == [one.order for one in covering]

    caller = Identity(CredentialKind.JWT, "alice") if known else ANONYMOUS
    denies = [one for one in covering if not one.allows and (one.open or known)]
    allows_ = [one for one in covering if one.allows and (one.open or known)]
    # If no deny rule is about callers, a rule for anyone decides without authentication.
    opening = [one for one in allows_ if one.open and all(other.allows for other in covering)]
    deciding = denies or opening or allows_
    verdict = rule_set.judge(caller, request(), 0.0)
    if deciding:
        assert verdict.outcome is deciding[0].verdict.outcome
        assert verdict.outcome is Outcome.DENY or verdict is deciding[0].verdict
    else:
        assert verdict.outcome is Outcome.DENY


def test_a_look_up_visits_as_many_nodes_with_ten_thousand_rules_as_with_ten() -> None:
    """The cost is that of the path's own segments; counted in look-ups, not in time."""

    class Counted(str):
        __slots__ = ()
        looked_up = 0

        def __hash__(self) -> int:
            Counted.looked_up += 1
            return str.__hash__(self)

    def look_ups(rules: int) -> int:
        index = Index()
        for order in range(rules):
            index.add(
                rule(order),
                [parse_host(f"h{order % 10}.example")],
                [parse_template(f"/s{order}/{{id}}")],
                None,
            )
        index.compile()
        Counted.looked_up = 0
        assert list(index.find("h3.example", "GET", [Counted("s3"), Counted("x")]).rules)
        return Counted.looked_up

    assert look_ups(10) == look_ups(10_000)
