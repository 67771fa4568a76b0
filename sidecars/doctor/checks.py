"""All checks, in the order in which their lines are read: from the process to what it depends on."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

from authz.credentials.config import CredentialsConfig
from authz.policy.compile.load import load_policy
from common.configfile import ConfigError
from sidecars.client.pages import NoAnswerError
from sidecars.doctor.admin import Config, domains_in, findings_of, of_no_answer, of_readiness, read_admin
from sidecars.doctor.clocks import check_key_servers, key_set_urls, of_date
from sidecars.doctor.envoy import check_envoy, read_envoy
from sidecars.doctor.files import check_files
from sidecars.doctor.finding import Finding, fail, warn
from sidecars.doctor.packages import check_packages
from sidecars.doctor.redis import check_redis
from sidecars.doctor.redis_rights import RedisUses
from sidecars.doctor.sockets import check_sockets
from sidecars.settings.in_bundle import in_kept_bundle
from sidecars.settings.load import Reading
from sidecars.settings.machine import on_this_machine, open_to_all
from sidecars.settings.root import Settings
from sidecars.settings.sinks import RedisSinkSettings
from sidecars.transport.api.address import Address


async def findings(reading: Reading, envoy_admin: Address | None) -> AsyncIterator[Finding]:
    """Yield the findings of the suite that `reading` configures. `envoy_admin`: if not that of the settings.

    Raises ConfigError for a settings file that cannot be read.
    """
    settings = reading.settings
    if settings is None:
        raise ConfigError(reading.problems)
    for problem in on_this_machine(reading).problems:
        yield fail("settings", str(problem), "correct it, then: sidecars config check FILE")
    for path, message in open_to_all(settings):
        yield warn("settings", str(reading.locate(path, message)), "listen on loopback, or add tls")
    async for finding in check_sockets(settings, time.time()):
        yield finding
    config: Config = {}
    try:
        ready, config = await read_admin(settings)
        yield of_readiness(settings, ready)
        for finding in findings_of(config):
            yield finding
    except NoAnswerError as error:
        yield of_no_answer(settings, error)
    async for finding in _of_envoy(settings, envoy_admin, domains_in(config)):
        yield finding
    credentials = None
    try:
        credentials = _credentials(in_kept_bundle(settings))
    except ConfigError as error:
        for problem in error.problems:
            yield fail("policy", str(problem), "correct it, then: sidecars config check FILE")
    uses = _uses(settings, credentials)
    for section, own in (("redis", uses), ("redis_per_second", RedisUses(uses.ratelimit))):
        async for finding in check_redis(settings, section, own):
            yield finding
    async for finding in check_key_servers(key_set_urls(config)):
        yield finding
    for finding in check_files(settings, _secrets_of(credentials)):
        yield finding
    for finding in check_packages():
        yield finding


async def _of_envoy(
    settings: Settings, given: Address | None, domains: frozenset[str]
) -> AsyncIterator[Finding]:
    accesslog = settings.accesslog
    address = given or (None if accesslog is None else accesslog.envoy_admin)
    if address is None:
        fix = "name Envoy's admin address: accesslog.envoy_admin, or --envoy-admin 127.0.0.1:9901"
        yield warn("envoy", "not checked", fix)
        return
    try:
        pages, first = await read_envoy(address)
    except NoAnswerError as error:
        yield fail(f"envoy {address}", str(error), "start Envoy, or correct envoy_admin")
        return
    for finding in check_envoy(pages, settings, domains):
        yield finding
    date = of_date("envoy clock", first, time.time())
    if date is not None:
        yield date


def _credentials(settings: Settings) -> CredentialsConfig | None:
    return None if settings.authz is None else load_policy(settings.authz.policy).credentials


def _uses(settings: Settings, credentials: CredentialsConfig | None) -> RedisUses:
    ratelimit = settings.ratelimit
    sessions = None if credentials is None else credentials.sessions
    revocations = None if credentials is None else credentials.revocations
    return RedisUses(
        ratelimit.redis_prefix if ratelimit is not None and ratelimit.store == "redis" else None,
        sessions.prefix if sessions is not None and sessions.store == "redis" else None,
        revocations.prefix if revocations is not None and revocations.store == "redis" else None,
        ()
        if settings.accesslog is None
        else tuple(sink.stream for sink in settings.accesslog.sinks if isinstance(sink, RedisSinkSettings)),
    )


def _secrets_of(credentials: CredentialsConfig | None) -> list[Path]:
    if credentials is None or credentials.introspection is None:
        return []
    return [credentials.introspection.client_secret_file]
