"""Every check that a bearer token goes through, in order, for `sidecars token explain`.

The verdict comes from the verifier that serves requests. The checks continue where the verifier stops, so
that a person who fixes a token or a policy sees every fault at once. No text reveals a usable token.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from authz.credentials.config import CredentialsConfig
from authz.credentials.core.verifier import Verified
from authz.credentials.dependencies import CredentialDependencies
from authz.credentials.factory import Compiled, compile_config
from authz.credentials.jwt.claims import (
    audiences,
    check_claims,
    check_time_now,
    identity_of,
    numeric_date,
    subject_of,
)
from authz.credentials.jwt.config import ClaimConfig, IssuerConfig
from authz.credentials.jwt.key_set import Key
from authz.credentials.jwt.key_source import RemoteKeys
from authz.credentials.jwt.refusals import RefusedError
from authz.credentials.jwt.token import Issuer, UnverifiedToken, check_audience, check_header, check_key, read
from authz.request.identity import CredentialKind, Identity, Refusal, RefusalReason, named

MAX_LISTED: Final = 5
"""The most issuers or keys that a text names."""


@dataclass(frozen=True, slots=True)
class TokenCheck:
    """One check and its result."""

    title: str
    held: bool | None
    """Whether the check passed; None if it was not made, and `text` says why."""
    text: str


@dataclass(frozen=True, slots=True)
class Explained:
    """Every check of a token, and the verdict."""

    checks: tuple[TokenCheck, ...]
    outcome: Verified


async def explain_token(
    text: str, config: CredentialsConfig, dependencies: CredentialDependencies, now: float
) -> Explained:
    """Return the checks and the verdict for the token `text`; `now` is in unix seconds. Raises ConfigError.

    Fetches the keys of its issuer, or calls the introspection endpoint; does not check revocations.
    """
    token, checks, refusal = _form(text, config)
    if token is None and refusal is None:
        return await _introspected(text, config, dependencies, checks, now)
    block = None if token is None else _block_of(token, config)
    if token is None or block is None:
        if token is not None:
            checks.append(TokenCheck("issuer", held=False, text=_no_issuer(token, config)))
        detail = f"no issuer {token.issuer[:100]!r} is configured" if token is not None else ""
        return Explained(tuple(checks), refusal or Refusal(RefusalReason.ISSUER_UNKNOWN, detail))
    compiled = compile_config(_only(config, block), dependencies, None)
    issuer = compiled.issuers[token.issuer]
    try:
        await _fetch(issuer, block)
        checks += _token_checks(token, issuer, now)
        outcome = await _verified(compiled, text, now)
    finally:
        for source in compiled.remote_keys():
            source.stop()
    checks.append(TokenCheck("revocations", held=None, text="not checked here: see `sidecars token list`"))
    return Explained(tuple(checks), outcome)


def _form(
    text: str, config: CredentialsConfig
) -> tuple[UnverifiedToken | None, list[TokenCheck], Refusal | None]:
    """Return the parsed token or its refusal; neither for an opaque token, which the server verifies."""
    opaque = config.introspection is not None and text.count(".") != 2
    limit = config.introspection.max_bytes if opaque and config.introspection else config.tokens.max_bytes
    checks = [TokenCheck("size", held=len(text) <= limit, text=f"{len(text)} of at most {limit} characters")]
    if len(text) > limit:
        return None, checks, Refusal(RefusalReason.TOKEN_TOO_LONG, f"longer than {limit}")
    if opaque:
        return None, checks, None
    try:
        if not text.isascii():
            raise RefusedError(Refusal(RefusalReason.TOKEN_MALFORMED, "not ASCII"))
        token = read(text)
    except RefusedError as error:
        checks.append(TokenCheck("form", held=False, text=error.refusal.detail + _hint(text, config)))
        return None, checks, error.refusal
    shown = f"alg {token.algorithm[:20]!r}, kid {token.key_id!r}, typ {token.type!r:.40}"
    checks.append(TokenCheck("form", held=True, text=shown))
    return token, checks, None


def _hint(text: str, config: CredentialsConfig) -> str:
    """Return what else the text may be, by its dots (`location.DOTS`); empty if nothing else fits."""
    if config.sessions is not None and "." not in text:
        return "; a session? `sidecars session show` looks those up"
    if config.api_keys is not None and text.count(".") == 1:
        return "; an API key? This command explains bearer tokens only"
    return ""


def _block_of(token: UnverifiedToken, config: CredentialsConfig) -> IssuerConfig | None:
    return next((block for block in config.issuers if token.issuer in block.names), None)


def _no_issuer(token: UnverifiedToken, config: CredentialsConfig) -> str:
    names = [name for block in config.issuers for name in block.names]
    for name in names:
        if name.casefold().rstrip("/") == token.issuer.casefold().rstrip("/"):
            return f"iss is {token.issuer[:200]!r}; configured is {name!r}, and every character counts"
    listed = ", ".join(map(repr, names[:MAX_LISTED])) or "none"
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"iss is {token.issuer[:200]!r}; configured: {listed}{more}"


def _only(config: CredentialsConfig, block: IssuerConfig | None) -> CredentialsConfig:
    """Return `config` without what needs other parts of a running sidecar."""
    without = dict.fromkeys(("sessions", "api_keys", "mtls", "revocations", "throttle"))
    if block is None:
        return config.model_copy(update={**without, "issuers": ()})
    lookup_timeout_seconds = block.jwks.timeout_seconds + 1
    changes = {
        **without,
        "issuers": (block,),
        "introspection": None,
        "lookup_timeout_seconds": lookup_timeout_seconds,
    }
    return config.model_copy(update=changes)


async def _fetch(issuer: Issuer, block: IssuerConfig) -> None:
    if isinstance(issuer.keys, RemoteKeys):
        issuer.keys.start()
        async with asyncio.timeout(2 * block.jwks.timeout_seconds + 1):
            await issuer.keys.ready()


async def _verified(compiled: Compiled, text: str, now: float) -> Verified:
    known = compiled.tokens.cached(text, now)
    found = compiled.tokens.verify(text, now) if known is None else known
    return _answered(found if isinstance(found, Identity | Refusal) else await found)


def _answered(outcome: Verified) -> Verified:
    """Return `outcome` as for a request: a valid token with an unusable subject is refused."""
    return named(outcome) if isinstance(outcome, Identity) else outcome


async def _introspected(
    text: str,
    config: CredentialsConfig,
    dependencies: CredentialDependencies,
    checks: list[TokenCheck],
    now: float,
) -> Explained:
    assert config.introspection is not None  # noqa: S101 - else the token is parsed as a JWT
    changes = {"lookup_timeout_seconds": config.introspection.timeout_seconds + 1}
    compiled = compile_config(_only(config, None).model_copy(update=changes), dependencies, None)
    assert compiled.introspector is not None  # noqa: S101 - as above
    assert compiled.introspection_client is not None  # noqa: S101 - as above
    try:
        known = compiled.introspector.cached(text, now)
        found = compiled.introspector.verify(text, now) if known is None else known
        outcome = _answered(found if isinstance(found, Identity | Refusal) else await found)
    finally:
        await compiled.introspector.close()
        await compiled.introspection_client.close()
    held = isinstance(outcome, Identity)
    shown = outcome.detail if isinstance(outcome, Refusal) else "active, and meant for us"
    checks.append(TokenCheck("introspection", held=held, text=shown))
    return Explained(tuple(checks), outcome)


def _token_checks(token: UnverifiedToken, issuer: Issuer, now: float) -> Iterator[TokenCheck]:
    config = issuer.config
    yield TokenCheck("issuer", held=True, text=config.issuer)
    yield _check("algorithm", lambda: _algorithm(token, issuer))
    yield _check("type", lambda: _type(token, issuer))
    yield from _key_checks(token, issuer)
    claims = [
        *_time_checks(token, config, now),
        *_claim_checks(token.claims, config),
        _check("subject", lambda: f"{'/'.join(config.subject_claim)}: {_subject(token, config)}"),
    ]
    yield from claims
    # The verifier's own check of all claims, which covers more than the list above: lifetime, logout tokens.
    together = _check("claims together", lambda: _together(token, issuer, now))
    if together.held or all(one.held for one in claims):
        yield together
    else:  # it stops at the first claim that fails, which is reported above
        yield TokenCheck("claims together", held=None, text="not checked: a claim above failed")
    yield _check("audience", lambda: _audience(token, issuer))


def _check(title: str, work: Callable[[], str]) -> TokenCheck:
    try:
        return TokenCheck(title, held=True, text=work())
    except RefusedError as error:
        return TokenCheck(title, held=False, text=error.refusal.detail)


def _algorithm(token: UnverifiedToken, issuer: Issuer) -> str:
    check_header(replace(token, type=None), issuer.algorithms, issuer.types, type_required=False)
    return f"{token.algorithm} is one of {', '.join(sorted(issuer.algorithms))}"


def _type(token: UnverifiedToken, issuer: Issuer) -> str:
    accepted = issuer.algorithms | {token.algorithm}
    check_header(token, accepted, issuer.types, type_required=issuer.config.type_required)
    return f"{token.type!r:.40}; accepted: {', '.join(sorted(issuer.types))}"


def _key_checks(token: UnverifiedToken, issuer: Issuer) -> Iterator[TokenCheck]:
    state = issuer.keys.describe()
    ids = [str(name) for name in state["keys"]]
    unused = f"; not used: {'; '.join(state['refused_keys'][:MAX_LISTED])}" if state["refused_keys"] else ""
    place = state.get("url") or state.get("file")
    if state.get("problem") and not ids:
        yield TokenCheck("key set", held=False, text=f"{place}: {state['problem']}")
    else:
        yield TokenCheck("key set", held=True, text=f"{place}: {', '.join(ids[:MAX_LISTED])}{unused}")
    key = issuer.keys.get_cached(token.key_id, token.algorithm)
    if key is None:
        yield TokenCheck("signature", held=False, text=f"the key set has no key for kid {token.key_id!r}")
        return
    yield _check("signature", partial(_signed, token, issuer, key))


def _signed(token: UnverifiedToken, issuer: Issuer, key: Key) -> str:
    check_key(token, issuer, key)
    return f"the key {key.id!r} signed it"


def _time_checks(token: UnverifiedToken, config: IssuerConfig, now: float) -> Iterator[TokenCheck]:
    for name in ("exp", "nbf", "iat"):
        yield _check(name, partial(_time, token, name, config, now))


def _time(token: UnverifiedToken, name: str, config: IssuerConfig, now: float) -> str:
    at = numeric_date(token.claims, name)
    if at is None:
        if name == "exp":
            raise RefusedError(Refusal(RefusalReason.CLAIM_MISSING, "it has no exp"))
        return "absent"
    times = {"exp": None, "nbf": None, "iat": None} | {name: at}
    check_time_now(times["exp"], times["nbf"], times["iat"], config.leeway_seconds, now)
    return f"{_readable(at)}, {at - now:+.0f} s from now; leeway {config.leeway_seconds:g} s"


def _readable(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return f"{at:g}"


def _claim_checks(claims: dict[str, Any], config: IssuerConfig) -> Iterator[TokenCheck]:
    for one in config.required_claims:
        yield _check(f"required {_named(one)}", partial(_claim, claims, (one,), ()))
    for one in config.forbidden_claims:
        yield _check(f"forbidden {_named(one)}", partial(_claim, claims, (), (one,)))


def _named(claim: ClaimConfig) -> str:
    name = ".".join(claim.claim)
    return name if claim.values is None else f"{name} = {' or '.join(map(repr, claim.values))}"


def _claim(claims: dict[str, Any], required: Sequence[ClaimConfig], forbidden: Sequence[ClaimConfig]) -> str:
    check_claims(claims, required, forbidden)
    return "there" if required else "not there"


def _subject(token: UnverifiedToken, config: IssuerConfig) -> str:
    subject = subject_of(token.claims, config.subject_claim)
    found = named(Identity(CredentialKind.JWT, subject))
    if isinstance(found, Refusal):
        raise RefusedError(found)
    return subject


def _together(token: UnverifiedToken, issuer: Issuer, now: float) -> str:
    identity = identity_of(dict(token.claims), issuer.config, issuer.shared, now)
    scopes, roles = (" ".join(sorted(names)) or "none" for names in (identity.scopes, identity.roles))
    return f"scopes: {scopes}; roles: {roles}"


def _audience(token: UnverifiedToken, issuer: Issuer) -> str:
    meant = Identity(CredentialKind.JWT, "", audiences=audiences(token.claims.get("aud")))
    found = check_audience(meant, issuer)
    if isinstance(found, Refusal):
        raise RefusedError(found)
    return "any" if issuer.audiences is None else ", ".join(sorted(meant.audiences & issuer.audiences))
