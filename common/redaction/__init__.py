"""Takes secrets out of what is logged, by one set of names and shapes for every log of the suite."""

from common.redaction.names import DEFAULT_HEADERS, DEFAULT_QUERY_PARAMETERS, NO_NAMES, SecretNames, folded
from common.redaction.secrets import LONGEST_TEXT, REDACTED, Secrets
from common.redaction.tokens import looks_like_token

__all__ = [
    "DEFAULT_HEADERS",
    "DEFAULT_QUERY_PARAMETERS",
    "LONGEST_TEXT",
    "NO_NAMES",
    "REDACTED",
    "SecretNames",
    "Secrets",
    "folded",
    "looks_like_token",
]
