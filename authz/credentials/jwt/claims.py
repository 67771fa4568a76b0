"""The claims of a token: when it holds, what it must and must not say, and who it is about."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from authz.credentials.jwt.config import ClaimConfig, IssuerConfig
from authz.credentials.jwt.refusals import refuse_token
from authz.request.identity import CredentialKind, Identity, RefusalReason
from common.lru_cache import LruCache

LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
"""Names a logout token (OpenID Connect Back-Channel Logout 1.0 section 2.4), which lets nobody in. Older
providers give it no `typ` of its own."""

_KINDS: Final = {
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}

MAX_SHARED: Final = 1_000
"""Sets of an issuer that are kept once: its audiences, and the scopes and roles that people share."""


class Shared:
    """Keeps equal sets once. Of 100,000 callers nearly all have the scopes of somebody else."""

    def __init__(self) -> None:
        self._sets: LruCache[frozenset[str], frozenset[str]] = LruCache(MAX_SHARED)

    def __call__(self, names: frozenset[str]) -> frozenset[str]:
        """A set equal to `names`."""
        known = self._sets.get(names)
        if known is None:
            self._sets.put(names, names)
            return names
        return known


def identity_of(claims: dict[str, Any], config: IssuerConfig, shared: Shared, now: float) -> Identity:
    """The identity in the claims of a token whose signature holds. Raises RefusedError."""
    expires_at = _check_times(claims, config, now)
    events = claims.get("events")
    if isinstance(events, dict) and LOGOUT_EVENT in events:
        refuse_token(RefusalReason.TOKEN_TYPE, "it is a logout token")
    check_claims(claims, config.required_claims, config.forbidden_claims)
    subject = subject_of(claims, config.subject_claim)
    claims["iss"] = config.issuer  # equal, and there already
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
    """The first of the claims `names` that has a value. Raises RefusedError."""
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
    """What a JSON value is, in words: unlike the value, it may be told to anyone."""
    return _KINDS.get(type(value), "null")


def _check_times(claims: Mapping[str, Any], config: IssuerConfig, now: float) -> float:
    """The `exp` of a token that holds now (RFC 7519 sections 4.1.4 to 4.1.6)."""
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
    """Raises RefusedError for a token that holds no more, or not yet."""
    if expires_at is not None and now >= expires_at + leeway_seconds:
        refuse_token(RefusalReason.TOKEN_EXPIRED, f"it expired {now - expires_at:.0f} s ago")
    if not_before is not None and now < not_before - leeway_seconds:
        refuse_token(RefusalReason.TOKEN_NOT_YET_VALID, f"it holds only in {not_before - now:.0f} s")
    if issued_at is not None and now < issued_at - leeway_seconds:
        refuse_token(RefusalReason.TOKEN_NOT_YET_VALID, f"it was issued {issued_at - now:.0f} s from now")


def check_claims(
    claims: Mapping[str, Any], required: Sequence[ClaimConfig], forbidden: Sequence[ClaimConfig]
) -> None:
    """Raises RefusedError for a claim that is missing, or that may not be there."""
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
    # By type too: in Python `True` equals 1.
    return any(one == value and type(one) is type(value) for one in found for value in wanted.values)


def claim_at(claims: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The claim at `path`; None where there is none."""
    value: Any = claims
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def numeric_date(claims: Mapping[str, Any], name: str) -> float | None:
    """The claim as unix seconds; None where it is absent. Raises RefusedError."""
    value = claims.get(name)
    if value is None:
        return None
    # bool is an int in Python, and JSON numbers may overflow to infinity.
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        refuse_token(RefusalReason.TOKEN_MALFORMED, f"its {name} is no number")
    return float(value)


def audiences(value: Any) -> frozenset[str]:
    """The `aud`, one or several (RFC 7519 section 4.1.3)."""
    if isinstance(value, str):
        return frozenset((value,))
    return _texts(value)


def scopes(claims: Mapping[str, Any], names: Sequence[str]) -> frozenset[str]:
    """The scopes in the first of these claims that is there."""
    for name in names:
        value = claims.get(name)
        if isinstance(value, str):
            # One space, and nothing else, separates them (RFC 6749 section 3.3).
            return frozenset(value.split(" ")) - {""}
        if isinstance(value, list):
            return _texts(value)
    return frozenset()


def roles(claims: Mapping[str, Any], path: Sequence[str]) -> frozenset[str]:
    """The roles in the claim at `path`: a text, a list, or the keys of an object (Zitadel).

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
