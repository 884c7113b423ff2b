"""What is due when, in memory: each step takes as long with a million entries as with ten."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator
from datetime import datetime
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Timetable(Generic[K]):
    """Keys by their times, in one bucket for each second in which any are due."""

    def __init__(self) -> None:
        self._times: dict[K, datetime] = {}
        self._buckets: dict[int, dict[K, None]] = {}
        self._seconds: list[int] = []
        """Those that have a bucket, in order: as many as there are seconds in the longest lifetime, at most."""

    def __len__(self) -> int:
        return len(self._times)

    def __contains__(self, key: K) -> bool:
        return key in self._times

    def __getitem__(self, key: K) -> datetime:
        return self._times[key]

    def put(self, key: K, at: datetime) -> None:
        """Have a key due at a time (aware), in the place of the one before."""
        self.discard(key)
        second = _second(at)
        if second not in self._buckets:
            self._buckets[second] = {}
            insort(self._seconds, second)
        self._buckets[second][key] = None
        self._times[key] = at

    def discard(self, key: K) -> None:
        """Forget a key, if it is there."""
        at = self._times.pop(key, None)
        if at is None:
            return
        second = _second(at)
        bucket = self._buckets[second]
        del bucket[key]
        if not bucket:
            del self._buckets[second]
            del self._seconds[bisect_left(self._seconds, second)]

    def due(self, now: datetime, limit: int) -> list[K]:
        """Return the keys whose time has come, the longest due first, at most `limit`."""
        found: list[K] = []
        for bucket in self._until(now):
            come = (key for key in bucket if self._times[key] <= now)
            found += heapq.nsmallest(limit - len(found), come, key=self._times.__getitem__)
            if len(found) >= limit:
                break
        return found

    def due_count(self, now: datetime) -> int:
        """Return how many keys' time has come, to the second."""
        return sum(map(len, self._until(now)))

    def _until(self, now: datetime) -> Iterator[dict[K, None]]:
        last = _second(now)
        for second in self._seconds:
            if second > last:
                return
            yield self._buckets[second]


def _second(at: datetime) -> int:
    return math.floor(at.timestamp())
