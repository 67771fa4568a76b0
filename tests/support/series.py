"""The names of all series that the product has, as queries spell them."""

from sidecars.observability.metric_facts import METRIC_FACTS

SERIES = {f"{name}{suffix}" for name in METRIC_FACTS for suffix in ("", "_bucket", "_count", "_sum")}
"""tests/test_metrics_page.py compares METRIC_FACTS with the registries."""
