"""Small estates for tests."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Final

import pytest

from common.configfile import ConfigError
from edge.intent.estate import EstateReader
from edge.intent.model import Estate

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "edge"
TODAY: Final = date(2026, 6, 1)

PLATFORM: Final = """\
domain: edge
policy:
  credentials:
    issuers:
      - {issuer: "https://a", audiences: [x], max_lifetime_seconds: 600, jwks: {url: "https://a/keys"}}
      - {issuer: "https://b", audiences: [x], max_lifetime_seconds: 600, jwks: {url: "https://b/keys"}}
teams:
  one: {owns: [one.example, "shared.example/one/{rest=**}"]}
  two: {owns: ["*.two.example", "shared.example/two/{rest=**}"]}
"""
ANYONE: Final = "who: {allow: anyone}"
ROUTE: Final = "{id: all, paths: [/one/a], who: {allow: anyone}}"


def service(
    *routes: str,
    name: str = "shop",
    owner: str = "one",
    hosts: str = "one.example",
    more: str = "",
) -> str:
    """Return the text of a service file; each of `routes` is a YAML mapping on one line."""
    lines = "\n".join(f"  - {route}" for route in routes or (ROUTE,))
    head = f"service: {name}\nowner: {owner}\nhosts: [{hosts}]\nupstream: {{address: 'up:80'}}\n"
    return f"{head}{more}routes:\n{lines}\n"


def route(path: str, more: str = ANYONE, name: str = "a") -> str:
    """Return a route as `service` takes it."""
    return f"{{id: {name}, paths: ['{path}'], {more}}}"


def shared(path: str, name: str, owner: str, host: str = "shared.example", more: str = ANYONE) -> str:
    """Return the text of a service with one route, on a host that teams share."""
    return service(route(path, more), name=name, owner=owner, hosts=f"'{host}'")


def read(*services: str, platform: str = PLATFORM, today: date = TODAY) -> Estate:
    """Return the estate of these texts. Raises ConfigError."""
    return EstateReader().read(texts_of(*services, platform=platform), today)


def accepted(*services: str, platform: str = PLATFORM, today: date = TODAY) -> int:
    """Return the number of services in the estate of these texts, which has no problems."""
    return len(read(*services, platform=platform, today=today).services)


def texts_of(*services: str, platform: str = PLATFORM) -> Mapping[str, str]:
    """Return the texts by name, as a folder would have them: services/0.yaml, services/1.yaml ..."""
    return {"platform.yaml": platform} | {f"services/{n}.yaml": text for n, text in enumerate(services)}


def problems(*services: str, platform: str = PLATFORM, today: date = TODAY) -> list[str]:
    """Return what is wrong with the estate of these texts, one line for each problem."""
    with pytest.raises(ConfigError) as refused:
        read(*services, platform=platform, today=today)
    return [str(problem) for problem in refused.value.problems]
