"""Addresses of clients as values: IPv6 counts by network, IPv4 by address, however they are spelled."""

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.configfile import ConfigError
from ratelimit.decision import LimitDecision
from ratelimit.normalise import address_readings
from ratelimit.rules import Options
from tests.support.limiter import Bench, LaterStore, of

LIMITS = """
    - key: remote_address
      normalise: address
      rate_limit: {unit: day, requests_per_unit: 2}
    - key: remote_address
      value: 2001:db8:0:9::/64
      normalise: address
      rate_limit: {unit: day, requests_per_unit: 3}
"""


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("192.0.2.7", "192.0.2.7"),
        (" 192.0.2.7\t", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::FFFF:c000:207", "192.0.2.7"),
        ("[::ffff:192.0.2.7]", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:0DB8:1:2::", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::1]", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("2001:db8:1:2::/64", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::/48", "2001:db8:1::/48"),
        ("2001:db8:1:2:3::/80", "2001:db8:1:2::/64"),
        ("::/64", "::/64"),
        ("2001:db8::/x", "2001:db8::/x"),
        ("2001:db8::/-1", "2001:db8::/-1"),
        ("host:8080", "host:8080"),
        ("", ""),
    ],
)
def test_what_an_address_counts_as(text: str, reading: str) -> None:
    assert address_readings(text) == (reading,)
    assert address_readings(reading) == (reading,)


@given(st.integers(0, 2**128 - 1), st.integers(16, 128), st.integers(0, 2**128 - 1))
def test_addresses_of_one_network_are_one_value_and_of_two_are_two(one: int, bits: int, other: int) -> None:
    addresses = [IPv6Address(one), IPv6Address(other)]
    if any(address.ipv4_mapped for address in addresses):
        return
    networks = {IPv6Network((address, bits), strict=False) for address in addresses}
    assert len({address_readings(str(address), bits) for address in addresses}) == len(networks)


@given(st.integers(0, 2**32 - 1))
def test_ipv4_mapped_addresses_are_the_ipv4_address(number: int) -> None:
    address = str(IPv4Address(number))
    assert address_readings(f"::ffff:{address}") == address_readings(address) == (address,)


def test_a_client_that_changes_its_address_meets_its_limit() -> None:
    bench = Bench(LIMITS)
    found = [bench.ask(of(("remote_address", f"2001:db8::{number}"))).over_limit for number in range(1, 5)]
    assert found == [False, False, True, True]
    assert not bench.ask(of(("remote_address", "2001:db8:0:1::1"))).over_limit


def test_the_prefix_is_a_setting() -> None:
    limits = "- {key: a, normalise: address, rate_limit: {unit: day, requests_per_unit: 1}}"
    bench = Bench(limits, Options(ipv6_prefix=128))
    assert [bench.ask(of(("a", f"2001:db8::{n}"))).over_limit for n in (1, 2, 2)] == [False, False, True]


def test_a_network_has_its_own_rule() -> None:
    bench = Bench(LIMITS)
    found = [bench.ask(of(("remote_address", f"2001:db8:0:9::{number}"))).over_limit for number in range(4)]
    assert found == [False, False, False, True]


def test_a_value_that_matches_nothing_is_an_error_that_says_what_would() -> None:
    expected = "'2001:db8:0:9::1' is not normalised and would match nothing; write '2001:db8:0:9::/64'"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        Bench(LIMITS.replace("2001:db8:0:9::/64", "2001:db8:0:9::1"))


async def test_a_refusal_is_remembered_for_the_network() -> None:
    bench = Bench(LIMITS, deny_cache=True)
    bench.limiter.store = LaterStore(bench.memory)
    found = []
    for number in range(5):
        answer = bench.ask_later(of(("remote_address", f"2001:db8::{number}")))
        found.append(answer.over_limit if isinstance(answer, LimitDecision) else (await answer).over_limit)
    assert found == [False, False, True, True, True]
    assert bench.limiter.deny_cache is not None
    assert (bench.limiter.deny_cache.hits, len(bench.limiter.deny_cache)) == (2, 1)
