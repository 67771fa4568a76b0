"""The YAML of envoyproxy/ratelimit: what it means, and every way it can be wrong (its config_test.go)."""

from pathlib import Path
from textwrap import dedent

import pytest

from common.buckets import SECOND_US, FixedWindow, SlidingWindow, TokenBucket
from common.configfile import ConfigError, Document, parse
from ratelimit.config import compile_limits, load_limits
from ratelimit.rules import (
    UNIT_SECONDS,
    Algorithm,
    CompiledLimits,
    LimitRule,
    OnFailure,
    Options,
    Unit,
    share_of,
)


def document(text: str, file: str = "limits.yaml") -> Document:
    return parse(dedent(text), file)


def compiled(text: str, options: Options | None = None) -> CompiledLimits:
    return compile_limits([document(text)], options or Options())


def rule_of(rate_limit: str, options: Options | None = None) -> LimitRule:
    text = f"domain: d\ndescriptors:\n  - key: k\n    rate_limit: {rate_limit}\n"
    return compile_limits([parse(text)], options or Options()).rules[0]


def problems_of(text: str, *more: str, options: Options | None = None) -> list[str]:
    documents = [document(content, f"{number}.yaml") for number, content in enumerate((text, *more), 1)]
    with pytest.raises(ConfigError) as caught:
        compile_limits(documents, options or Options())
    return [str(problem) for problem in caught.value.problems]


class TestMeaning:
    def test_a_rule_is_named_by_its_path(self) -> None:
        limits = compiled(
            """
            domain: edge
            descriptors:
              - key: route
                value: login
                descriptors:
                  - key: remote_address
                    rate_limit: {unit: minute, requests_per_unit: 5}
            """
        )
        assert [rule.key for rule in limits.rules] == ["edge.route_login.remote_address"]
        assert limits.rules[0].source == "limits.yaml:7"

    @pytest.mark.parametrize(
        ("unit", "seconds"),
        [
            ("second", 1),
            ("MINUTE", 60),
            ("Hour", 3600),
            ("day", 86400),
            ("week", 7 * 86400),
            ("month", 30 * 86400),
            ("year", 365 * 86400),
        ],
    )
    def test_units_are_fixed_spans_in_any_case(self, unit: str, seconds: int) -> None:
        """utilities.go UnitToDivider."""
        rule = rule_of(f"{{unit: {unit}, requests_per_unit: 7}}")
        assert rule.bucket == TokenBucket(7, 7, seconds * SECOND_US)
        assert rule.unit is Unit[unit.upper()]

    def test_week_has_its_own_number_on_the_wire(self) -> None:
        assert rule_of("{unit: week, requests_per_unit: 1}").unit == 7

    def test_fixed_window_for_strict_compatibility(self) -> None:
        rule = rule_of("{unit: minute, requests_per_unit: 7, algorithm: fixed_window}")
        assert rule.bucket == FixedWindow(7, 60 * SECOND_US, charge_rejected=True)

    def test_the_default_algorithm_is_a_setting(self) -> None:
        options = Options(algorithm=Algorithm.FIXED_WINDOW)
        assert isinstance(rule_of("{unit: minute, requests_per_unit: 7}", options).bucket, FixedWindow)
        named = rule_of("{unit: minute, requests_per_unit: 7, algorithm: token_bucket}", options)
        assert isinstance(named.bucket, TokenBucket)

    @pytest.mark.parametrize(
        ("period", "unit", "multiplier"),
        [("30s", Unit.SECOND, 30), ("5m", Unit.MINUTE, 5), ("1h", Unit.HOUR, 1), ("2w", Unit.WEEK, 2)],
    )
    def test_a_period_is_a_unit_and_its_multiplier(self, period: str, unit: Unit, multiplier: int) -> None:
        rule = rule_of(f"{{period: {period}, requests_per_unit: 7}}")
        assert (rule.unit, rule.unit_multiplier) == (unit, multiplier)
        assert rule.bucket == TokenBucket(7, 7, UNIT_SECONDS[unit] * multiplier * SECOND_US)

    def test_sliding_window_and_cost(self) -> None:
        rule = rule_of("{period: 1m, requests_per_unit: 7, algorithm: sliding_window, cost: 3}")
        assert rule.bucket == SlidingWindow(7, 60 * SECOND_US)
        assert rule.cost == 3

    def test_burst_unit_multiplier_and_charge_rejected(self) -> None:
        """unit_multiplier: envoyproxy/ratelimit#190, windows such as 30 s or 5 min."""
        rule = rule_of(
            "{unit: second, unit_multiplier: 30, requests_per_unit: 10, burst: 50, charge_rejected: true}"
        )
        assert rule.bucket == TokenBucket(50, 10, 30 * SECOND_US, charge_rejected=True)
        assert rule.unit_multiplier == 30

    def test_without_requests_per_unit_nothing_passes(self) -> None:
        assert rule_of("{unit: minute}").bucket == FixedWindow(0, 60 * SECOND_US)

    def test_on_failure_is_the_settings_or_the_rules_own(self) -> None:
        options = Options(on_failure=OnFailure.OPEN)
        assert rule_of("{unit: minute}", options).on_failure is OnFailure.OPEN
        assert rule_of("{unit: minute, on_failure: closed}", options).on_failure is OnFailure.CLOSED

    def test_a_replica_falls_back_to_its_part_rounded_up(self) -> None:
        rule = rule_of("{unit: minute, requests_per_unit: 10, burst: 20}")
        assert rule.bucket == TokenBucket(20, 10, 60 * SECOND_US)
        assert share_of(rule.bucket, 3) == TokenBucket(7, 4, 60 * SECOND_US)

    def test_unlimited_has_no_bucket(self) -> None:
        rule = rule_of("{unlimited: true, name: free, replaces: [{name: paid}]}")
        assert rule.unlimited
        assert (rule.name, list(rule.replaces)) == ("free", ["paid"])

    def test_modes_and_metadata_of_the_descriptor_go_to_its_rule(self) -> None:
        limits = compiled(
            """
            domain: d
            descriptors:
              - key: k
                shadow_mode: true
                quota_mode: true
                detailed_metric: true
                metadata: {team: edge, since: 2024-01-01, any_key: {ratio: 1.5, list: [1, [x]]}}
                rate_limit: {unit: minute, requests_per_unit: 1}
            """
        )
        rule = limits.rules[0]
        assert (rule.shadow_mode, rule.quota_mode, rule.detailed_metric) == (True, True, True)
        assert rule.metadata == {
            "team": "edge",
            "since": "2024-01-01",
            "any_key": {"ratio": 1.5, "list": [1, ["x"]]},
        }

    @pytest.mark.parametrize(
        ("written", "value"),
        [("404", "404"), ("010", "010"), ("true", "true"), ("2024-01-01", "2024-01-01"), ("1_000", "1_000")],
    )
    def test_a_value_is_the_text_as_it_is_written(self, written: str, value: str) -> None:
        """Go decodes an unquoted scalar into a string field as the file spells it."""
        limits = compiled(
            f"""
            domain: d
            descriptors:
              - key: status
                value: {written}
                rate_limit: {{unit: minute, requests_per_unit: 1}}
            """
        )
        assert limits.rules[0].path == ("d", f"status_{value}")

    def test_empty_maps_and_lists_are_nothing(self) -> None:
        limits = compiled(
            """
            domain: d
            descriptors:
              - key: k
                value:
                rate_limit:
                descriptors:
            """
        )
        assert limits.rules == ()

    def test_a_file_may_hold_a_domain_without_descriptors(self) -> None:
        assert list(compiled("domain: d").domains) == ["d"]

    def test_anchors_may_repeat_a_limit(self) -> None:
        limits = compiled(
            """
            domain: d
            descriptors:
              - {key: a, rate_limit: &five {unit: minute, requests_per_unit: 5}}
              - {key: b, rate_limit: *five}
            """
        )
        assert [rule.key for rule in limits.rules] == ["d.a", "d.b"]


