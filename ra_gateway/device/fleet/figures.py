"""What a simulated fleet has seen: counted as it happens, in memory that does not grow with the fleet."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Final, NamedTuple, Self

_SHORTEST_SECONDS: Final = 1e-6
_STEP: Final = math.log(1.02)
"""Durations that differ by less than two percent are counted as one."""

_MAX_SPANS: Final = 1200
_MAX_TEXTS: Final = 20


class Outcome(StrEnum):
    """How an operation ended."""

    issued = "issued"
    refused = "refused"  # by a CMP message
    busy = "busy"  # HTTP 429 or 503, to the last retransmission
    not_cmp = "not CMP"  # any other answer over HTTP
    no_answer = "no answer"  # in time
    unreachable = "unreachable"
    untrusted = "untrusted"  # an answer that nobody should believe
    unusable = "unusable"  # a certificate that is no good
    still_waiting = "still waiting"  # its patience is over
    lost = "lost"  # on purpose, to the last retransmission
    interrupted = "interrupted"


class Histogram:
    """Durations, to two percent."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.longest_seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        at_least = max(seconds, _SHORTEST_SECONDS)
        self.counts[math.ceil(math.log(at_least / _SHORTEST_SECONDS) / _STEP)] += 1
        self.longest_seconds = max(self.longest_seconds, seconds)

    def merge(self, other: Histogram) -> None:
        """Count what another one has counted."""
        self.counts.update(other.counts)
        self.longest_seconds = max(self.longest_seconds, other.longest_seconds)

    @property
    def total(self) -> int:
        """How many there are."""
        return self.counts.total()

    def percentile(self, percent: float) -> float:
        """Return the seconds within which so many percent are; 0 where there are none."""
        left = self.total * percent / 100
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 1e-9:
                bound = _SHORTEST_SECONDS * math.exp(bucket * _STEP)
                return min(bound, self.longest_seconds)
        return self.longest_seconds


class Span(NamedTuple):
    """What was in one span of time.

    Args:
        due: Operations that should have begun.
        issued, failed: Operations that ended, well or otherwise.
    """

    due: int = 0
    issued: int = 0
    failed: int = 0


