"""Fuzzing for what is dear: `python -m tests.fuzz.cost --inputs N --seed S`.

An input is as fit as the gateway needs steps for it: calls of functions, in Python and from Python into C. That is the
same every time, on every machine. What one call into C costs does not show in it; so a second half of the population
is chosen by CPU time. Both halves are mutated further, and the dearest of both are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import _lru_cache_wrapper
from random import Random
from types import FrameType
from typing import Any, Final, NamedTuple

from ra_gateway.cmp.remembering import Memory
from ra_gateway.cmp.trust import TrustDomain
from tests.fuzz.mutation import mutated, seeds, swollen
from tests.fuzz.target import ENDPOINTS, Pipeline
from tests.support.counting import all_objects, profiled
from tests.support.der import parse
from tests.support.hostile import SHAPES, Facing, Sending
from tests.vectors import dear

MAX_OCTETS: Final = 16_384
"""Of an input. What grows faster than the message shows at this size, and ten of them are no burden to the tree."""

POPULATION: Final = 48
SHOWN: Final = 10

_ENDPOINTS: Final = ("3gpp", "mac")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one input takes, at all endpoints that are tried together.

    Args:
        steps: Calls of functions.
        cpu_ms: CPU time without counting; 0 where it was not taken.
    """

    steps: int
    cpu_ms: float = 0.0


class Dear(NamedTuple):
    """An input and what it costs."""

    octets: bytes
    cost: Cost
    shape: str

    def __str__(self) -> str:
        return f"{self.cost.steps:>9,} {self.cost.cpu_ms:>8.1f} {len(self.octets):>6}  {self.shape}"


class Meter:
    """Gateways that inputs are posted to, and a count of what these cost.

    Args:
        clock: Whether CPU time is taken too.
    """

    def __init__(self, *, clock: bool) -> None:
        self._clock = clock
        self._loop = asyncio.new_event_loop()
        self._pipelines = [Pipeline(ENDPOINTS[name], "ip") for name in _ENDPOINTS]
        for pipeline in self._pipelines:
            self._loop.run_until_complete(pipeline.start())
        self._memories = _memories()
        for (
            octets
        ) in seeds():  # what certificates of ours are asked for the first time, they remember
            self._run(octets, counted=False)

    def close(self) -> None:
        """Close the event loop."""
        self._loop.close()

    def weigh(self, octets: bytes) -> Dear:
        """Post an input and tell what it costs."""
        steps = self._run(octets, counted=True)
        cpu_ms = 0.0
        if self._clock:
            before = time.process_time()
            self._run(octets, counted=False)
            cpu_ms = (time.process_time() - before) * 1000
        return Dear(octets, Cost(steps, cpu_ms), self._shape(octets))

    def _run(self, octets: bytes, *, counted: bool) -> int:
        steps = 0

        def count(frame: FrameType, event: str, argument: Any) -> None:
            nonlocal steps
            if event in ("call", "c_call"):
                steps += 1

        for pipeline in self._pipelines:
            for memory in self._memories:  # or it would matter what came before
                memory()
            pipeline.forget()
            coroutine = pipeline.world.gateway.handle(
                octets, endpoint=pipeline.world.endpoint.name, peer="192.0.2.7"
            )
            if not counted:
                self._loop.run_until_complete(coroutine)
                continue
            with profiled(count):
                self._loop.run_until_complete(coroutine)
        return steps

    def _shape(self, octets: bytes) -> str:
        """Say in a few words what an input is like."""
        event = self._pipelines[-1].world.events[-1]
        words = [event.body_type or "unreadable", event.outcome, event.rule]
        try:
            nodes = parse(octets).walk()
        except ValueError:
            return " ".join(filter(None, words)) + ", not DER"
        ((tag, times),) = Counter(node.tag.hex() for node in nodes).most_common(1)
        longest = max((len(node.octets) for node in nodes), default=0)
        return f"{' '.join(filter(None, words))}, {times} times tag {tag}, longest value {longest}"


