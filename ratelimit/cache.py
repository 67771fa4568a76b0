"""A small cache for repeated lookups."""

from collections.abc import Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class GenerationalCache(Generic[Key, Value]):
    """Remembers between `size` and twice as many of the latest keys.

    Two generations, the older dropped as a whole: a look-up costs one dictionary access on the common
    path, where an exact LRU keeps a list in order on each.
    """

    __slots__ = ("_old", "_size", "_young")

    def __init__(self, size: int) -> None:
        self._size = size
        self._young: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: Key) -> Value | None:
        """The value last put under `key`, or None."""
        value = self._young.get(key)
        if value is None:
            value = self._old.pop(key, None)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: Key, value: Value) -> None:
        """Remember `value`."""
        if len(self._young) >= self._size:
            self._old = self._young
            self._young = {}
        self._young[key] = value

    def values(self) -> Iterator[Value]:
        """Yield all values."""
        yield from self._young.values()
        yield from self._old.values()

    def forget(self, key: Key) -> None:
        """Drop `key`, if it is known."""
        self._young.pop(key, None)
        self._old.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._young = {}
        self._old = {}