class Timeline:
    """Spans of a second each; when there are too many, each two become one."""

    def __init__(self) -> None:
        self.width_seconds = 1
        self.spans: dict[int, Span] = {}

    def add(self, seconds: float, *, due: int = 0, issued: int = 0, failed: int = 0) -> None:
        """Count what was at a moment.

        Args:
            seconds: From the begin.
        """
        self._add(max(0, int(seconds)) // self.width_seconds, Span(due, issued, failed))
        while len(self.spans) > _MAX_SPANS:
            self._widen()

    def merge(self, other: Timeline) -> None:
        """Count what another one has counted, which may become wider for it."""
        while self.width_seconds < other.width_seconds:
            self._widen()
        while other.width_seconds < self.width_seconds:
            other._widen()
        for place, span in other.spans.items():
            self._add(place, span)

    def rows(self) -> list[tuple[int, Span]]:
        """Return all spans up to the last, empty ones, too, each with the second that it begins with."""
        if not self.spans:
            return []
        return [
            (place * self.width_seconds, self.spans.get(place, Span()))
            for place in range(max(self.spans) + 1)
        ]

    def _add(self, place: int, span: Span) -> None:
        before = self.spans.get(place, Span())
        self.spans[place] = Span(*(old + new for old, new in zip(before, span, strict=True)))

    def _widen(self) -> None:
        narrow, self.spans = self.spans, {}
        self.width_seconds *= 2
        for place, span in narrow.items():
            self._add(place // 2, span)


@dataclass
class Times:
    """How long one kind of message, or operation, took.

    Args:
        from_due: Since it should have been sent.
        from_sent: Since it was.
    """

    from_due: Histogram = field(default_factory=Histogram)
    from_sent: Histogram = field(default_factory=Histogram)

    def merge(self, other: Times) -> None:
        """Count what another one has counted."""
        self.from_due.merge(other.from_due)
        self.from_sent.merge(other.from_sent)


@dataclass
class Figures:
    """All that is counted.

    Args:
        begun: Base stations that have begun.
        ended: Base stations that have ended, however.
        operations: Operations that ended, by request, fault ("" for none) and outcome.
        times: Of messages that were answered, by body type.
        whole: Of operations that ended with a certificate, by request.
        fail_info: Bits of failInfo that came, by name.
        reasons: What was said of operations that failed; of texts beyond a bound only how many.
        retransmitted: Messages that were sent again for want of an answer.
        lost_requests, lost_answers: Messages that were lost on purpose.
        repeated: Messages that were sent once more after their answer.
        repeats_failed: Those of them that were not answered like the first one.
        issued_twice: Messages to which two answers brought two certificates.
        held: Base stations that began later than they should, for want of a place among those under way.
        late: By how much they began later, without those.
        prepared: Base stations that were made, and their first messages, before the first one began.
        preparing_seconds: Of CPU, for that.
        cpu_seconds: Of the simulator, by process.
        elapsed_seconds: Since the begin.
        validity_seconds: Of the certificate that came last.
        ended_by: What ended it before its time, "" where that was nothing but being told to.
    """

    begun: int = 0
    ended: int = 0
    operations: Counter[tuple[str, str, Outcome]] = field(default_factory=Counter)
    times: dict[str, Times] = field(default_factory=dict)
    whole: dict[str, Times] = field(default_factory=dict)
    fail_info: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    retransmitted: int = 0
    lost_requests: int = 0
    lost_answers: int = 0
    repeated: int = 0
    repeats_failed: int = 0
    issued_twice: int = 0
    held: int = 0
    late: Histogram = field(default_factory=Histogram)
    timeline: Timeline = field(default_factory=Timeline)
    prepared: int = 0
    preparing_seconds: float = 0.0
    cpu_seconds: tuple[float, ...] = ()
    elapsed_seconds: float = 0.0
    validity_seconds: float = 0.0
    ended_by: str = ""

    @classmethod
    def of(cls, parts: Iterable[Figures]) -> Self:
        """Return the sum of what several processes have counted."""
        found = cls()
        for part in parts:
            found._merge(part)
        return found

    def message(self, name: str, due: float, sent: float, answered: float) -> None:
        """Count a message that was answered; moments in seconds of one clock."""
        _count(self.times, name, due, sent, answered)

    def operation(self, name: str, due: float, sent: float, ended: float) -> None:
        """Count an operation that ended with a certificate."""
        _count(self.whole, name, due, sent, ended)

    def reason(self, text: str) -> None:
        """Count what was said of an operation that failed."""
        known = text in self.reasons or len(self.reasons) < _MAX_TEXTS
        self.reasons[text if known else "others"] += 1

    def count(self, *outcomes: Outcome, faulty: bool | None = None) -> int:
        """Return how many operations ended so.

        Args:
            faulty: Of faulty base stations alone, or of those that are not.
        """
        return sum(
            number
            for (_, fault, outcome), number in self.operations.items()
            if outcome in outcomes and faulty in (None, bool(fault))
        )

    def _merge(self, other: Figures) -> None:
        for item in fields(self):
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            if item.name in ("elapsed_seconds", "validity_seconds", "ended_by"):
                setattr(self, item.name, max(mine, theirs))
            elif isinstance(mine, int | float | tuple):
                setattr(self, item.name, mine + theirs)
            elif isinstance(mine, Counter):
                mine.update(theirs)
            elif isinstance(mine, dict):
                for name, times in theirs.items():
                    mine.setdefault(name, Times()).merge(times)
            else:
                mine.merge(theirs)


def _count(table: dict[str, Times], name: str, due: float, sent: float, ended: float) -> None:
    times = table.setdefault(name, Times())
    times.from_due.add(ended - due)
    times.from_sent.add(ended - sent)
