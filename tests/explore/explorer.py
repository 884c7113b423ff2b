"""Looks at every world within bounds, the nearest first, and at what must be so in each of them."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

from ra_gateway.cmp.certificates import load_certificate
from ra_gateway.ra.confirmation_records import ConfirmationRecord, certificate_key
from ra_gateway.ra.transaction import State
from tests.explore.sides import Sides
from tests.explore.worlds import World, Worlds

INVARIANTS: Final = (
    "nothing is issued twice for one transaction",
    "a device that is done holds a certificate that is confirmed and not revoked",
    "no two certificates are confirmed for one request",
    "what a transaction says was confirmed is confirmed, and what it says was withdrawn is revoked",
    "the CA is asked for nothing that the store has not taken first",
    "no error comes that nobody expected",
    "who is not switched off can still get a certificate, by its own repeats alone",
    "where everything has come to rest, each certificate was taken or is revoked, or its answer is known to be lost",
)


@dataclass
class Explored:
    """What was found.

    Args:
        states, transitions: How many worlds, and how many moves between them.
        depth: Moves to the last one.
        ends: Worlds in which nothing happens any more unless something goes wrong.
        fetched_by_nobody: In how many ends the CA has issued what no device came back for, as the transaction says.
        complete: Whether these are all that there are.
        broken: Which invariant, and by which moves it came to that, for each that does not hold: the fewest moves.
        met: States of transactions.
    """

    states: int = 0
    transitions: int = 0
    depth: int = 0
    ends: int = 0
    seconds: float = 0.0
    complete: bool = True
    broken: dict[str, list[str]] = field(default_factory=dict)
    fetched_by_nobody: int = 0
    met: set[State] = field(default_factory=set)


class Explorer:
    """Explores one setting."""

    def __init__(self, sides: Sides, *, disturbances: int, compares: bool = True) -> None:
        self._worlds = Worlds(sides, disturbances=disturbances, compares=compares)
        self._from: dict[World, tuple[World, str] | None] = {}
        self._before: dict[World, list[World]] = {}
        self._good: set[World] = set()
        self._found = Explored()

    def explore(self, most: int = 10_000_000, *, stop_at_first: bool = False) -> Explored:
        """Look at all worlds, or at so many."""
        began, first, found = time.monotonic(), self._worlds.first(), self._found
        self._from[first] = None
        depths = {first: 0}
        queue = deque([first])
        while queue:
            if len(self._from) > most or (stop_at_first and found.broken):
                found.complete = False
                break
            world = queue.popleft()
            self._look(world)
            rests = True
            for move in self._worlds.moves(world):
                found.transitions += 1
                rests = rests and move.goes_wrong
                if not move.goes_wrong:
                    self._before.setdefault(move.world, []).append(world)
                if move.world not in self._from:
                    self._from[move.world] = world, move.words
                    depths[move.world] = depths[world] + 1
                    queue.append(move.world)
            if rests:
                found.ends += 1
                self._look_at_end(world)
            found.depth = depths[world]
        found.states = len(self._from)
        if found.complete:
            self._look_for_ways_out()
        found.seconds = time.monotonic() - began
        return found

    def _break(self, invariant: int, world: World, what: str = "") -> None:
        words = INVARIANTS[invariant]
        if words not in self._found.broken:
            self._found.broken[words] = [*self.way(world), *([f"so: {what}"] if what else [])]

    def way(self, world: World) -> list[str]:
        """Return the moves that lead to a world, in words."""
        words = []
        step = self._from[world]
        while step is not None:
            world, said = step
            words.append(said)
            step = self._from[world]
        return words[::-1]

    # --- what must be so

    def _look(self, world: World) -> None:
        worlds, setting = self._worlds, self._worlds.sides.setting
        ledger, stored = worlds.ledgers[world.ledger], worlds.stores[world.store]
        counts = Counter(entry.transaction_id for entry in ledger.issued)
        if any(count > 1 for count in counts.values()):
            self._break(0, world)
        confirmed = Counter(entry.transaction_id for entry in ledger.issued if entry.confirmed)
        if any(count > 1 for count in confirmed.values()):
            self._break(2, world)
        known = {key.transaction_id for key, _ in stored.transactions}
        if not counts.keys() <= known:
            self._break(4, world)
        device = worlds.device(world)
        by_der = {entry.der: entry for entry in ledger.issued}
        if device.ended == "done":
            held = by_der[device.der]
            if held.revoked or (setting.ca_hears and not held.confirmed):
                self._break(1, world)
        elif device.ended:
            self._break(6, world, device.ended)
        for _, live in stored.transactions:
            self._found.met.add(live.state)
            entry = by_der.get(live.certificate_der)
            if entry is None:
                continue
            unheard = setting.ca_hears and not entry.confirmed
            if live.state is State.CONFIRMED and (entry.revoked or unheard):
                self._break(3, world)
            if live.state is State.WITHDRAWN and not entry.revoked:
                self._break(3, world)
        for at in world.processes:
            for bug in worlds.view(at).bugs:
                self._break(5, world, bug)

    def _look_at_end(self, world: World) -> None:
        """Look at a world in which nothing happens any more unless something goes wrong."""
        worlds, setting = self._worlds, self._worlds.sides.setting
        device = worlds.device(world)
        if device.ended == "done" or world.device.is_silent:
            self._good.add(world)
        stored = worlds.stores[world.store]
        live = {key.transaction_id: live for key, live in stored.transactions}
        for entry in worlds.ledgers[world.ledger].issued:
            of_it = live.get(entry.transaction_id)
            # A CA that hears of certConf revokes of its own accord what it does not hear of.
            if setting.ca_hears or entry.revoked or of_it is None:
                known = of_it is not None
            elif world.lost and (
                of_it.state is State.REQUESTED
                or (of_it.state is State.FAILED and not setting.replays)
            ):
                # The answer is outstanding, or was lost, and no device came back for it.
                known, self._found.fetched_by_nobody = True, self._found.fetched_by_nobody + 1
            else:
                # Where its certConf came and was not seen to its end, the operator is told, and nothing is revoked.
                record = dict(stored.records).get(certificate_key(load_certificate(entry.der)))
                taken = record is not None and ConfirmationRecord.from_bytes(record).confirmed_by
                known = of_it.state in (State.CONFIRMED, State.CONFIRMING) or bool(taken)
            if not known:
                self._break(7, world)

    def _look_for_ways_out(self) -> None:
        """Find the nearest world from which no end that is good can be reached unless something goes wrong."""
        reached, queue = set(self._good), deque(self._good)
        while queue:
            for before in self._before.get(queue.popleft(), ()):
                if before not in reached:
                    reached.add(before)
                    queue.append(before)
        for world in self._from:
            if world not in reached:
                self._break(6, world)
                return
