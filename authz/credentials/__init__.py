"""Finds, verifies and caches the credential of a request.

`CredentialsConfig` is the `credentials:` block of a policy file; `Credentials` is that block in service.
"""

from authz.credentials.config import CredentialsConfig
from authz.credentials.service import Credentials

__all__ = ["Credentials", "CredentialsConfig"]
