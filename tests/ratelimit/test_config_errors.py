"""Every way in which the YAML of limits can be wrong, and what the user is told about it."""

from textwrap import dedent

import pytest

from common.configfile import ConfigError, Document, parse
from ratelimit.config import compile_limits
from ratelimit.rules import Options


def document(text: str, file: str = "limits.yaml") -> Document:
    return parse(dedent(text), file)


def problems_of(text: str, *more: str, options: Options | None = None) -> list[str]:
    documents = [document(content, f"{number}.yaml") for number, content in enumerate((text, *more), 1)]
    with pytest.raises(ConfigError) as caught:
        compile_limits(documents, options or Options())
    return [str(problem) for problem in caught.value.problems]


class TestErrors:
    """Named after the fixtures of envoyproxy/ratelimit, with its texts; each with our file and line."""

    def test_empty_domain(self) -> None:
        assert problems_of("descriptors: []") == ["1.yaml:1: domain: config file cannot have empty domain"]

    def test_empty_file(self) -> None:
        assert problems_of("") == ["1.yaml: domain: config file cannot have empty domain"]

    def test_limits_have_one_revision(self) -> None:
        assert problems_of("domain: a\nrevision: one", "domain: b\nrevision: two") == [
            "2.yaml:2: revision: 'two', but 1.yaml:2 has 'one': limits have one revision"
        ]

    @pytest.mark.parametrize("revision", ["''", "a b", "x" * 65, "{}"])
    def test_a_revision_is_a_short_name(self, revision: str) -> None:
        assert "1.yaml:2: revision: " in problems_of(f"domain: a\nrevision: {revision}")[0]

    def test_empty_key(self) -> None:
        text = "domain: d\ndescriptors:\n  - value: v"
        assert problems_of(text) == ["1.yaml:3: descriptors[0].key: descriptor has empty key"]

    def test_duplicate_key(self) -> None:
        text = "domain: d\ndescriptors:\n  - {key: k, value: v}\n  - {key: k, value: v}"
        assert problems_of(text) == [
            "1.yaml:4: descriptors[1]: duplicate descriptor composite key 'd.k_v', first in 1.yaml:3"
        ]

    def test_composite_keys_are_joined_before_they_are_compared(self) -> None:
        """As there: `a` with `b_c` and `a_b` with `c` cannot be told apart when a request is matched."""
        text = "domain: d\ndescriptors:\n  - {key: a, value: b_c}\n  - {key: a_b, value: c}"
        [problem] = problems_of(text)
        assert "duplicate descriptor composite key 'd.a_b_c'" in problem

    def test_bad_limit_unit(self) -> None:
        [problem] = problems_of("domain: d\ndescriptors:\n  - key: k\n    rate_limit:\n      unit: foo")
        assert problem.startswith("1.yaml:5: descriptors[0].rate_limit.unit: invalid rate limit unit 'foo'")

    @pytest.mark.parametrize("rate_limit", ["{requests_per_unit: 1}", "{unit: unknown}"])
    def test_no_unit(self, rate_limit: str) -> None:
        [problem] = problems_of(f"domain: d\ndescriptors: [{{key: k, rate_limit: {rate_limit}}}]")
        assert "invalid rate limit unit" in problem

    def test_unlimited_with_unit(self) -> None:
        text = "domain: d\ndescriptors: [{key: k, rate_limit: {unlimited: true, unit: day}}]"
        [problem] = problems_of(text)
        assert problem.endswith("should not specify rate limit unit when unlimited")

    @pytest.mark.parametrize("key", ["burst: 2", "lease: true", "concurrency: 2", "release_after: 5s"])
    def test_unlimited_with_a_key_of_a_limit(self, key: str) -> None:
        text = f"domain: d\ndescriptors: [{{key: k, rate_limit: {{unlimited: true, {key}}}}}]"
        [problem] = problems_of(text)
        assert problem.endswith(f"should not specify {key.partition(':')[0]} when unlimited")

    def test_replaces_self(self) -> None:
        text = "domain: d\ndescriptors: [{key: k, rate_limit: {unit: day, name: a, replaces: [{name: a}]}}]"
        [problem] = problems_of(text)
        assert problem.endswith("replaces should not contain name of same descriptor")

    def test_replaces_empty(self) -> None:
        text = "domain: d\ndescriptors: [{key: k, rate_limit: {unit: day, name: a, replaces: [{name: ''}]}}]"
        [problem] = problems_of(text)
        assert problem.endswith("should not have an empty replaces entry")

    def test_misspelled_key(self) -> None:
        text = "domain: d\ndescriptors:\n  - key: k\n    ratelimit: {unit: day}"
        [problem] = problems_of(text)
        assert problem.startswith("1.yaml:4: descriptors[0].ratelimit: config error, unknown key 'ratelimit'")
        assert problem.endswith("did you mean 'rate_limit'?")

    def test_misplaced_key(self) -> None:
        """There it is silently ignored."""
        text = "domain: d\ndescriptors: [{key: k, rate_limit: {unit: day, shadow_mode: true}, burst: 5}]"
        assert [problem.partition("unknown key ")[2] for problem in problems_of(text)] == [
            "'burst'; it belongs below rate_limit",
            "'shadow_mode'; it belongs to a descriptor, next to its key",
        ]

    def test_non_string_key(self) -> None:
        text = "domain: d\n0.25: x"
        assert problems_of(text) == ["1.yaml:2: 0.25: config error, key is not of type string: 0.25"]

    def test_non_map_list(self) -> None:
        text = "domain: d\ndescriptors:\n  - a"
        assert problems_of(text) == [
            "1.yaml:3: descriptors[0]: config error, yaml file contains list of type other than map: a"
        ]

    @pytest.mark.parametrize("key", ["value: 1.5", "rate_limit: {unit: day, requests_per_unit: 1.5}"])
    def test_a_float_is_no_value(self, key: str) -> None:
        [problem] = problems_of(f"domain: d\ndescriptors: [{{key: k, {key}}}]")
        assert "error checking config" in problem

    @pytest.mark.parametrize("number", ["-1", "4294967296", "lots", "true"])
    def test_requests_per_unit_is_a_uint32(self, number: str) -> None:
        text = f"domain: d\ndescriptors: [{{key: k, rate_limit: {{unit: day, requests_per_unit: {number}}}}}]"
        [problem] = problems_of(text)
        assert "error loading config file" in problem

    def test_a_flag_is_true_or_false(self) -> None:
        [problem] = problems_of("domain: d\ndescriptors: [{key: k, shadow_mode: 'yes'}]")
        assert problem.endswith("expected true or false, found 'yes'")

    def test_share_threshold_needs_a_wildcard(self) -> None:
        [problem] = problems_of("domain: d\ndescriptors: [{key: k, value: v, share_threshold: true}]")
        assert problem.endswith(
            "share_threshold can only be used with wildcard values (containing '*'), but found key 'k_v'"
        )

    def test_metadata_must_be_what_a_struct_carries(self) -> None:
        text = "domain: d\ndescriptors:\n  - {key: a, metadata: [x]}\n"
        text += "  - {key: c, metadata: {x: {y: [.inf]}}}"
        assert [problem.partition("file: ")[2] for problem in problems_of(text)] == [
            "metadata must be a map",
            "metadata.x.y[0] is inf, which JSON and Struct cannot carry",
        ]

    @pytest.mark.parametrize(
        "rate_limit",
        [
            "{unit: day, algorithm: fixed_window, burst: 5}",
            "{unit: day, requests_per_unit: 0, burst: 5}",
            "{unit: day, algorithm: leaky}",
            "{unit: day, on_failure: maybe}",
            "{unit: year, unit_multiplier: 11}",
            "{unit: day, unit_multiplier: 0}",
            "{unlimited: true, burst: 5}",
            "{unlimited: true, cost: 5}",
            "{period: 90, requests_per_unit: 5}",
            "{period: 1.5h, requests_per_unit: 5}",
            "{period: 0s, requests_per_unit: 5}",
            "{period: 522w, requests_per_unit: 5}",
            "{period: 30s, unit: second}",
            "{period: month, unit: month}",
            "{period: months, requests_per_unit: 5}",
            "{period: month, requests_per_unit: 5, burst: 5}",
            "{unit: day, cost: 0}",
            "{unit: day, algorithm: sliding_window, burst: 5}",
        ],
    )
    def test_extensions_that_make_no_sense(self, rate_limit: str) -> None:
        assert len(problems_of(f"domain: d\ndescriptors: [{{key: k, rate_limit: {rate_limit}}}]")) == 1

    @pytest.mark.parametrize("text", ["[]", "just text", "7"])
    def test_a_file_must_be_a_map(self, text: str) -> None:
        [problem] = problems_of(text)
        assert "expected a map" in problem

    def test_all_at_once(self) -> None:
        found = problems_of(
            """
            domain: d
            descriptors:
              - key: a
                rate_limit: {unit: foo, name: n, replaces: [{name: n}]}
              - value: b
              - key: a
                descriptor: []
            """
        )
        assert len(found) == 5
