"""How many new requests a second are taken, by all nodes together: of one address, of one vendor's devices, of all.

What is left of a rate is kept in the store. A node takes of it by the batch, so that a message costs no round trip of
its own: once a tenth of a second where all are let in, and where none is left, not before there is some again.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

from ra_gateway.errors import RateExceeded, StoreUnavailable

_BATCHES_A_SECOND: Final = 10

_MOST_SOURCES: Final = 32_768
"""Addresses that a node counts, the latest: 30 MB at most. Whoever has more of them is not held by counting them."""

_AFTER_FAILURE_SECONDS: Final = 1.0
"""So long nobody waits for a store that has not answered."""


class Rate(NamedTuple):
    """A limit.

    Args:
        per_second: Above 0.
        burst: As many at once, after a time without any; 1 or more.
    """

    per_second: float
    burst: int

    @property
    def batch(self) -> int:
        """How many a node takes at once."""
        return max(1, min(int(self.per_second / _BATCHES_A_SECOND), self.burst // 2))


class Taken(NamedTuple):
    """What a node got of a rate.

    Args:
        granted: At most what it asked for.
        wait_seconds: Until there is one again, where it got none.
    """

    granted: int
    wait_seconds: float


def drawn(full_at: float, now: float, rate: Rate, wanted: int, owed: int) -> tuple[float, Taken]:
    """Take of a rate.

    Args:
        full_at: When nothing will be missing any more, in seconds of the clock of `now`; what is too late to be true
            counts as nothing left.
        owed: What was let in unasked.

    Returns:
        The new `full_at`, and what was got.
    """
    each, latest = 1 / rate.per_second, now + rate.burst / rate.per_second
    full_at = min(max(full_at, now) + owed * each, latest)
    # A clock's last digit is not to cost one; what is given too early by that is missing afterwards.
    count = max(0, min(wanted, math.floor((latest - full_at) / each + 0.05)))
    wait_seconds = 0.0 if count else full_at + each - latest
    return full_at + count * each, Taken(count, wait_seconds)


class SharedRates(Protocol):
    """Keeps what is left of rates where every node can see it."""

    async def take(self, name: str, rate: Rate, wanted: int, owed: int) -> Taken:
        """Take of a rate, atomically (`drawn`).

        Raises:
            StoreUnavailable: It cannot be asked.
        """


class Allowance:
    """What this node has of one rate.

    Args:
        name: The rate's, the same on all nodes.
        unasked: How many are let in before the store is asked for the first time, and told to it then.
    """

    def __init__(
        self,
        name: str,
        rate: Rate,
        shared: SharedRates,
        monotonic: Callable[[], float],
        unasked: int = 0,
    ) -> None:
        self.name, self.rate = name, rate
        self._shared = shared
        self._monotonic = monotonic
        self._left = self._owed = unasked
        # What was taken and is not used is gone after a while: else it would come on top of a later burst.
        self._good_for_seconds = rate.burst / rate.per_second
        self._good_until = monotonic() + self._good_for_seconds
        self._closed_until = -math.inf
        self._failure = ""
        self._asking = asyncio.Lock()

    async def take(self) -> float:
        """Let one in.

        Returns:
            0, or in how many seconds there may be room again.

        Raises:
            StoreUnavailable: The store cannot be asked.
        """
        known = self._known()
        if known is not None:
            return known
        async with self._asking:
            known = self._known()  # whoever was before has asked
            if known is not None:
                return known
            owed, self._owed = self._owed, 0
            try:
                taken = await self._shared.take(self.name, self.rate, self.rate.batch, owed)
            except StoreUnavailable as error:
                self._failure = error.detail
                self._closed_until = self._monotonic() + _AFTER_FAILURE_SECONDS
                raise
            now, self._failure = self._monotonic(), ""
            if not taken.granted:
                self._closed_until = now + taken.wait_seconds
                return taken.wait_seconds
            self._left, self._good_until = taken.granted - 1, now + self._good_for_seconds
            return 0.0

    def give_back(self) -> None:
        """Take back what was let in and turned out to be nothing new."""
        self._left += 1

    def _known(self) -> float | None:
        now = self._monotonic()
        if self._left and now < self._good_until:
            self._left -= 1
            return 0.0
        if now >= self._closed_until:
            return None
        if self._failure:
            raise StoreUnavailable(self._failure, rule="R95")
        return self._closed_until - now


class Limits:
    """The limits of one node; without rates it lets everybody in.

    Args:
        every: Of all new requests.
        vendors: Of those of a vendor's devices, by its name.
        source: Of messages of one address, before anything is authenticated.
        before: What it takes the place of, for what was counted.
    """

    def __init__(
        self,
        shared: SharedRates,
        monotonic: Callable[[], float],
        *,
        every: Rate | None = None,
        vendors: Mapping[str, Rate] | None = None,
        source: Rate | None = None,
        before: Limits | None = None,
    ) -> None:
        self._shared = shared
        self._monotonic = monotonic
        self._every = None if every is None else Allowance("all", every, shared, monotonic)
        self._vendors = {
            name: Allowance(f"vendor:{name}", rate, shared, monotonic)
            for name, rate in (vendors or {}).items()
        }
        self.source = source
        self._sources: OrderedDict[bytes, Allowance] = OrderedDict()
        self.turned_away: Counter[str] = Counter() if before is None else before.turned_away
        """How many, by which limit."""

    async def admit(self, domain: str) -> None:
        """Let a new request in that is authentic.

        Args:
            domain: Name of the trust domain that vouched for it.

        Raises:
            RateExceeded: There are too many.
            StoreUnavailable: The store cannot be asked.
        """
        vendor = self._vendors.get(domain)
        if vendor is not None and await vendor.take():
            raise self._exceeded("vendor", vendor.rate, f"vendors.{domain}.requests_per_second")
        if self._every is not None and await self._every.take():
            if vendor is not None:
                vendor.give_back()
            raise self._exceeded("all", self._every.rate, "limits.requests_per_second")

    def give_back(self, domain: str) -> None:
        """Take back what `admit` let in and was no new request."""
        for allowance in (self._vendors.get(domain), self._every):
            if allowance is not None:
                allowance.give_back()

    async def wait_of_source(self, network: bytes) -> float:
        """Let a message of an address in; or return in how many seconds it may come again.

        Args:
            network: As of `peers.network_of`.

        Raises:
            StoreUnavailable: The store cannot be asked.
        """
        if self.source is None:
            return 0.0
        allowance = self._sources.get(network)
        if allowance is None:
            # A base station with an address of its own sends a few messages: they need no round trip.
            allowance = self._sources[network] = Allowance(
                f"source:{network.hex()}",
                self.source,
                self._shared,
                self._monotonic,
                unasked=self.source.batch,
            )
            if len(self._sources) > _MOST_SOURCES:
                self._sources.popitem(last=False)
        else:
            self._sources.move_to_end(network)
        wait_seconds = await allowance.take()
        if wait_seconds:
            self.turned_away["source"] += 1
        return wait_seconds

    def _exceeded(self, limit: str, rate: Rate, setting: str) -> RateExceeded:
        self.turned_away[limit] += 1
        return RateExceeded(f"more than {rate.per_second:g} new requests a second ({setting})")


class Unlimited:
    """Rates of which nothing is ever taken, for who has no limits."""

    async def take(self, name: str, rate: Rate, wanted: int, owed: int) -> Taken:
        """Give what is asked for."""
        del name, rate, owed
        return Taken(wanted, 0.0)
