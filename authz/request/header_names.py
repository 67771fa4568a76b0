"""Header names as CGI servers read them: `x.auth-roles` and `X_Auth_Roles` become the same variable.

CGI turns each header into a variable (RFC 3875 section 4.1.18). nginx, WSGI and Rack turn `-` into `_`; PHP
also `.`, and lighttpd every byte that is not a letter or digit. These servers cannot distinguish the
spellings (CVE-2025-64484, GHSA-rf44-j88r-hh8c).
"""

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Final

MAX_REMEMBERED: Final = 1_024
"""The most names cached as unrelated; then the cache is cleared. Clients of one Envoy send a few hundred."""

MAX_NAME_CHARACTERS: Final = 128
"""The longest name that is cached; longer ones would fill memory."""

_FOLDED: Final = {code: chr(code) if chr(code).isalnum() else "_" for code in range(128)}
_NOTHING: Final[Sequence[str]] = ()


def fold(name: str) -> str:
    """Return the name in lower case, with `_` for each ASCII character that is not a letter or digit.

    Unlike `field_names.fold_name`, which is for parameters and fields, it keeps `xrole` and `x-role`
    distinct, because no server drops characters from header names.
    """
    return name.lower().translate(_FOLDED)


class NamesAlike:
    """Finds names that a CGI server reads like one of a fixed set. Costs one set comparison in most cases."""

    __slots__ = ("_folded", "_unlike", "_wanted")

    def __init__(self, names: Iterable[str]) -> None:
        self._wanted = frozenset(names)
        self._folded = frozenset(map(fold, self._wanted))
        self._unlike = set(self._wanted)

    def among(self, names: Collection[str]) -> Sequence[str]:
        """Return those of `names` (in lower case) that are another spelling of one of the set, sorted."""
        if self._unlike.issuperset(names):
            return _NOTHING
        found = []
        for name in names:
            if name in self._unlike:
                continue
            if fold(name) in self._folded:
                found.append(name)
            elif len(name) <= MAX_NAME_CHARACTERS:
                self._remember(name)
        return sorted(found) if found else _NOTHING

    def _remember(self, name: str) -> None:
        if len(self._unlike) >= MAX_REMEMBERED + len(self._wanted):
            self._unlike = set(self._wanted)
        self._unlike.add(name)


@lru_cache(maxsize=MAX_REMEMBERED)
def names_alike(names: tuple[str, ...]) -> NamesAlike:
    """Return the NamesAlike of these names, which all rules share, because it caches what clients send."""
    return NamesAlike(names)
