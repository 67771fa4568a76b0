"""The example of docs/migrating-oauth2-proxy.md: two configurations, requests, and the answers of both."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.manifests import ROOT
from tests.support.signing import claims, token

PAGE = (ROOT / "docs" / "migrating-oauth2-proxy.md").read_text(encoding="utf-8")
HOST = "app.example.com"
CLIENT = "198.51.100.1"


def block(kind: str) -> str:
    """Return the only block of this kind on the page."""
    [found] = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of the page, and the answer of each side by the names of its facts."""

    line: str
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    client: str = CLIENT
    session: Mapping[str, Any] | None = None
    bearer: Mapping[str, Any] | None = None
    ours: Mapping[str, str] = field(default_factory=dict)
    theirs: Mapping[str, str] = field(default_factory=dict)


def requests() -> list[Asked]:
    """Return the requests of the page."""
    return [parse(line) for line in block("requests").splitlines()]


def parse(line: str) -> Asked:
    """Return the request of one line."""
    asked, _, expected = line.rpartition(" -> ")
    method, path, *details = shlex.split(asked)
    said = dict(detail.split("=", 1) for detail in details)
    status, *facts = shlex.split(expected)
    wanted = dict(fact.split("=", 1) for fact in facts)
    proxy = wanted.pop("proxy", status)
    return Asked(
        line,
        method,
        path,
        {name.removeprefix("header."): text for name, text in said.items() if name.startswith("header.")},
        said.get("client", CLIENT),
        json.loads(said["session"]) if "session" in said else None,
        json.loads(said["token"]) if "token" in said else None,
        {"status": status} | wanted,
        {"status": proxy} | wanted,
    )


def user(said: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return the claims that the identity provider has about this user."""
    usual = {"iat": now - 60, "exp": now + 600, "scope": None, "email_verified": True}
    return claims(**usual | dict(said))


def signed(said: Mapping[str, Any], now: float) -> str:
    """Return a token of the identity provider for this user."""
    return token(**user(said, now) | {"scope": None})
