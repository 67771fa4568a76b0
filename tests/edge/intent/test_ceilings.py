"""A service keeps to the ceilings of the platform, or has an exception that has not ended."""

from datetime import date

import pytest

from tests.edge.estates import ANYONE, PLATFORM, accepted, problems, route, service

CEILINGS = """\
ceilings: {requests_per_second: 100, burst: 500, sample: 0.2, timeout_seconds: 20, routes: 2, open_routes: 1}
defaults: {log: {sample: 0.1}, limits: [{requests: 10}]}
"""


class TestCeilings:
    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (
                "limits: [{requests: 101}]",
                (
                    "limits[0].requests: 101 requests a second are above the ceiling of 100 "
                    "(platform.yaml:10): lower it, or add an exception with ceiling: requests_per_second"
                ),
            ),
            (
                "timeout: 20001ms",
                (
                    "timeout: a timeout of 20001ms is above the ceiling of 20 "
                    "(platform.yaml:10): lower it, or add an exception with ceiling: timeout_seconds"
                ),
            ),
            (
                "limits: [{requests: 10, burst: 501}]",
                (
                    "limits[0].burst: 501 requests at once are above the ceiling of 500 "
                    "(platform.yaml:10): lower it, or add an exception with ceiling: burst"
                ),
            ),
            (
                "limits: [{requests: 600, period: 1m}]",
                (
                    "limits[0].requests: 600 requests at once are above the ceiling of 500 "
                    "(platform.yaml:10): lower it, or add an exception with ceiling: burst"
                ),
            ),
            (
                "log: {sample: 0.3}",
                (
                    "log.sample: a sample of 0.3 is above the ceiling of 0.2 "
                    "(platform.yaml:10): lower it, or add an exception with ceiling: sample"
                ),
            ),
        ],
    )
    def test_a_value_above_a_ceiling_is_a_problem(self, more: str, message: str) -> None:
        [found] = problems(service(route("/a", f"{more}, {ANYONE}")), platform=PLATFORM + CEILINGS)
        assert found == f"services/0.yaml:6: routes[0].{message}"

    def test_an_exception_lets_a_route_or_the_service_exceed_a_ceiling_up_to_its_value(self) -> None:
        route_too_fast = route("/a", f"limits: [{{requests: 150}}], {ANYONE}")
        exception = (
            "exceptions: [{ceiling: requests_per_second, %s value: %d, reason: r, until: 2026-06-01}]\n"
        )
        platform = PLATFORM + CEILINGS
        for said in ("", "route: a,"):
            assert accepted(service(route_too_fast, more=exception % (said, 150)), platform=platform)
        assert len(problems(service(route_too_fast, more=exception % ("", 149)), platform=platform)) == 1
        day_after = date(2026, 6, 2)
        found = problems(
            service(route_too_fast, more=exception % ("", 150)), platform=platform, today=day_after
        )
        assert [text.partition(":")[2][:12] for text in found] == ["5: exception", "7: routes[0]"]

    def test_an_exception_of_another_route_does_not_count(self) -> None:
        routes = [
            route("/a", f"limits: [{{requests: 150}}], {ANYONE}"),
            route("/b", "who: {allow: authenticated}", "b"),
        ]
        more = (
            "exceptions: [{ceiling: requests_per_second, route: b, value: 150, reason: r, "
            "until: 2026-06-01}]\n"
        )
        [found] = problems(service(*routes, more=more), platform=PLATFORM + CEILINGS)
        assert found.startswith(
            "services/0.yaml:7: routes[0].limits[0].requests: 150 requests a second are above"
        )

    def test_routes_are_counted_open_ones_too(self) -> None:
        routes = [route(f"/{n}", name=n) for n in ("a", "b", "c")]
        assert problems(service(*routes), platform=PLATFORM + CEILINGS) == [
            (
                "services/0.yaml:5: routes: 3 routes are more than the ceiling of 2 "
                "(platform.yaml:10): lower it, or add an exception with ceiling: routes"
            ),
            (
                "services/0.yaml:5: routes: 3 routes that anyone may call are more than the ceiling of 1 "
                "(platform.yaml:10): lower it, or add an exception with ceiling: open_routes"
            ),
        ]

    def test_a_route_without_any_limit_exceeds_the_ceiling_of_the_rate(self) -> None:
        platform = PLATFORM + "ceilings: {requests_per_second: 100}\ntiers: {gold: {requests: 900}}\n"
        texts = [
            service(route("/a", f"limits: [{limits}], {ANYONE}"))
            for limits in ("", "{requests: 1, shadow: true}")
        ]
        for text in texts:
            [found] = problems(text, platform=platform)
            assert found.startswith(
                "services/0.yaml:6: routes[0]: the route has no limit, but the ceiling is 100"
            )
        assert accepted(service(route("/a"), more="tier: gold\n"), platform=platform)

    def test_a_default_limit_of_each_subject_is_none_where_anyone_may_call(self) -> None:
        platform = PLATFORM + (
            "ceilings: {requests_per_second: 100}\ndefaults: {limits: [{per: subject, requests: 10}]}\n"
        )
        [found] = problems(service(route("/a")), platform=platform)
        text = "the route has no limit of callers without a subject, but the ceiling is 100"
        assert found.startswith(f"services/0.yaml:6: routes[0]: {text}")
        assert accepted(service(route("/a", "who: {allow: authenticated}")), platform=platform)

    def test_the_default_timeout_exceeds_a_lower_ceiling_unless_someone_says_less(self) -> None:
        platform = PLATFORM + "ceilings: {timeout_seconds: 10}\n"
        [found] = problems(service(), platform=platform)
        assert "nothing says timeout, so it is 15s: write at most 10s (platform.yaml:10)" in found
        assert accepted(service(more="timeout: 10s\n"), platform=platform) == 1
        assert accepted(service(), platform=platform + "defaults: {timeout: 5s}\n") == 1
        excepted = (
            "exceptions: [{ceiling: timeout_seconds, route: all, value: 60, reason: x, until: 2026-07-01}]\n"
        )
        long = route("/one/a", f"{ANYONE}, timeout: 60s", name="all")
        assert accepted(service(long, more=excepted), platform=platform) == 1

    def test_a_route_that_logs_everything_exceeds_the_ceiling_of_the_sample(self) -> None:
        [found] = problems(service(), platform=PLATFORM + "ceilings: {sample: 0.5}\n")
        assert "nothing says log.sample, so all requests are logged: write at most 0.5" in found

    @pytest.mark.parametrize(
        ("exception", "message"),
        [
            ("ceiling: sample, route: z, value: 1", "route: the service has no route 'z'"),
            ("ceiling: routes, route: all, value: 9", "route: the ceiling routes is about the whole service"),
            (
                "ceiling: sample, value: 0.2",
                "value: 0.2 is not above the ceiling of 0.2: remove the exception",
            ),
        ],
    )
    def test_an_exception_that_means_nothing_is_a_problem(self, exception: str, message: str) -> None:
        more = f"exceptions: [{{{exception}, reason: r, until: 2027-01-01}}]\n"
        [found] = problems(service(more=more), platform=PLATFORM + CEILINGS)
        assert found.startswith(f"services/0.yaml:5: exceptions[0].{message}")

    def test_the_platform_says_which_exceptions_count_and_for_how_long(self) -> None:
        platform = PLATFORM + CEILINGS + "exceptions: {max_days: 90, approved: [T-1]}\n"
        fast = route("/a", f"limits: [{{requests: 150}}], {ANYONE}")
        more = "exceptions: [{ceiling: requests_per_second, value: 150, reason: r, until: %s%s}]\n"
        assert accepted(service(fast, more=more % ("2026-08-30", ", ticket: T-1")), platform=platform)
        [found] = problems(service(fast, more=more % ("2026-08-31", ", ticket: T-1")), platform=platform)
        text = "an exception may last 90 days, not 91 (platform.yaml:12)"
        assert found == f"services/0.yaml:5: exceptions[0].until: {text}"
        for ticket in ("", ", ticket: T-2"):
            found, above = problems(service(fast, more=more % ("2026-06-02", ticket)), platform=platform)
            assert found.startswith("services/0.yaml:5: exceptions[0].ticket: the ticket is not approved: ")
            assert "150 requests a second are above the ceiling" in above


@pytest.mark.parametrize(
    "limit", ["{requests: 1, period: 11y}", "{requests: 1, period: 600w}", "{requests: -1}"]
)
def test_a_limit_that_ratelimit_would_refuse_is_refused(limit: str) -> None:
    [found] = problems(service(route("/a", f"limits: [{limit}], {ANYONE}")))
    assert found.startswith("services/0.yaml:6: routes[0].limits[0].")


@pytest.mark.parametrize("limit", ["{requests: 5, period: month, burst: 9}", "{requests: 0, burst: 9}"])
def test_burst_belongs_to_a_limit_that_refills(limit: str) -> None:
    [found] = problems(service(route("/a", f"limits: [{limit}], {ANYONE}")))
    assert "burst belongs to a limit that refills" in found
