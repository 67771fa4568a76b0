"""Benchmarks, with the goals that their figures must meet.

Each module in this folder is one benchmark: `python -m bench NAME`. To add one, add a file: the list shows
the first line of its docstring, and it has

    GOALS: dict[str, Goal]                                       # may be empty; see bench/tools/goals.py
    def run(*, quick: bool, say: Callable[[str], None]) -> Figures | Measured

Absolute figures depend on the machine, but the ratios within one run are comparable. So a benchmark measures
what it compares alternately (A B A B), with each side pinned to a core, and reports medians. bench/openloop
is the load generator, bench/report the HTML page, and bench/tools has the shared code.
"""
