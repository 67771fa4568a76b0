"""Builds the issuers of a configuration and their key sources."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from authz.credentials.core.outbound import check_ca_file
from authz.credentials.dependencies import CredentialDependencies
from authz.credentials.jwt.config import IssuerConfig
from authz.credentials.jwt.key_set import KeySet, KeySetError, parse_key_set
from authz.credentials.jwt.key_source import FileKeys, KeySourceDependencies, RemoteKeys
from authz.credentials.jwt.token import Issuer
from common.configfile import ConfigError, Problem
from common.os_errors import in_words

_log = structlog.get_logger(__name__)


def issuers_of(
    block: IssuerConfig,
    before: Mapping[str, Issuer],
    lookup_timeout_seconds: float,
    dependencies: CredentialDependencies,
    reread: dict[FileKeys, KeySet],
) -> dict[str, Issuer]:
    """Return the issuers of `block` by name; the tenants of a template share one key source.

    An issuer configured as in `before` stays the same object, and so does its key source. `reread` receives
    the present key set of each key file that stays in use. Raises ConfigError.
    """
    old = [before[name] for name in block.names if name in before]
    source: FileKeys | RemoteKeys
    if block.jwks.file is not None:
        source = _file_source(block.jwks.file, old, reread)
    else:
        source = _remote_source(block, old, lookup_timeout_seconds, dependencies)
    return {
        name: _issuer(block.of_tenant(tenant), tenant, before.get(name), source)
        for name, tenant in zip(block.names, block.tenants or ("",), strict=True)
    }


def _issuer(config: IssuerConfig, tenant: str, old: Issuer | None, source: FileKeys | RemoteKeys) -> Issuer:
    if old is not None and old.keys is source and (old.config, old.tenant) == (config, tenant):
        return old
    return Issuer.of(config, source, tenant)


def _file_source(path: Path, old: Sequence[Issuer], reread: dict[FileKeys, KeySet]) -> FileKeys:
    sources = [issuer.keys for issuer in old if isinstance(issuer.keys, FileKeys)]
    keys = _read_key_file(path, sources[0].keys if sources else None)
    same = next((source for source in sources if source.path == path), None)
    if same is None:
        return FileKeys(path, keys)
    reread[same] = keys
    return same


def _remote_source(
    block: IssuerConfig,
    old: Sequence[Issuer],
    lookup_timeout_seconds: float,
    dependencies: CredentialDependencies,
) -> RemoteKeys:
    check_ca_file(block.jwks.ca_file)
    needed = KeySourceDependencies(
        dependencies.fetch,
        dependencies.monotonic_clock,
        dependencies.random,
        lookup_timeout_seconds,
        block.issuer,
    )
    source = RemoteKeys(block.jwks, needed, dependencies.metrics.key_set(block.issuer))
    sources = [issuer.keys for issuer in old if isinstance(issuer.keys, RemoteKeys)]
    same = next((one for one in sources if one.same_as(source)), None)
    if same is not None:
        return same
    if sources:
        source.adopt(sources[0])
    return source


def _read_key_file(path: Path, previous: KeySet | None) -> KeySet:
    """Return the keys in a file of the operator. As with a URL, an unusable entry does not affect the others.

    Raises ConfigError if no key is usable, and for secret keys: anyone who reads the file could sign.
    """
    try:
        keys = parse_key_set(path.read_bytes(), previous)
    except OSError as error:
        raise ConfigError.of(path, f"cannot be read: {in_words(error)}") from error
    except KeySetError as error:
        raise ConfigError.of(path, str(error)) from error
    secret = [key for key in keys.refused if key.secret]
    if secret:
        raise ConfigError([Problem(str(path), 0, f"key {key.id!r}", key.reason) for key in secret])
    if keys.refused:
        _log.warning("key file entries unusable", file=str(path), refused=[str(key) for key in keys.refused])
    return keys
