"""Unquoted scalars mean what they mean in Go; what gopkg.in/yaml.v2 reads was recorded from it."""

from typing import Any

import pytest

from common.configfile import ConfigError, parse
from ratelimit.config import compile_limits
from ratelimit.rules import LimitRule, Options
from ratelimit.scalars import BASE_60

FILE = "domain: d\ndescriptors:\n  - {{key: k, {}, rate_limit: {{unit: day, requests_per_unit: {}}}}}\n"


def rule_of(more: str, requests: str = "1") -> LimitRule:
    return compile_limits([parse(FILE.format(more, requests))], Options()).rules[0]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1:30", "1:30"),
        ("-1:30", "-1:30"),
        ("12:30:45.5", "12:30:45.5"),
        ("y", True),
        ("N", False),
        ("'y'", "y"),
        ("yes", True),
        ("off", False),
        ("010", 8),
        ("0o10", 8),
        ("0X10", 16),
        ("0B1", 1),
        ("1_000", 1000),
        ("1e3", 1000.0),
        ("089", 89.0),
        ("'089'", "089"),
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01T10:00:00Z", "2024-01-01T10:00:00Z"),
        ("tRUE", "tRUE"),
        ("~", None),
        ("0o9", "0o9"),
    ],
)
def test_metadata(written: str, value: Any) -> None:
    metadata = rule_of(f"metadata: {{a: {written}, b: {{c: [{written}]}}}}").metadata
    assert metadata is not None
    for read in (metadata["a"], metadata["b"]["c"][0]):
        assert (type(read), read) == (type(value), value)


def test_keys_of_metadata_are_the_text_that_is_written() -> None:
    """Also those that Python takes for one, and in lists and merged maps."""
    assert rule_of("metadata: {7: a, true: {2: b}}").metadata == {"7": "a", "true": {"2": "b"}}
    text = "metadata: {1: one, true: t, True: u, yes: v, 0: z, false: f, '1x': q, l: [{010: a, 8: b}]}"
    assert rule_of(text).metadata == {
        "1": "one",
        "true": "t",
        "True": "u",
        "yes": "v",
        "0": "z",
        "false": "f",
        "1x": "q",
        "l": [{"010": "a", "8": "b"}],
    }
    merged = rule_of("metadata: {a: &m {1.5: x, 2: w}, b: {<<: *m, 2: own}}").metadata
    assert merged == {"a": {"1.5": "x", "2": "w"}, "b": {"1.5": "x", "2": "own"}}


@pytest.mark.parametrize(
    ("written", "key"),
    [
        *(
            (key, key)
            for key in ("yes", "on", "No", "TRUE", "010", "0o10", "0x1F", "1_000", "+5", "-0", "1:30")
        ),
        *((key, key) for key in ("2001-12-14", "1.5", "1e3", ".inf", "089", "190:20:30")),
        ("~", ""),
        ("null", ""),
        ("'1'", "1"),
    ],
)
def test_a_key_of_metadata(written: str, key: str) -> None:
    """Recorded from envoyproxy/ratelimit."""
    assert rule_of(f"metadata: {{{written}: v}}").metadata == {key: "v"}
    assert rule_of(f"metadata: {{a: {{{written}: 010}}}}").metadata == {"a": {key: 8}}


@pytest.mark.parametrize(("written", "value"), [("y", True), ("n", False), ("on", True), ("No", False)])
def test_flags(written: str, value: bool) -> None:
    assert rule_of(f"shadow_mode: {written}").shadow_mode is value


@pytest.mark.parametrize(("written", "value"), [("010", 8), ("0o10", 8), ("1_000", 1000), ("+5", 5)])
def test_numbers(written: str, value: int) -> None:
    assert rule_of("value: v", written).requests_per_unit == value


@pytest.mark.parametrize("written", ["1:30", "12:30:45.5", "y", "010", "0o10", "2024-01-01"])
def test_text_is_as_it_is_written(written: str) -> None:
    assert rule_of(f"value: {written}").path == ("d", f"k_{written}")


def test_a_number_in_base_60_is_not_taken_for_a_number() -> None:
    with pytest.raises(ConfigError, match="1:30 is 90 in base 60; write 90"):
        rule_of("value: v", "1:30")


def test_a_pasted_configmap_is_told_from_a_limits_file() -> None:
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: limits}\ndata:\n  a.yaml: |\n    domain: d\n"
    with pytest.raises(ConfigError) as caught:
        compile_limits([parse(text, "cm.yaml")], Options())
    [problem] = caught.value.problems
    assert str(problem).startswith("cm.yaml:1: this is a Kubernetes object, not a limits file: mount")


@pytest.mark.parametrize("text", ["a: 1:30", "[-1:30.5]", "1_0:3", "{a: +12:30:45}"])
def test_every_number_in_base_60_is_found(text: str) -> None:
    assert BASE_60.search(text)


@pytest.mark.parametrize("text", ["10.0.0.1:8080", "h:80", "a: 1", "::1:2:3", "1:300", "x1:30"])
def test_addresses_are_not_taken_for_one(text: str) -> None:
    assert BASE_60.search(text) is None
