"""Finds conditions that match less or more than they seem to. They are legal, so these are warnings."""

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

from authz.policy.conditions.caller_conditions import WhoConfig
from authz.policy.conditions.networks import Network
from authz.policy.conditions.values import Comparison
from authz.policy.expression.expression import Expression
from authz.policy.expression.kinds import Operand
from authz.policy.model import ConditionConfig, RuleConfig

Doubt = tuple[str, str]
"""The key of the rule that has the doubt (may be empty), and what is wrong."""

_OF_ANOTHER_TYPE: Final = re.compile(r"true|false|null|[-+]?\d+(?:\.\d+)?", re.IGNORECASE)
_TEXT: Final = r"""[rR]?(?P<quote>["'])(?P<text>(?:\\.|(?!(?P=quote)).)*)(?P=quote)"""
_NAME_TESTED: Final = re.compile(
    r"(?<![.\w])(?P<name>host|issuer|subject|peer|client)\s*\.\s*"
    rf"(?P<how>matches|contains|endsWith|startsWith)\s*\(\s*{_TEXT}\s*\)"
)
_WITHIN_HOST: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]+")
"""The beginning of a URL that may end in the middle of its host."""
_MAPPED_NETWORK: Final = IPv6Network("::ffff:0:0/96")
"""IPv4-mapped IPv6 addresses (RFC 4291 section 2.5.5.2), which clients never have here."""
_MAPPED: Final = re.compile(rf"(?<![.\w])client\b[^&|]*?{_TEXT}")
_TEXT_CLAIMS: Final = frozenset({
    "acr", "azp", "client_id", "jti", "nonce", "oid", "phone_number", "sid", "sub", "tid", "ver",
})  # fmt: skip
"""Claims that are text even if they look like a number (OpenID Connect Core, RFC 7519, Entra)."""
_FLAGS: Final = re.compile(r"\(\?[a-zA-Z]+\)")
_CLASS: Final = re.compile(r"\[\]?[^\]]*\]")
_ANY_CHARACTER: Final = re.compile(r"(?<=\w)\.(?=\w)")


def doubts_of(config: RuleConfig, blocks: Sequence[ConditionConfig]) -> Iterator[Doubt]:
    """Yield conditions that match less or more than they seem to. `blocks` are all blocks of the rule."""
    effect = "deny" if config.deny is not None else "allow"
    for who in config.deny or config.allow or ():
        if isinstance(who, WhoConfig):
            yield from ((effect, message) for message in _of_values("claim", who.claims))
    for block in blocks:
        if block.caller is not None:
            yield from (("", message) for message in _of_values("claim", block.caller.claims))
        yield from (("", message) for message in _of_values("body field", block.body))
        if block.when is not None:
            yield from (("", message) for message in _of_expression(block.when))
        yield from (("", message) for message in _of_networks("client", block.client))
        yield from (("", message) for message in _of_networks("client_not", block.client_not))


def _of_values(what: str, compared: dict[str, Comparison]) -> Iterator[str]:
    for name, comparison in compared.items():
        values: list[Any] = []
        for value in (
            comparison.equals,
            comparison.contains,
            *(comparison.one_of or ()),
            *(comparison.not_one_of or ()),
        ):
            values += [] if value is None else [value]
        others = {str(value).lower() for value in values if not isinstance(value, str)}
        for value in values:
            if (
                isinstance(value, str)
                and _OF_ANOTHER_TYPE.fullmatch(value)
                and value.lower() not in others
                and name not in _TEXT_CLAIMS
            ):
                yield f"{what} {name} is compared with {_in_another_type(value)}, or list both"


def _in_another_type(text: str) -> str:
    plain = text.lower()
    return f'the text "{text}", which is not {plain}: leave the quotes out for {plain}'


def _of_networks(key: str, networks: Sequence[Network] | None) -> Iterator[str]:
    """Yield a warning about networks that seem to include IPv4 clients but do not."""
    listed = networks or ()
    if any(isinstance(network, IPv4Network) for network in listed):
        return
    for network in listed:
        if isinstance(network, IPv6Network) and _MAPPED_NETWORK.subnet_of(network):
            yield f"{key}: {network} contains no IPv4 client: list 0.0.0.0/0 too"
            return


def _of_expression(expression: Expression) -> Iterator[str]:
    text = expression.text
    for claim, operands in expression.compared.claims.items():
        yield from (() if _is_text(claim) else _of_claim(claim, operands))
    for found in _NAME_TESTED.finditer(text):
        yield from _of_name(found["name"], found["how"], found["text"].replace("\\\\", "\\"))
    if any("::ffff:" in found["text"].lower() for found in _MAPPED.finditer(text)):
        yield "client never begins with ::ffff: IPv4 addresses are written like 192.0.2.1"


def _is_text(claim: str) -> bool:
    return claim.removeprefix("claims").strip(" .[]'\"") in _TEXT_CLAIMS


def _of_claim(claim: str, operands: Sequence[Operand]) -> Iterator[str]:
    without_quotes = {one.text for one in operands if one.literal is None}
    for text in dict.fromkeys(one.literal for one in operands if one.literal is not None):
        if _OF_ANOTHER_TYPE.fullmatch(text) and text.lower() not in without_quotes:
            yield f"{claim} is compared with {_in_another_type(text)}, or compare with both"


def _of_name(name: str, how: str, text: str) -> Iterator[str]:
    if name == "client":
        if not _is_precise(how, text):
            yield f"client.{how}('{text}') is also true for other addresses: write client, as in 10.0.0.0/8"
    elif how == "startsWith":
        if name == "host" or _WITHIN_HOST.fullmatch(text):
            right = "hosts, as in *.example.com" if name == "host" else f"the host to its end: '{text}/'"
            other = f"{text.removesuffix('.')}.evil.example"
            yield f"{name}.startsWith('{text}') is also true for {other}: write {right}"
    elif how == "matches":
        if not _is_anchored(text):
            yield (
                f"{name}.matches('{text}') is true wherever the {name} contains this: "
                f"write '^(?:{text.removeprefix('^').removesuffix('$')})$' for the whole of it"
            )
        elif name == "host" and _ANY_CHARACTER.search(_CLASS.sub("", text)):
            yield f"host.matches('{text}'): . is any character here; write [.] for a dot"
    elif name == "host" and (how == "contains" or not text.startswith(".")):
        other = f"{text}.evil.example" if how == "contains" else f"evil{text}"
        yield f"host.{how}('{text}') is also true for {other}: write hosts, as in *.example.com"


def _is_precise(how: str, text: str) -> bool:
    """Whether the test of an address as text ends at the end of one of its numbers."""
    if how == "startsWith":
        return text.endswith((".", ":"))
    return how == "matches" and _is_anchored(text)


def _is_anchored(pattern: str) -> bool:
    """Whether each alternative of the RE2 pattern must match the whole text."""
    pattern = _FLAGS.sub("", pattern, count=1) if pattern.startswith("(?") else pattern
    begins = pattern.startswith(("^", r"\A"))
    ends = pattern.endswith(r"\z") or (pattern.endswith("$") and not pattern.endswith(r"\$"))
    return begins and ends and "|" not in _outside_groups(pattern)


def _outside_groups(pattern: str) -> str:
    plain = _CLASS.sub("", re.sub(r"\\.", "", pattern))
    while (shorter := re.sub(r"\([^()]*\)", "", plain)) != plain:
        plain = shorter
    return plain
