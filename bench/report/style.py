"""The style sheet of the page, for light and dark."""

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --ground: #fff; --text: #1c2128; --faint: #59636e; --grid: #d8dee4;
  --none: #6e7781; --native: #0969da; --floor: #1a7f37; --grpcio: #bc4c00;
  --extra: #8250df; --good: #1a7f37; --bad: #cf222e; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --text: #e6edf3; --faint: #9198a1;
  --grid: #30363d; --none: #9198a1; --native: #58a6ff; --floor: #3fb950;
  --grpcio: #f0883e; --extra: #bc8cff; --good: #3fb950; --bad: #ff7b72; --card: #161b22; } }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { margin: 2.5rem 0 .5rem; padding-top: .5rem;
  border-top: 1px solid var(--grid); } h3 { margin: 1.5rem 0 .25rem; font-size: 1rem; }
.lead { font-size: 1.15rem; margin: .25rem 0; } .notes { color: var(--bad); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--grid); }
th { color: var(--faint); font-weight: 500; } .number { text-align: right; white-space: nowrap; }
.verdict { white-space: nowrap; font-weight: 600; color: var(--faint); }
.met .verdict { color: var(--good); } .missed .verdict { color: var(--bad); }
svg { width: 100%; height: auto; display: block; background: var(--card); border-radius: 6px; }
svg text { fill: var(--text); font-size: 12px; } .tick, .axis { fill: var(--faint) !important; }
.end { text-anchor: end; } .middle { text-anchor: middle; } .grid { stroke: var(--grid); }
.line { fill: none; stroke-width: 2; stroke: currentColor; } .dot, .bar { fill: currentColor; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .35em;
  background: currentColor; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: .25rem 0 0; color: var(--faint); }
.s-none, .s-envoy { color: var(--none); } .s-native, .s-filters, .s-authz, .s-ours { color: var(--native); }
.s-floor, .s-ratelimit { color: var(--floor); } .s-grpcio, .s-accesslog { color: var(--grpcio); }
.s-redis, .s-memory { color: var(--extra); } details { margin: 1rem 0; } summary { cursor: pointer; }
"""
