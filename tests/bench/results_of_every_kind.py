"""Invented results for the tests of the report."""

from typing import Any

from bench.openloop.latency import Latency
from bench.tools.document import document
from bench.tools.goals import Goal, Measured

NASTY = "</script><script>document.title='taken over'</script>"


def documents() -> dict[str, dict[str, Any]]:
    """Return the results of a run with Envoy, of a direct one, and of a probe whose note is hostile."""
    figures: dict[str, float | str | None] = {
        "load_tool": "wrk",
        "ratio_floor_rps": 0.95,
        "ratio_floor_p99": 1.1,
        "ratio_grpcio_rps": 2.0,
        "cpu_ratio": None,
        "ratio_added_p50": 1.1,
        "ratio_added_p99": 1.4,
        "none_rps": 20_000.0,
        **{
            f"{kind}_{name}_rps": 3000.0
            for kind in ("native", "floor", "grpcio")
            for name in ("authz", "all")
        },
        **{f"{name}_cpu_us": 80.0 for name in ("envoy", "authz", "ratelimit", "accesslog")},
        "authz_50_native_added_p99_us": 1234.5,
    }
    fast = Latency.of_seconds([0.0002] * 990 + [0.004] * 10)
    slow = Latency.of_seconds([0.0005] * 990 + [0.05] * 10)
    latency = {"authz_50": {"none": fast.encode(), "native": slow.encode(), "floor": fast.encode()}}
    rounds = {"none_rps": [19_000.0, 20_000.0, 21_000.0]}
    envoy = Measured(figures, rounds, {"latency": latency}, ("the machine was too noisy to tell",))
    curve = {"x": "rules", "y": "p99_us", "series": {"authz": [[10, 50.0], [100, 55.0], [10_000, 80.0]]}}
    scale = Measured({"ratio_rules": 0.9}, {}, {"curves": {"Rules": curve}})
    probe = Measured(
        {"load_filters_p99_us": 1.0}, {}, {"latency": {"load": {"filters": fast.encode()}}}, (NASTY,)
    )
    return {
        name: document(name, measured, goals, quick=False, load_average=0.1)
        for name, measured, goals in (
            ("envoy", envoy, {}),
            ("scale", scale, {"ratio_rules": Goal(at_least=0.8)}),
            ("probe", probe, {}),
        )
    }
