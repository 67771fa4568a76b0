"""The requests of an ADS client, and its waits."""

import pytest

from protos.discovery_pb2 import DiscoveryResponse
from sidecars.services.xds.conversation import MAX_REASON, Conversation, backoff_seconds


def test_a_rejection_names_the_version_in_service_and_an_acceptance_the_new_one() -> None:
    conversation = Conversation("n", "", {}, "1.0")
    first = conversation.accepted(DiscoveryResponse(version_info="1", nonce="a"))
    assert (first.version_info, first.response_nonce) == ("1", "a")
    second = conversation.rejected(DiscoveryResponse(version_info="2", nonce="b"), "no")
    assert (second.version_info, second.response_nonce) == ("1", "b")
    assert (second.error_detail.code, second.error_detail.message) == (3, "no")
    assert conversation.first().version_info == "1"


def test_a_long_reason_is_cut() -> None:
    conversation = Conversation("n", "", {}, "1.0")
    request = conversation.rejected(DiscoveryResponse(), "x" * 10_000)
    assert len(request.error_detail.message) == MAX_REASON


@pytest.mark.parametrize(
    ("failures", "random", "seconds"), [(1, 0, 1), (2, 0, 2), (3, 0.5, 3), (5, 0, 10), (10_000, 0.9, 5.5)]
)
def test_waits_double_up_to_the_longest_less_a_random_half(
    failures: int, random: float, seconds: float
) -> None:
    assert backoff_seconds(failures, 1, 10, random) == pytest.approx(seconds)
