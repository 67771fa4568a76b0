"""Selects a share of the callers, always the same ones, so that a rule can be rolled out step by step."""

import re
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from typing import Any, Final, Literal

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from authz.policy.conditions.condition import Condition, Subject
from authz.policy.types.names import PolicyBlock
from authz.request.identity import ANONYMOUS, Identity
from authz.request.request import Request

_PERCENT: Final = r"^(100|[0-9]{1,2})(\.[0-9]{1,4})?%$"
_WRITTEN: Final = re.compile(_PERCENT)
_PLACE_BITS: Final = 53
"""The precision of a float, so that no position is rounded up to 1, which 100% would exclude."""
_HOST_BITS: Final = 64
"""The low bits of an IPv6 address, which a client can change at will within its network."""


class ShareConfig(PolicyBlock):
    """A percentage of the callers."""

    percent: float = Field(ge=0, le=100, allow_inf_nan=False)
    """How many of every hundred callers, 0 to 100."""
    by: Literal["client", "subject"] = "client"
    """What identifies a caller: its address (for IPv6, the /64 network), or its subject."""
    seed: str = Field("", max_length=128)
    """Another seed selects other callers. Of two shares with one seed, the larger includes the smaller."""


class OrPercent:
    """Accepts `5%` for `{percent: 5}`, in validation and in the JSON schema."""

    @staticmethod
    def __get_pydantic_core_schema__(source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_spelled_out, handler(source))

    @staticmethod
    def __get_pydantic_json_schema__(schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string", "pattern": _PERCENT}, handler(schema)]}


def _spelled_out(value: Any) -> Any:
    if isinstance(value, str) and _WRITTEN.match(value):
        return {"percent": float(value[:-1])}
    if isinstance(value, dict | ShareConfig):
        return value
    raise ValueError(f"{value!r}: expected a share, as in 5% or {{percent: 5, by: subject}}")


def share_condition(config: ShareConfig, name: str) -> Condition:
    """Return a condition that is true for callers in the share.

    The result is unknown for a client without an address, and false by subject for a caller without one.
    """
    limit = config.percent / 100
    seed = config.seed.encode()

    def place(identity: Identity, request: Request) -> float | None:
        key = _network(request.client_address) if config.by == "client" else identity.subject
        return _place(seed, key) if key else None

    def test(identity: Identity, request: Request, _now: float) -> bool | None:
        if config.by == "subject" and identity is ANONYMOUS:
            return False
        found = place(identity, request)
        return None if found is None else found < limit

    def seen(identity: Identity, request: Request, _now: float) -> str:
        found = place(identity, request)
        return "unknown: no address or subject" if found is None else f"this caller is at {found:.2%}"

    seeded = f" by seed {config.seed!r}" if config.seed else ""
    text = f"is one of {config.percent:g}% of {config.by}s{seeded}"
    return Condition(text, test, Subject.CALLER if config.by == "subject" else Subject.REQUEST, seen, name)


def _place(seed: bytes, key: str) -> float:
    """Return the caller's position from 0 up to 1, which is the same in every process and after restarts."""
    digest = blake2b(seed + b"\0" + key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return float(int.from_bytes(digest) >> 64 - _PLACE_BITS) / (1 << _PLACE_BITS)


def _network(address: str) -> str:
    """Return the part of the address that a client cannot change at will; empty if it is not an address."""
    try:
        found = ip_address(address)
    except ValueError:
        return ""
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return f"{int(found) >> _HOST_BITS:x}/64"
