"""When the certificates that serve expire, for a metric and its alert."""

import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from sidecars.transport.api.address import TlsSettings
from sidecars.transport.server.server import GrpcServer
from tests.support.authority import Authority, Pair
from tests.support.transport.harness import LOOPBACK, services, until, within

SERVERS, CLIENTS = Authority("servers"), Authority("clients")


def days(count: int) -> dt.datetime:
    """A time that a certificate can hold: whole seconds."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(days=count)


def write(settings: TlsSettings, pair: Pair) -> None:
    settings.cert_file.write_bytes(pair.certificate)
    settings.key_file.write_bytes(pair.key)


@pytest.fixture
def settings(tmp_path: Path) -> TlsSettings:
    authorities = tmp_path / "clients.pem"
    authorities.write_bytes(CLIENTS.certificate)
    made = TlsSettings(tmp_path / "server.pem", tmp_path / "server.key", authorities, reload_seconds=0.05)
    write(made, SERVERS.sign("first", days(3)))
    return made


@pytest.fixture
async def server(settings: TlsSettings) -> AsyncIterator[GrpcServer]:
    made = GrpcServer(services({}), [replace(LOOPBACK, tls=settings)])
    await within(made.start())
    yield made
    await within(made.drain(0))


async def test_each_file_has_its_expiry_also_after_a_change(
    server: GrpcServer, settings: TlsSettings
) -> None:
    assert set(server.tls_expiries) == {settings.cert_file, settings.client_ca_file}
    later = days(9)
    write(settings, SERVERS.sign("second", later))
    await until(lambda: server.tls_expiries[settings.cert_file] == later.timestamp())


async def test_of_a_chain_the_first_to_expire_counts(server: GrpcServer, settings: TlsSettings) -> None:
    soon = days(1)
    leaf, link = SERVERS.sign("leaf", days(9)), SERVERS.sign("link", soon)
    write(settings, Pair(leaf.certificate + link.certificate, leaf.key))
    await until(lambda: server.tls_expiries[settings.cert_file] == soon.timestamp())


async def test_while_new_files_are_refused_the_expiry_is_that_of_those_that_serve(
    server: GrpcServer, settings: TlsSettings
) -> None:
    before = dict(server.tls_expiries)
    settings.cert_file.write_text("no certificate")
    await until(lambda: server.tls_is_stale)
    assert server.tls_expiries == before
