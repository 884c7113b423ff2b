"""Remembering what octets mean, bounded in octets: whoever sends them must not decide how much is kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, Generic, TypeVar, overload

Value = TypeVar("Value")


def remembered(
    entries: int, max_octets: int
) -> Callable[[Callable[[bytes], Value]], Callable[[bytes], Value]]:
    """Return a decorator that remembers a function's results for octets of usual length.

    Args:
        entries: Most results that are kept, the least recently used ones go first.
        max_octets: Longest argument that is remembered; longer ones are computed each time. What is kept is never
            more than `entries` times this, and what a result holds beside it.
    """

    def decorate(function: Callable[[bytes], Value]) -> Callable[[bytes], Value]:
        remembering = lru_cache(maxsize=entries)(function)

        @wraps(function)
        def asked(der: bytes) -> Value:
            return (remembering if len(der) <= max_octets else function)(der)

        return asked

    return decorate


class once(Generic[Value]):  # noqa: N801 - a decorator
    """A property that is computed at its first reading, as `functools.cached_property`, which takes a lock each time.

    Two threads that read it first at once both compute it.
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> once[Value]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...

    def __get__(self, instance: object | None, owner: type) -> once[Value] | Value:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._compute(instance)
        return value


class Memory(Generic[Value]):
    """Values by octets, told to be kept rather than kept for being asked for; the oldest ones go first.

    Args:
        max_octets: Of all keys together.
    """

    def __init__(self, max_octets: int) -> None:
        self._max_octets = max_octets
        self._octets = 0
        self._values: OrderedDict[bytes, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()
        self._octets = 0

    def get(self, key: bytes) -> Value | None:
        """Return the value of a key, None if there is none."""
        return self._values.get(key)

    def keep(self, key: bytes, value: Value) -> None:
        """Keep a value, and let go of the oldest until all fit."""
        if key in self._values or len(key) > self._max_octets:
            return
        self._values[key] = value
        self._octets += len(key)
        while self._octets > self._max_octets:
            oldest, _ = self._values.popitem(last=False)
            self._octets -= len(oldest)
