"""The harness that holds the latency budget. Each module in this folder is one bench: `python -m bench NAME`.

A new bench is a new file: the list shows the first line of its docstring, and it has

    GOALS: dict[str, Goal]                                       # may be empty; see bench/tools/goals.py
    def run(*, quick: bool, say: Callable[[str], None]) -> Figures

Figures of one machine mean little; the ratios within one run are what counts, so a bench measures what it
compares in turns (A B A B), each side pinned to a core, and reports medians. bench/tools has the means.
"""
