"""A share of the traffic is the same one each time, and grows without letting anybody go."""

import jsonschema
import pytest

from authz.policy.compile.load import parse_policy
from authz.policy.model import PolicyFile
from authz.request.identity import ANONYMOUS, CredentialKind, Identity
from common.configfile import ConfigError
from tests.support.asking import allowed, ask, denied
from tests.support.checks import request

CLIENTS = [f"198.51.{number // 250}.{number % 250}" for number in range(2_000)]


def rule(share: str, source: str) -> bool:
    return allowed(f"share: {share}", source=source)


def of(share: str, clients: list[str]) -> set[str]:
    policy = parse_policy(f"rules: [{{name: r, allow: anyone, share: {share}}}]")
    (condition,) = policy.rules[0].requests
    return {client for client in clients if condition.test(ANONYMOUS, request(source=client), 0.0)}


@pytest.mark.parametrize("percent", [1, 5, 50, 99])
def test_it_is_about_as_large_as_it_says(percent: int) -> None:
    assert len(of(f"{percent}%", CLIENTS)) / len(CLIENTS) == pytest.approx(percent / 100, abs=0.03)


def test_a_larger_one_keeps_who_was_in() -> None:
    assert of("5%", CLIENTS) < of("20%", CLIENTS) < of("20.5%", CLIENTS) < set(CLIENTS)
    assert of("0%", CLIENTS) == set()
    assert of("100%", CLIENTS) == set(CLIENTS)


def test_it_is_the_same_on_every_machine() -> None:
    """These were in when this was written, and have to stay."""
    assert of("2%", CLIENTS[:60]) == {"198.51.0.30"}
    assert of("4.4%", CLIENTS[:60]) == {"198.51.0.30", "198.51.0.36", "198.51.0.48"}


def test_another_seed_chooses_others() -> None:
    one, other = of("{percent: 20, seed: a}", CLIENTS), of("{percent: 20, seed: b}", CLIENTS)
    assert len(one & other) / len(CLIENTS) == pytest.approx(0.04, abs=0.02)


def test_a_client_of_ipv6_is_its_network_and_a_mapped_one_its_address() -> None:
    inside = of("30%", [f"2001:db8:{number:x}::1" for number in range(40)])
    assert 0 < len(inside) < 40
    for client in inside:
        assert rule("30%", client.removesuffix("1") + "ffff")
    mapped = next(iter(of("30%", CLIENTS)))
    assert rule("30%", f"::ffff:{mapped}")


def test_a_share_by_subject_follows_the_caller_between_addresses() -> None:
    callers = [Identity(CredentialKind.JWT, f"user-{number}") for number in range(200)]
    condition = "share: {percent: 30, by: subject}"
    inside = {one.subject for one in callers if allowed(condition, one, source="192.0.2.1")}
    assert inside == {one.subject for one in callers if allowed(condition, one, source="198.51.100.7")}
    assert 30 < len(inside) < 90


def test_what_is_unknown_denies_and_does_not_allow() -> None:
    assert not allowed("share: 100%", source="")
    assert denied("share: 1%", source="")


def test_an_anonymous_caller_is_in_no_share_of_subjects() -> None:
    condition = "share: {percent: 100, by: subject}"
    assert not allowed(condition)
    assert not denied(condition)


def test_a_share_of_clients_asks_for_no_credential() -> None:
    decision = ask("rules: [{name: r, allow: anyone, share: 100%}]")
    assert (decision.verdict.status, decision.credential) == (200, "")


@pytest.mark.parametrize(
    "share",
    [
        "5",
        "5 %",
        "101%",
        "-1%",
        "{percent: 101}",
        "{percent: 5, by: role}",
        "{by: subject}",
        "five%",
        "nan%",
        "5.00001%",
    ],
)
def test_what_is_not_a_share_is_an_error(share: str) -> None:
    with pytest.raises(ConfigError, match="share"):
        parse_policy(f"rules: [{{name: r, allow: anyone, share: {share}}}]")


@pytest.mark.parametrize("share", ["5%", "0.5%", "100%", {"percent": 5, "by": "subject", "seed": "x"}])
def test_the_schema_takes_both_spellings(share: object) -> None:
    content = {"rules": [{"name": "r", "allow": "anyone", "share": share}]}
    jsonschema.validate(content, PolicyFile.model_json_schema())
    PolicyFile.model_validate(content)
