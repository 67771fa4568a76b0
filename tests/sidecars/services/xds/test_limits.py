"""Messages of a management server as limit files, and the file that keeps them."""

from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import ParseDict

from common.configfile import ConfigError, parse
from protos.ratelimit_config_pb2 import RateLimitConfig
from ratelimit.config import compile_limits
from ratelimit.rules import Options
from sidecars.services.xds.limits import SentLimits, keep, kept, limits_text, sent_limits

ALL = {
    "name": "first",
    "domain": "edge",
    "descriptors": [
        {
            "key": "user",
            "value": "1:20",
            "detailed_metric": True,
            "rate_limit": {"unit": "WEEK", "requests_per_unit": 7, "name": "weekly"},
            "descriptors": [
                {"key": "path", "rate_limit": {"unlimited": True, "replaces": [{"name": "weekly"}]}}
            ],
        },
        {"key": "plan", "value": "yes", "shadow_mode": True, "rate_limit": {"unit": "MONTH"}},
        {"key": "é", "quota_mode": True, "rate_limit": {"unit": "SECOND", "requests_per_unit": 4294967295}},
    ],
}


def config() -> RateLimitConfig:
    return ParseDict(ALL, RateLimitConfig())


def test_every_field_becomes_a_key_of_a_limit_file() -> None:
    assert parse(limits_text(config())).data == {
        "domain": "edge",
        "descriptors": [
            {
                "key": "user",
                "value": "1:20",
                "detailed_metric": True,
                "rate_limit": {"unit": "week", "requests_per_unit": 7, "name": "weekly"},
                "descriptors": [
                    {"key": "path", "rate_limit": {"unlimited": True, "replaces": [{"name": "weekly"}]}}
                ],
            },
            {
                "key": "plan",
                "value": "yes",
                "shadow_mode": True,
                "rate_limit": {"unit": "month", "requests_per_unit": 0},
            },
            {
                "key": "é",
                "quota_mode": True,
                "rate_limit": {"unit": "second", "requests_per_unit": 4294967295},
            },
        ],
    }


def test_such_a_file_is_loaded_as_any_other() -> None:
    limits = compile_limits([parse(limits_text(config()))], Options())
    assert [rule.key for rule in limits.rules] == [
        "edge.user_1:20",
        "edge.user_1:20.path",
        "edge.plan_yes",
        "edge.é",
    ]


@pytest.mark.parametrize(
    "value", ["a\x85b", "a\u2028b", "a\nb", "a\x00b", "é", "yes", "*a", "&a", "x: y", "#", "1e3"]
)
def test_a_value_stays_as_it_was_sent(value: str) -> None:
    message = config()
    message.descriptors[0].value = value
    assert parse(limits_text(message)).data["descriptors"][0]["value"] == value


def test_a_unit_that_is_not_known_is_named_by_its_number() -> None:
    message = config()
    message.descriptors[0].rate_limit.unit = 99  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="invalid rate limit unit '99'"):
        compile_limits([parse(limits_text(message))], Options())


def test_a_message_without_a_name_is_named_by_its_domain_or_its_position() -> None:
    resources = []
    for message in (RateLimitConfig(domain="edge"), RateLimitConfig(), RateLimitConfig(name="n", domain="d")):
        resource = AnyMessage()
        resource.Pack(message)
        resources.append(resource)
    assert [name for name, _ in sent_limits("1", resources).texts] == ["edge", "1", "n"]


def test_what_is_kept_is_read_again_and_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "kept.json"
    assert kept(file) is None
    for version in ("1", "2"):
        limits = SentLimits(version, (("edge", limits_text(config())),))
        keep(limits, file)
        assert kept(file) == limits
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path}: cannot be read: "):
        kept(tmp_path)