def _memories() -> list[Callable[[], None]]:
    """Return what empties everything of the product's that remembers results."""
    found: list[Callable[[], None]] = []
    for item in all_objects():
        if isinstance(item, _lru_cache_wrapper) and str(item.__module__).startswith("ra_gateway."):
            found.append(item.cache_clear)
        elif isinstance(item, TrustDomain):
            found += [item._remembered.clear, item._signers.clear]
        elif isinstance(item, Memory):
            found.append(item.clear)
    return found


def first_inputs() -> list[bytes]:
    """Return what is mutated first: the vectors that are small enough, and what is known to be hostile."""
    facing = Facing("acme-root", "device")
    hostile = [make(Sending(facing, 1, MAX_OCTETS // 2)) for make in SHAPES.values()]
    return [octets for octets in (*seeds(), *hostile) if len(octets) <= MAX_OCTETS]


def search(meter: Meter, inputs: int, seed: int, first: Sequence[bytes]) -> list[Dear]:
    """Try inputs, and return the dearest, by steps and by CPU time.

    Args:
        inputs: How many are tried, the first ones included.
        seed: Decides everything that is drawn.
        first: What is mutated first.
    """
    random = Random(seed)
    population = [meter.weigh(octets) for octets in first[:inputs]]
    for _ in range(inputs - len(population)):
        parent = random.choice(population).octets
        changed = parent
        for _ in range(random.choice((1, 1, 2))):
            swells = random.random() < 0.5
            changed = swollen(random, changed, MAX_OCTETS) if swells else mutated(random, changed)
        if len(changed) <= MAX_OCTETS:
            population = _fittest([*population, meter.weigh(changed)])
    return _dearest(_fittest(population))


def _fittest(population: Iterable[Dear]) -> list[Dear]:
    """Return those that are mutated further: the dearest of each shape, by either measure."""
    unique = {item.octets: item for item in population}.values()
    kept: dict[bytes, Dear] = {}
    for measure in (_by_steps, _by_time):
        shapes: Counter[str] = Counter()
        for item in sorted(unique, key=measure, reverse=True):
            if shapes.total() >= POPULATION:
                break
            kind = item.shape.partition(",")[0]
            if shapes[kind] < POPULATION // 8:  # or all would soon be children of one
                shapes[kind] += 1
                kept[item.octets] = item
    return list(kept.values())


def _dearest(population: Sequence[Dear]) -> list[Dear]:
    """Return the ten to be shown: five by time, where it was taken, and the rest by steps."""
    by_time = sorted(population, key=_by_time, reverse=True)
    found = [item for item in by_time if item.cost.cpu_ms][: SHOWN // 2]
    for item in sorted(population, key=_by_steps, reverse=True):
        if len(found) < SHOWN and item not in found:
            found.append(item)
    return sorted(found, key=_by_steps, reverse=True)


def _by_steps(item: Dear) -> int:
    return item.cost.steps


def _by_time(item: Dear) -> float:
    return item.cost.cpu_ms


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the ten dearest inputs, and keep them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, help="how many to try")
    parser.add_argument("--seed", type=int, default=1, help="of the random choices")
    parser.add_argument("--keep", action="store_true", help="put the ten among the vectors")
    parser.add_argument("--steps-only", action="store_true", help="the same every time")
    options = parser.parse_args(arguments)
    meter = Meter(clock=not options.steps_only)
    found = search(meter, options.inputs, options.seed, first_inputs())
    meter.close()
    print(f"{'steps':>9} {'CPU ms':>8} {'octets':>6}  shape ({' and '.join(_ENDPOINTS)} together)")
    for item in found:
        print(item)
    if options.keep:
        kept = {item.octets: f"{item.cost.steps:,} steps: {item.shape}" for item in found}
        print(*asyncio.run(dear.keep(kept)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
