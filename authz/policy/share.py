"""A share of the traffic: the same callers each time, so that a rule can be rolled out step by step."""

import re
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from typing import Any, Final, Literal

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from authz.identity import ANONYMOUS, Identity
from authz.policy.condition import Condition, Subject
from authz.policy.words import Block
from authz.request import Request

_PERCENT: Final = r"^(100|[0-9]{1,2})(\.[0-9]{1,4})?%$"
_WRITTEN: Final = re.compile(_PERCENT)
_PARTS: Final = 2**64
_HOST_BITS: Final = 64
"""Of an IPv6 address: a client changes them at will, and keeps its network."""


class ShareConfig(Block):
    """So many callers of a hundred."""

    percent: float = Field(ge=0, le=100, allow_inf_nan=False)
    by: Literal["client", "subject"] = "client"
    """What stays the same for a caller: its address (of IPv6, the network of 64 bits), or who it is."""
    seed: str = Field("", max_length=128)
    """Another seed chooses others. Shares with one seed choose the same, and a larger share them and more."""


class OrPercent:
    """Lets `5%` stand for `{percent: 5}`, in validation and in the JSON schema."""

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
    """Whether the caller is one of the share.

    A client without an address cannot be told; a caller whom nobody knows is in no share of subjects.
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
        return "nothing to tell it by" if found is None else f"this one comes at {found:.2%}"

    seeded = f" by seed {config.seed!r}" if config.seed else ""
    text = f"is one of {config.percent:g}% of {config.by}s{seeded}"
    return Condition(text, test, Subject.CALLER if config.by == "subject" else Subject.REQUEST, seen, name)


def _place(seed: bytes, key: str) -> float:
    """Where the caller stands among all, from 0 up to 1: the same in every process and after every start."""
    digest = blake2b(seed + b"\0" + key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) / _PARTS


def _network(address: str) -> str:
    """What stays the same of the address; empty where it is none."""
    try:
        found = ip_address(address)
    except ValueError:
        return ""
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return f"{int(found) >> _HOST_BITS:x}/64"
