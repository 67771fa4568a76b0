"""Which descriptors are token budgets: checked before the cost is known, and charged afterwards."""

from collections.abc import Iterable
from typing import Final

from ratelimit.request import Descriptor

MAX_SHAPES: Final = 10_000
"""Envoy's configuration names the keys of descriptors, clients cannot; this bounds a misconfigured one."""

_Shape = tuple[str, ...]


class TokenBudgets:
    """Learns the shapes (domain and keys) of descriptors that come with `hits_addend: 0`.

    On the wire nothing tells a charge after the fact (Envoy's `apply_on_stream_done`) from a request with a
    cost, which must leave no trace if it is refused. But a check with 0 hits has no other purpose than a
    later charge, so after such a check the hits that descriptors of the same shape name are charges.
    """

    def __init__(self) -> None:
        self._shapes: set[_Shape] = set()

    def __len__(self) -> int:
        return len(self._shapes)

    def learn(self, domain: str, descriptors: Iterable[Descriptor]) -> None:
        """Note the shapes of the checks among `descriptors`."""
        for descriptor in descriptors:
            if descriptor.hits == 0 and len(self._shapes) < MAX_SHAPES:
                self._shapes.add(_shape(domain, descriptor))

    def is_charge(self, domain: str, descriptor: Descriptor) -> bool:
        """Return whether the hits of `descriptor` are a charge after the fact."""
        return bool(descriptor.hits) and not descriptor.refund and _shape(domain, descriptor) in self._shapes


def _shape(domain: str, descriptor: Descriptor) -> _Shape:
    return (domain, *[key for key, _ in descriptor.entries])
