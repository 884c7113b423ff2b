"""What a simulation has shown, as one value for people and programs: latencies, outcomes, capacity, advice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ra_gateway.device.fleet.figures import Figures, Histogram, Outcome, Times
from ra_gateway.device.fleet.plan import MUST_BE_REFUSED, Load, Plan
from ra_gateway.device.fleet.spread import HOURS, USABLE, least_hours, spread

_WINDOW_SECONDS: Final = 5
_BUSY_SHARE: Final = 0.85
"""Of one core: a simulator that needs more of it answers late itself."""

_LATE_SECONDS: Final = 0.1
_LAGGING_SECONDS: Final = 2
"""Operations of so many seconds that have not ended when the last one comes: the gateway does not keep up."""

_FAILURES: Final = (
    Outcome.busy,
    Outcome.not_cmp,
    Outcome.no_answer,
    Outcome.unreachable,
    Outcome.untrusted,
    Outcome.unusable,
    Outcome.still_waiting,
)
"""What no base station should see, a faulty one neither."""


@dataclass(frozen=True, slots=True)
class Carried:
    """How many operations a second ended with a certificate.

    Args:
        per_second: In the best five seconds, or over all of a shorter run.
        bound: What it was limited by: "gateway", "load" (no more was asked for) or "simulator".
    """

    per_second: float
    bound: str


def summarized(
    plan: Plan, figures: Figures, *, devices: int, allowed: float, interrupted: bool
) -> dict[str, Any]:
    """Return all that is to be told of a simulation, as JSON has it.

    Args:
        devices: Of the fleet that advice is for.
        allowed: Share of operations that may fail, 0 to 1.
    """
    found = carried(plan, figures)
    faults = unexpected(figures, allowed)
    return {
        "url": plan.url,
        "load": plan.load.value,
        "per_second": plan.per_second or None,
        "at_once": plan.at_once,
        "seed": plan.seed,
        "elapsed_seconds": round(figures.elapsed_seconds, 3),
        "interrupted": interrupted,
        "as_expected": not faults,
        "unexpected": faults,
        "begun": figures.begun,
        "ended": figures.ended,
        "held": figures.held,
        "operations": [
            {"request": request, "fault": fault or None, "outcome": outcome.value, "count": count}
            for (request, fault, outcome), count in sorted(figures.operations.items())
        ],
        "latencies": [
            *(_latency("operation", name, figures.whole[name]) for name in figures.whole),
            *(_latency("message", name, figures.times[name]) for name in figures.times),
        ],
        "fail_info": dict(figures.fail_info.most_common()),
        "reasons": dict(figures.reasons.most_common()),
        "retransmitted": figures.retransmitted,
        "lost_requests": figures.lost_requests,
        "lost_answers": figures.lost_answers,
        "repeated": figures.repeated,
        "repeats_failed": figures.repeats_failed,
        "issued_twice": figures.issued_twice,
        "timeline": {
            "width_seconds": figures.timeline.width_seconds,
            "spans": [
                {"second": second, **span._asdict()} for second, span in figures.timeline.rows()
            ],
        },
        "carried": {"per_second": round(found.per_second, 2), "bound": found.bound},
        "simulator": _simulator(figures),
        "advice": _advice(devices, found, figures.validity_seconds),
    }


def unexpected(figures: Figures, allowed: float = 0.0) -> list[str]:
    """Return what a gateway that works would not have done, in sentences; empty where all was as expected.

    Args:
        allowed: Share of operations that may fail, 0 to 1.
    """
    said = []
    counts = {outcome: figures.count(outcome) for outcome in _FAILURES}
    counts[Outcome.refused] = figures.count(Outcome.refused, faulty=False)
    failed, total = sum(counts.values()), figures.operations.total()
    if failed > total * allowed:
        which = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
        said.append(f"{failed} of {total} operations failed: {which}")
    for fault in sorted(MUST_BE_REFUSED):
        got = sum(
            count
            for (_, borne, outcome), count in figures.operations.items()
            if (borne, outcome) == (fault, Outcome.issued)
        )
        if got:
            said.append(f"{got} with the fault {fault} got a certificate all the same")
    if figures.issued_twice:
        said.append(f"{figures.issued_twice} messages were answered with two certificates")
    if not total:
        said.append("no operation came to its end")
    if figures.ended_by:
        said.append(f"it was ended by an error: {figures.ended_by}")
    return said


def carried(plan: Plan, figures: Figures) -> Carried:
    """Return how many operations a second the gateway was seen to carry."""
    issued = figures.count(Outcome.issued)
    per_second = issued / figures.elapsed_seconds if figures.elapsed_seconds else 0.0
    rows, width = figures.timeline.rows(), figures.timeline.width_seconds
    size = max(1, _WINDOW_SECONDS // width)
    if len(rows) > size:
        ended = [span.issued for _, span in rows]
        best = max(sum(ended[at : at + size]) for at in range(len(rows) - size + 1))
        per_second = best / size / width
    if is_bottleneck(figures):
        return Carried(per_second, "simulator")
    return Carried(per_second, "gateway" if _kept_busy(plan, figures) else "load")


def is_bottleneck(figures: Figures) -> bool:
    """Tell whether the simulator itself was too slow for what is said of the gateway."""
    shares = cpu_shares(figures)
    if figures.elapsed_seconds < 1:
        return False  # the beginning of anything is dear
    return max(shares, default=0.0) > _BUSY_SHARE or figures.late.percentile(99) > _LATE_SECONDS


def cpu_shares(figures: Figures) -> list[float]:
    """Return how much of a core each process of the simulator took."""
    if not figures.elapsed_seconds:
        return []
    return [seconds / figures.elapsed_seconds for seconds in figures.cpu_seconds]


def _kept_busy(plan: Plan, figures: Figures) -> bool:
    """Tell whether there was always more to do: the gateway, or what stands behind it, set the pace."""
    if plan.load is not Load.rate:
        does = plan.behaviour
        rests = does.renewals and does.renew_after_seconds
        return not (rests or does.lost_requests or does.lost_answers)
    rows = figures.timeline.rows()
    last = max((at for at, (_, span) in enumerate(rows) if span.due), default=0)
    left = sum(span.due - span.issued - span.failed for _, span in rows[: last + 1])
    return left > max(10.0, plan.per_second * _LAGGING_SECONDS)


def _latency(kind: str, name: str, times: Times) -> dict[str, Any]:
    return {
        "of": kind,
        "name": name,
        "count": times.from_due.total,
        **_percentiles("", times.from_due),
        **_percentiles("sent_", times.from_sent),
    }


def _percentiles(prefix: str, histogram: Histogram) -> dict[str, float]:
    found = {
        f"p{str(percent).replace('.', '')}": histogram.percentile(percent)
        for percent in (50, 90, 99, 99.9)
    }
    found["max"] = histogram.longest_seconds
    return {f"{prefix}{name}_ms": round(value * 1000, 2) for name, value in found.items()}


def _simulator(figures: Figures) -> dict[str, Any]:
    total = max(1, figures.operations.total())
    return {
        "cpu_shares": [round(share, 3) for share in cpu_shares(figures)],
        "cpu_ms_per_operation": round(sum(figures.cpu_seconds) / total * 1000, 3),
        "cpu_ms_to_make_one": round(figures.preparing_seconds / max(1, figures.prepared) * 1000, 3),
        "late_p99_ms": round(figures.late.percentile(99) * 1000, 2),
        "is_bottleneck": is_bottleneck(figures),
        "is_out_of_cpu": max(cpu_shares(figures), default=0.0) > _BUSY_SHARE,
    }


def _advice(devices: int, found: Carried, validity_seconds: float) -> dict[str, Any]:
    usable = found.per_second * USABLE
    rows: Sequence[dict[str, Any]] = ()
    if found.per_second:
        rows = [
            {
                "hours": round(hours, 3),
                "per_second": round(item.per_second, 7),
                "peak_per_second": round(item.peak, 4),
                "carried": item.peak <= usable,
            }
            for hours in HOURS
            for item in [spread(devices, hours)]
        ]
    days = validity_seconds / 86_400
    least = spread(devices, least_hours(devices, found.per_second)) if usable else None
    return {
        "devices": devices,
        "validity_days": round(days, 2) or None,
        "renewals_a_day": round(devices / days, 2) if days else None,
        "usable_per_second": round(usable, 2),
        "least_hours": least and round(least.hours, 6),
        "least": least
        and {
            "per_second": round(least.per_second, 4),
            "windows": round(least.windows, 2),
            "mean": round(least.mean, 2),
            "most": round(least.most, 2),
        },
        "spreads": list(rows),
    }
