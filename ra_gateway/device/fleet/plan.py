"""What a simulated fleet does: how many base stations come when, and how they behave."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from ra_gateway.cmp.codes import BodyType
from ra_gateway.device.kinds import Fault

MUST_BE_REFUSED: Final = frozenset({Fault.pop, Fault.protection, Fault.unknown_vendor})
"""Faults that no gateway may bear; of the others it depends on its settings."""


class Load(StrEnum):
    """When base stations come."""

    at_once = "at-once"  # closed loop: the next one begins when one has ended
    rate = "rate"  # open loop: they come at their own times, however slow the answers are
    storm = "storm"  # open loop: all of them are due at the same moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What each base station does.

    Args:
        request: Its first request: ir, cr, kur or p10cr.
        subject, san: Names to ask for, with {n} and {name} for its number and name; None asks for no subject.
        renewals: How often it renews (kur) what it got.
        renew_after_seconds: Between the end of an operation and the next renewal.
        lost_requests, lost_answers: Share of messages that get lost on the way there or back, 0 to 1.
        repeated: Share of messages that are sent once more after their answer has come.
        faulty: Share of base stations that have one of `faults`.
        timeout_seconds: How long it waits for an answer.
        retransmissions: How often it sends a message again that had no answer, or was answered by "busy".
        retransmit_after_seconds: Before it does so, where it knows at once that there is none; some half more or less.
        patience_seconds: How long it lets itself be told to wait, in all.
        own_connection: Whether it has a connection of its own.
    """

    request: BodyType = BodyType.ir
    subject: str | None = None
    san: tuple[str, ...] = ()
    key_kind: str = "p256"
    implicit_confirm: bool = False
    certconf_certificates: bool = False
    renewals: int = 0
    renew_after_seconds: float = 0.0
    lost_requests: float = 0.0
    lost_answers: float = 0.0
    repeated: float = 0.0
    faulty: float = 0.0
    faults: tuple[Fault, ...] = ()
    timeout_seconds: float = 30.0
    retransmissions: int = 3
    retransmit_after_seconds: float = 5.0
    patience_seconds: float = 600.0
    own_connection: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many base stations come when.

    Args:
        count: How many base stations, at most.
        first: Number of the first one.
        at_once: How many are under way at the same time, at most; that many are, in a closed loop.
        per_second: With `Load.rate`, how many come, on average; their times are those of a Poisson process.
        ramp_seconds: Within which the rate rises from 0 to that.
        duration_seconds: After which no further one begins; None for as long as it takes.
        seed: Of all that is left to chance but keys, nonces and transactionIDs.
        processes: Among which they are shared out; no more than `at_once`.
        out: Directory for what they get, None for nowhere.
    """

    url: str
    behaviour: Behaviour
    load: Load = Load.at_once
    count: int = 100
    first: int = 1
    at_once: int = 8
    per_second: float = 0.0
    ramp_seconds: float = 0.0
    duration_seconds: float | None = None
    seed: int = 0
    processes: int = 1
    out: Path | None = None

    def share(self, process: int) -> Iterator[tuple[int, float]]:
        """Yield number and moment, seconds from the begin, of the base stations of one process; in a closed loop 0.

        Args:
            process: From 0.
        """
        moments: Iterator[float] = itertools.repeat(0.0)
        if self.load is Load.rate:
            moments = self._arrivals()
        numbers = range(self.first, self.first + self.count)
        for number, moment in zip(numbers, moments, strict=False):
            if self.duration_seconds is not None and moment >= self.duration_seconds:
                return
            if (number - self.first) % self.processes == process:
                yield number, moment

    def at_once_in(self, process: int) -> int:
        """Return how many base stations of one process are under way at the same time, at most."""
        return len(range(process, self.at_once, self.processes))

    def chance(self, number: int) -> random.Random:
        """Return what decides for one base station, always the same for a seed."""
        return random.Random(f"{self.seed}/{number}")  # noqa: S311 - no secret hangs on it

    def _arrivals(self) -> Iterator[float]:
        """Yield the moments at which base stations come, whatever process they are of."""
        chance = random.Random(f"{self.seed}/arrivals")  # noqa: S311 - no secret hangs on it
        come = 0.0  # how many have come on average, of which the moments are the inverse
        in_ramp = self.per_second * self.ramp_seconds / 2
        while True:
            come += chance.expovariate(1.0)
            if come < in_ramp:
                yield (2 * self.ramp_seconds * come / self.per_second) ** 0.5
            else:
                yield self.ramp_seconds / 2 + come / self.per_second
