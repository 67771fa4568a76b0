"""Finds, verifies and caches the credential of a request.

`CredentialsConfig` is the `credentials:` block of a policy file; `Credentials` is that block in service.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from authz.credentials.config import CredentialsConfig
    from authz.credentials.service import Credentials

__all__ = ["Credentials", "CredentialsConfig"]

_MODULES: Final = {"CredentialsConfig": "config", "Credentials": "service"}


def __getattr__(name: str) -> Any:
    """Import a name when it is used (PEP 562): bundles need the keys and the HTTP client alone."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found
