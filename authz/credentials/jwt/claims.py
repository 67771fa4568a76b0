"""Checks the claims of a token (times, required and forbidden claims) and reads its identity."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from authz.credentials.jwt.config import ClaimConfig, IssuerConfig
from authz.credentials.jwt.refusals import refuse_token
from authz.request.identity import CredentialKind, Identity, RefusalReason
from common.lru_cache import LruCache

LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
"""The event of a logout token (OpenID Connect Back-Channel Logout 1.0 section 2.4), which is refused as a
credential. Older providers do not mark it by `typ`."""

_KINDS: Final = {
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}

MAX_SHARED: Final = 1_000
"""The most distinct sets kept for one issuer: audiences, scopes and roles that callers share."""


class SetInterner:
    """Keeps one object for equal sets. Among 100,000 callers, most share their scopes with others."""

    def __init__(self) -> None:
        self._sets: LruCache[frozenset[str], frozenset[str]] = LruCache(MAX_SHARED)

    def __call__(self, names: frozenset[str]) -> frozenset[str]:
        """Return a set equal to `names`, shared with earlier calls."""
        known = self._sets.get(names)
        if known is None:
            self._sets.put(names, names)
            return names
        return known


def identity_of(claims: dict[str, Any], config: IssuerConfig, shared: SetInterner, now: float) -> Identity:
    """Return the identity in the claims of a token with a valid signature. Raises RefusedError."""
    expires_at = _check_times(claims, config, now)
    events = claims.get("events")
    if isinstance(events, dict) and LOGOUT_EVENT in events:
        refuse_token(RefusalReason.TOKEN_TYPE, "it is a logout token")
    check_claims(claims, config.required_claims, config.forbidden_claims)
    subject = subject_of(claims, config.subject_claim)
    claims["iss"] = config.issuer  # an equal text, kept once for all tokens
    return Identity(
        kind=CredentialKind.JWT,
        subject=subject,
        issuer=config.issuer,
        audiences=shared(audiences(claims.get("aud"))),
        scopes=shared(scopes(claims, config.scope_claims)),
        roles=shared(roles(claims, config.roles_claim)),
        claims=claims,
        expires_at=expires_at,
    )


def subject_of(claims: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the value of the first claim in `names` that has one. Raises RefusedError."""
    name = next((name for name in names if claims.get(name) not in (None, "")), None)
    if name is None:
        refuse_token(RefusalReason.CLAIM_MISSING, f"it has no {' and no '.join(names)}")
    value = claims[name]
    if not isinstance(value, str):
        # RFC 7519 section 4.1.2. Written as text, 1 and "1" would be one caller.
        detail = f"its {name} is {kind_of(value)}, and a subject is text"
        refuse_token(RefusalReason.SUBJECT_MALFORMED, detail)
    return value


def kind_of(value: Any) -> str:
    """Return the type of a JSON value in words, which unlike the value is not secret."""
    return _KINDS.get(type(value), "null")


def _check_times(claims: Mapping[str, Any], config: IssuerConfig, now: float) -> float:
    """Check the times of a token and return its `exp` (RFC 7519 sections 4.1.4 to 4.1.6)."""
    expires_at, not_before, issued_at = (numeric_date(claims, name) for name in ("exp", "nbf", "iat"))
    if expires_at is None:
        refuse_token(RefusalReason.CLAIM_MISSING, "it has no exp")
    check_time_now(expires_at, not_before, issued_at, config.leeway_seconds, now)
    if config.max_lifetime_seconds is not None:
        lifetime = expires_at - (issued_at if issued_at is not None else now)
        if lifetime > config.max_lifetime_seconds:
            refuse_token(RefusalReason.TOKEN_LIFETIME, f"it lives {lifetime:.0f} s")
    return expires_at


def check_time_now(
    expires_at: float | None,
    not_before: float | None,
    issued_at: float | None,
    leeway_seconds: float,
    now: float,
) -> None:
    """Raise RefusedError for a token that has expired or is not valid yet."""
    if expires_at is not None and now >= expires_at + leeway_seconds:
        refuse_token(RefusalReason.TOKEN_EXPIRED, f"it expired {now - expires_at:.0f} s ago")
    if not_before is not None and now < not_before - leeway_seconds:
        refuse_token(RefusalReason.TOKEN_NOT_YET_VALID, f"it becomes valid in {not_before - now:.0f} s")
    if issued_at is not None and now < issued_at - leeway_seconds:
        refuse_token(RefusalReason.TOKEN_NOT_YET_VALID, f"it was issued {issued_at - now:.0f} s from now")


def check_claims(
    claims: Mapping[str, Any], required: Sequence[ClaimConfig], forbidden: Sequence[ClaimConfig]
) -> None:
    """Raise RefusedError for a missing required claim or a present forbidden one."""
    for wanted in required:
        if not _has(claims, wanted):
            refuse_token(RefusalReason.CLAIM_MISSING, f"it has no {'.'.join(wanted.claim)} as required")
    for unwanted in forbidden:
        if _has(claims, unwanted):
            refuse_token(RefusalReason.CLAIM_FORBIDDEN, f"its {'.'.join(unwanted.claim)} is forbidden")


def _has(claims: Mapping[str, Any], wanted: ClaimConfig) -> bool:
    value = claim_at(claims, wanted.claim)
    if value is None or wanted.values is None:
        return value is not None
    found = value if isinstance(value, list) else (value,)
    # Types are compared too: in Python `True` equals 1.
    return any(one == value and type(one) is type(value) for one in found for value in wanted.values)


def claim_at(claims: Mapping[str, Any], path: Sequence[str]) -> Any:
    """Return the claim at `path`, or None."""
    value: Any = claims
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def numeric_date(claims: Mapping[str, Any], name: str) -> float | None:
    """Return the claim in unix seconds, or None if it is absent. Raises RefusedError."""
    value = claims.get(name)
    if value is None:
        return None
    # bool is an int in Python, and JSON numbers may overflow to infinity.
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        refuse_token(RefusalReason.TOKEN_MALFORMED, f"its {name} is not a number")
    return float(value)


def audiences(value: Any) -> frozenset[str]:
    """Return the values of `aud`, which is a text or a list (RFC 7519 section 4.1.3)."""
    if isinstance(value, str):
        return frozenset((value,))
    return _texts(value)


def scopes(claims: Mapping[str, Any], names: Sequence[str]) -> frozenset[str]:
    """Return the scopes in the first of these claims that is present."""
    for name in names:
        value = claims.get(name)
        if isinstance(value, str):
            # Only a space separates scopes (RFC 6749 section 3.3).
            return frozenset(value.split(" ")) - {""}
        if isinstance(value, list):
            return _texts(value)
    return frozenset()


def roles(claims: Mapping[str, Any], path: Sequence[str]) -> frozenset[str]:
    """Return the roles in the claim at `path`: a text, a list, or the keys of an object (Zitadel).

    A key whose value is false, null, 0 or empty does not count: some issuers write `{"admin": false}`.
    """
    value = claim_at(claims, path)
    if isinstance(value, str):
        return frozenset((value,))
    if isinstance(value, dict):
        return frozenset(name for name, granted in value.items() if granted)
    return _texts(value)


def _texts(value: Any) -> frozenset[str]:
    if not isinstance(value, list):
        return frozenset()
    return frozenset(item for item in value if isinstance(item, str))
