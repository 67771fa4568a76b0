"""Limits that a management server sent, as limit files: they are read, and kept, as these are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
import structlog
import yaml
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from common.configfile import ConfigError, Document, parse
from common.os_errors import in_words
from common.replace_file import replace_file
from protos.ratelimit_config_pb2 import (
    RateLimitConfig,
    RateLimitDescriptor,
    RateLimitPolicy,
    RateLimitUnit,
)

FORMAT: Final = 1
"""The format of the file that keeps them."""

_Dumper: Final[type[yaml.SafeDumper]] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

_log = structlog.get_logger("sidecars.ratelimit")


class SentLimits(NamedTuple):
    """A set of limits, and its version."""

    version: str
    texts: tuple[tuple[str, str], ...]
    """Name and YAML of each domain."""

    def documents(self) -> list[Document]:
        """The limit files; problems name them `xds/NAME`. Raises ConfigError."""
        return [parse(text, f"xds/{name}") for name, text in self.texts]


def sent_limits(version: str, resources: Sequence[AnyMessage]) -> SentLimits:
    """The limits in the resources of a response. Raises ConfigError for one of another type."""
    texts = []
    for position, resource in enumerate(resources):
        config = RateLimitConfig()
        try:
            is_config = resource.Unpack(config)
        except DecodeError:
            raise ConfigError.of(f"xds/{position}", "the resource cannot be decoded") from None
        if not is_config:
            expected = RateLimitConfig.DESCRIPTOR.full_name
            text = f"expected a {expected}, found {resource.type_url!r}"
            raise ConfigError.of(f"xds/{position}", text)
        texts.append((config.name or config.domain or str(position), limits_text(config)))
    return SentLimits(version, tuple(texts))


def limits_text(config: RateLimitConfig) -> str:
    """The limit file of one domain, in YAML."""
    data = {"domain": config.domain, "descriptors": list(map(_descriptor, config.descriptors))}
    # Escaped: PyYAML folds a NEL (U+0085) that it writes as it is.
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=False)


def _descriptor(descriptor: RateLimitDescriptor) -> dict[str, Any]:
    found: dict[str, Any] = {"key": descriptor.key}
    if descriptor.value:
        found["value"] = descriptor.value
    for flag in ("shadow_mode", "detailed_metric", "quota_mode"):
        if getattr(descriptor, flag):
            found[flag] = True
    if descriptor.HasField("rate_limit"):
        found["rate_limit"] = _policy(descriptor.rate_limit)
    if descriptor.descriptors:
        found["descriptors"] = list(map(_descriptor, descriptor.descriptors))
    return found


def _policy(policy: RateLimitPolicy) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if policy.unlimited:
        found["unlimited"] = True
    if policy.unit or not policy.unlimited:
        known = policy.unit in RateLimitUnit.values()
        found["unit"] = RateLimitUnit.Name(policy.unit).lower() if known else str(policy.unit)
    if policy.requests_per_unit or not policy.unlimited:
        found["requests_per_unit"] = policy.requests_per_unit
    if policy.name:
        found["name"] = policy.name
    if policy.replaces:
        found["replaces"] = [{"name": replaced.name} for replaced in policy.replaces]
    return found


def keep(limits: SentLimits, file: Path) -> None:
    """Write `limits` to `file`, whole or not at all. Raises ConfigError."""
    content = {"format": FORMAT, "version": limits.version, "limits": limits.texts}
    try:
        replace_file(file, orjson.dumps(content, option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise ConfigError.of(file, f"cannot be written: {in_words(error)}") from None


def kept(file: Path) -> SentLimits | None:
    """The limits in `file`; None if it does not exist. Raises ConfigError for anything else than limits."""
    try:
        content = orjson.loads(file.read_bytes())
        if content["format"] != FORMAT:
            raise ConfigError.of(file, f"expected format {FORMAT}, found {content['format']!r}")
        texts = tuple((str(name), str(text)) for name, text in content["limits"])
        return SentLimits(str(content["version"]), texts)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError.of(file, f"cannot be read: {in_words(error)}") from None
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        raise ConfigError.of(file, "expected limits as this process keeps them") from None


def kept_documents(file: Path | None) -> list[Document]:
    """The limits in `file`, which were accepted last; none without a file. Logs what is wrong with it."""
    if file is None:
        return []
    try:
        limits = kept(file)
        return [] if limits is None else limits.documents()
    except ConfigError as error:
        _log.warning("kept limits are not used", error=str(error))
        return []