class TestSeveralFiles:
    def test_a_duplicate_domain_is_an_error(self) -> None:
        assert problems_of("domain: d", "domain: d") == [
            "2.yaml:1: domain: duplicate domain 'd' in config file, first in 1.yaml:1"
        ]

    def test_merge_domains_adds_to_one_domain(self) -> None:
        """MERGE_DOMAIN_CONFIG."""
        texts = [
            f"domain: d\ndescriptors: [{{key: {key}, rate_limit: {{unit: second}}}}]" for key in ("a", "b")
        ]
        limits = compile_limits([parse(text) for text in texts], Options(merge_domains=True))
        assert sorted(limits.domains["d"].children) == ["a", "b"]

    def test_merged_files_may_not_say_the_same_twice(self) -> None:
        text = "domain: d\ndescriptors: [{key: a}]"
        assert problems_of(text, text, options=Options(merge_domains=True)) == [
            "2.yaml:2: descriptors[0]: duplicate descriptor composite key 'd.a', first in 1.yaml:2"
        ]

    def test_a_folder_is_its_yaml_files_without_hidden_ones(self, tmp_path: Path) -> None:
        """A mounted ConfigMap keeps its files in ..data and links to them."""
        (tmp_path / "..data").mkdir()
        (tmp_path / "..data" / "a.yaml").write_text("domain: a")
        (tmp_path / "a.yaml").symlink_to(tmp_path / "..data" / "a.yaml")
        (tmp_path / "b.yml").write_text("domain: b")
        (tmp_path / ".c.yaml").write_text("domain: c")
        (tmp_path / "notes.txt").write_text("domain: d")
        assert sorted(load_limits([tmp_path], Options()).domains) == ["a", "b"]

    def test_a_folder_without_any_is_a_mistake(self, tmp_path: Path) -> None:
        """An empty mount must not replace the limits by none: no request would be limited any more."""
        (tmp_path / "limits.yaml.bak").write_text("domain: a")
        with pytest.raises(
            ConfigError, match=r"holds no limit file: \*\.yaml or \*\.yml; found limits\.yaml\.bak$"
        ):
            load_limits([tmp_path], Options())

    def test_the_revision_changes_with_the_content(self, tmp_path: Path) -> None:
        file = tmp_path / "a.yaml"
        revisions = set()
        for content in ("domain: a", "domain: b", "domain: a"):
            file.write_text(content)
            revisions.add(load_limits([file], Options()).revision)
        assert len(revisions) == 2

    def test_the_revision_is_the_one_that_the_files_state(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("domain: a")
        (tmp_path / "b.yaml").write_text("domain: b\nrevision: 2026-11-29")
        assert load_limits([tmp_path], Options()).revision == "2026-11-29"

    def test_problems_of_all_files_are_told_at_once(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("domain: ''")
        (tmp_path / "b.yaml").write_text("domain: [")
        with pytest.raises(ConfigError) as caught:
            load_limits([tmp_path, tmp_path / "absent.yaml"], Options())
        assert {Path(problem.file).name for problem in caught.value.problems} == {
            "a.yaml",
            "b.yaml",
            "absent.yaml",
        }
