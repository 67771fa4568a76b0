"""What is counted of credentials goes on over reloads."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from authz.credentials.core.metrics import MAX_GONE_ISSUERS, CredentialMetrics

ISSUER = "https://one.example"


@dataclass
class RevocationSubscriber:
    connected: bool = True
    interruptions: int = 0


def value(metrics: CredentialMetrics, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(metrics)
    return registry.get_sample_value(name, labels)


def test_a_feed_that_a_reload_replaces_loses_no_interruption() -> None:
    metrics = CredentialMetrics(lambda: 0.0)
    metrics.serve({}, (), RevocationSubscriber(interruptions=3), None)
    metrics.serve({}, (), None, None)
    metrics.serve({}, (), RevocationSubscriber(interruptions=1), None)
    assert value(metrics, "authz_revocation_subscription_interruptions_total") == 4


def test_an_issuer_that_is_gone_is_not_shown_and_counts_on_when_it_comes_back() -> None:
    metrics = CredentialMetrics(lambda: 10.0)
    metrics.key_set(ISSUER).fetched("ok", keys=2, at=4.0)
    metrics.serve({}, [ISSUER], None, None)
    assert value(metrics, "authz_key_set_age_seconds", issuer=ISSUER) == 6
    metrics.serve({}, [], None, None)
    assert value(metrics, "authz_key_set_fetches_total", issuer=ISSUER, outcome="ok") is None
    metrics.serve({}, [ISSUER], None, None)
    assert value(metrics, "authz_key_set_fetches_total", issuer=ISSUER, outcome="ok") == 1
    assert value(metrics, "authz_key_set_keys", issuer=ISSUER) == 0
    assert value(metrics, "authz_key_set_age_seconds", issuer=ISSUER) is None


def test_the_issuers_that_are_gone_are_bounded() -> None:
    metrics = CredentialMetrics(lambda: 0.0)
    for number in range(MAX_GONE_ISSUERS * 2):
        metrics.key_set(f"https://{number}.example")
    metrics.serve({}, [], None, None)
    assert len(metrics._key_sets) == MAX_GONE_ISSUERS
