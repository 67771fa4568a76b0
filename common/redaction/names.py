"""The names under which requests and answers carry secrets, and how they are compared."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final, NamedTuple

DEFAULT_HEADERS: Final = frozenset(
    {
        *("authorization", "cookie", "proxy-authorization", "set-cookie"),
        *("api-key", "apikey", "x-api-key", "x-goog-api-key", "x-functions-key", "ocp-apim-subscription-key"),
        *("access-token", "auth-token", "x-access-token", "x-auth-token", "x-session-token", "x-csrf-token"),
        *("x-xsrf-token", "x-amz-security-token", "x-vault-token", "x-gitlab-token", "private-token"),
        *("x-forwarded-access-token", "x-auth-request-access-token", "x-ms-token-aad-access-token"),
        *(
            "x-ms-token-aad-id-token",
            "x-amzn-oidc-accesstoken",
            "x-amzn-oidc-data",
            "cf-access-jwt-assertion",
        ),
        *("x-goog-iap-jwt-assertion", "cf-access-client-secret", "x-hub-signature", "x-hub-signature-256"),
        *("dpop", "x-session-id", "x-auth", "x-secret", "x-password"),
    }
)
"""Headers of credentials by RFC 9110 section 11, RFC 6265 and RFC 9449, and those of products."""

DEFAULT_QUERY_PARAMETERS: Final = frozenset(
    {
        # RFC 6749, 6750, 7521, 7636, 8628, 8693 and OpenID Connect
        *("access_token", "refresh_token", "id_token", "id_token_hint", "logout_token", "client_secret"),
        *("code", "state", "assertion", "client_assertion", "code_verifier", "device_code", "user_code"),
        *("subject_token", "actor_token"),
        # OAuth 1.0 (RFC 5849), SAML bindings and CAS
        *("oauth_verifier", "SAMLResponse", "SAMLRequest", "SAMLart", "ticket", "pgtIou"),
        # Presigned URLs of AWS, Google and Azure
        *(
            "sig",
            "signature",
            "X-Amz-Signature",
            "X-Amz-Security-Token",
            "X-Goog-Signature",
            "security_token",
        ),
        # Codes sent by mail or to a phone
        *(
            "access_code",
            "activation_code",
            "auth_code",
            "backup_code",
            "confirmation_code",
            "invitation_code",
        ),
        *("login_code", "one_time_code", "pin_code", "recovery_code", "security_code", "sms_code"),
        *("verification_code", "magic_link"),
        # What forms and APIs call theirs
        *("token", "auth_token", "api_token", "csrf_token", "xsrf_token", "session_token", "private_token"),
        *("job_token", "reset_token", "reset_password_token", "confirmation_token", "invitation_token"),
        *("verification_token", "csrfmiddlewaretoken", "authenticity_token"),
        *("api_key", "apikey", "api_secret", "access_key", "secret_key", "secret_access_key", "private_key"),
        *(
            "subscription_key",
            "account_key",
            "secret",
            "shared_secret",
            "hmac",
            "jwt",
            "auth",
            "authorization",
            "bearer_token",
        ),
        *("password", "passwd", "pwd", "pass", "passphrase", "passcode", "new_password", "old_password"),
        *("current_password", "password_confirmation", "confirm_password", "credential", "credentials"),
        *("session", "session_id", "sid", "jsessionid", "phpsessid", "otp", "totp", "mfa_code", "pin"),
    }
)
"""Parameters of queries, forms and JSON that let a caller in, alone or together with another one."""


SECRET_ENDINGS: Final = (
    *("token", "password", "passwd", "passphrase", "secret", "credentials", "signature"),
    *("apikey", "accesskey", "accountkey", "privatekey", "secretkey", "sessionid"),
)
"""How names end that products and forms give to secrets of their own: `user_token`, `password2`."""

NOT_SECRET: Final = frozenset(
    {
        *(
            "pagetoken",
            "nextpagetoken",
            "prevpagetoken",
            "previouspagetoken",
            "nexttoken",
            "continuationtoken",
        ),
        *("nextcontinuationtoken", "synctoken", "nextsynctoken", "starttoken", "stoptoken"),
    }
)
"""Names with such an ending that say where a list goes on."""


class SecretNames(NamedTuple):
    """Names to be redacted in addition to the defaults."""

    headers: frozenset[str]
    """Names of headers and cookies, also for places that may repeat such a header: tags, metadata."""
    query_parameters: frozenset[str]

    def with_those_of(self, other: "SecretNames") -> "SecretNames":
        """The names of both."""
        return SecretNames(self.headers | other.headers, self.query_parameters | other.query_parameters)


NO_NAMES: Final = SecretNames(frozenset(), frozenset())

_SEPARATORS: Final = re.compile(r"[\[\].:/\s\"'{}()<>,\\|]+")
_FOLDED_AWAY: Final = re.compile(r"[\W_]+")


def folded(name: str) -> str:
    """`name` as names are compared: letters and digits alone, without case.

    `access_token`, `Access-Token` and `accessToken` are one name, and so is every spelling that a server
    takes for it.
    """
    return _FOLDED_AWAY.sub("", name.casefold())


def secret_part(name: str, secrets: frozenset[str], shown: frozenset[str] = frozenset()) -> str:
    """What of `name` names a secret, in small letters; empty where nothing does.

    A secret has one of the folded names `secrets`, or one without escapes that ends as secrets do and is not
    in `shown`.
    Looked at are the whole and the parts that brackets, dots and blanks make of it: `user[password]`,
    `user.password`, ` password`.
    """
    for part in (name, *_SEPARATORS.split(name)):
        known = folded(part)
        if known in secrets or ("%" not in part and ends_as_secret(known) and known not in shown):
            return part.strip(" \t[]+").lower()
    return ""


def ends_as_secret(name: str) -> bool:
    """Whether the folded `name`, a number at its end aside, ends as the names of secrets do."""
    return name.rstrip("0123456789").endswith(SECRET_ENDINGS) and name not in NOT_SECRET


def all_but(defaults: frozenset[str], allowed: Iterable[str], kind: str) -> frozenset[str]:
    """The folded names of `defaults` less the allowed ones.

    Raises ValueError for an allowed one that is not there, and does not end as the names of secrets do.
    """
    names = frozenset(map(folded, defaults))
    for name in allowed:
        if folded(name) not in names and not ends_as_secret(folded(name)):
            close = get_close_matches(name.lower(), sorted(defaults), n=1)
            hint = f"did you mean {close[0]!r}?" if close else "docs/accesslog.md lists those that are"
            raise ValueError(f"{name!r} is not a {kind} redacted by default; {hint}")
    return names - frozenset(map(folded, allowed))
