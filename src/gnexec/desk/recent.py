"""A cache of bounded size; it never decides anything."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
CACHED: Final = 8_192


class Recent(Generic[K, V]):
    """A cache of bounded size, for any thread: what was used longest ago goes first.

    There is no lock: each call on the dictionary is one step of the interpreter, and between two of them another thread
    can at most have thrown the entry out.
    """

    def __init__(self, most: int = CACHED) -> None:
        """Begin empty.

        Args:
            most: entries kept.
        """
        self._most = most
        self._held: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return what is held under `key`, or None."""
        value = self._held.get(key)
        if value is not None:
            with suppress(KeyError):
                self._held.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> V:
        """Hold `value` and return it."""
        self._held[key] = value
        if len(self._held) > self._most:
            with suppress(KeyError):
                self._held.popitem(last=False)
        return value

    def clear(self) -> None:
        """Hold nothing any more."""
        self._held.clear()
