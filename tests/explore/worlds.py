"""Worlds and their moves: what may happen next, wherever everybody is.

A world is a value of small numbers (each stands for a store, a ledger, a process in the middle of its work), so that
two ways that lead to the same are one. A process is a gateway of its own: what dies with it is itself alone, and any
number of nodes is there.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, Final, Generic, NamedTuple, TypeVar

from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.ra.transaction import OUTSTANDING, State
from tests.explore.processes import Call, Processes, Raised, Start, Told, View, moment, seconds_at
from tests.explore.sides import (
    PATIENCE,
    UNAVAILABLE_SECONDS,
    WRITES,
    DeviceView,
    Ledger,
    Sides,
    Stored,
    stored_after,
)
from tests.support.insisting import is_unavailable

AGENDA: Final = "agenda"

T = TypeVar("T", bound=Hashable)


class Numbers(Generic[T]):
    """Gives each value a number."""

    def __init__(self) -> None:
        self._numbers: dict[T, int] = {}
        self._values: list[T] = []

    def of(self, value: T) -> int:
        number = self._numbers.setdefault(value, len(self._values))
        if number == len(self._values):
            self._values.append(value)
        return number

    def __getitem__(self, number: int) -> T:
        return self._values[number]

    def __len__(self) -> int:
        return len(self._values)


class Device(NamedTuple):
    """A base station.

    Args:
        operation: Counts its operations, from 1: it begins a new one when it is refused, or loses patience.
        answers: Numbers of what it was answered in this one.
        asks: Name of the process that it waits for, "" for none.
        not_before: When it sends again.
        refusals: How often it was told systemUnavail since it came any further.
        is_silent: Whether it was switched off.
    """

    operation: int = 1
    answers: tuple[int, ...] = ()
    asks: str = ""
    not_before: float = 0.0
    refusals: int = 0
    is_silent: bool = False


class At(NamedTuple):
    """A process in a world.

    Args:
        number: What it is in the middle of.
        replied: Whether its reply has left.
    """

    name: str
    number: int
    replied: bool = False


class World(NamedTuple):
    """Everything that is so at one moment.

    Args:
        time: In seconds.
        store, ledger: Their numbers.
        sent: What was sent to the gateways, and how often.
        late: Messages that will reach the CA when nobody waits for the answer any more.
        left: How many more things may go wrong.
        lost: Whether an answer of the CA was lost, with a gateway or on its way.
    """

    time: float
    store: int
    ledger: int
    device: Device
    processes: tuple[At, ...]
    sent: tuple[tuple[int, int], ...]
    late: tuple[int, ...]
    left: int
    lost: bool = False


class Move(NamedTuple):
    """What happens next.

    Args:
        words: For people.
        goes_wrong: Whether it is one of the things of which a few happen.
        world: What comes of it.
    """

    words: str
    goes_wrong: bool
    world: World


class Worlds:
    """All that may happen between one device, its gateways, their store and a CA.

    Args:
        disturbances: How many things go wrong at most.
        compares: False for a store without compare and set, to see that it is noticed.
    """

    def __init__(self, sides: Sides, *, disturbances: int, compares: bool = True) -> None:
        self.sides = sides
        self.processes = Processes(sides.services)
        self.stores: Numbers[Stored] = Numbers()
        self.ledgers: Numbers[Ledger] = Numbers()
        self.messages: Numbers[bytes] = Numbers()
        self._disturbances_at_most, self._compares = disturbances, compares
        self._results: dict[tuple[int, Call, float], tuple[int, Any]] = {}
        self._names: dict[int, str] = {}
        self._operations: Numbers[bytes] = Numbers()

    def first(self) -> World:
        """Return the world in which nothing has happened yet."""
        store, ledger = self.stores.of(Stored()), self.ledgers.of(Ledger())
        return World(0.0, store, ledger, Device(), (), (), (), self._disturbances_at_most)

    def device(self, world: World) -> DeviceView:
        """Return what the device of a world does next."""
        device = world.device
        return self.sides.device(
            device.operation, tuple(self.messages[number] for number in device.answers)
        )

    def view(self, at: At) -> View:
        """Return what can be seen of a process."""
        return self.processes.views[at.number]

    # --- moves

    def moves(self, world: World) -> Iterator[Move]:
        """Yield everything that may happen next."""
        due = list(self._due(world))
        yield from due
        # Time passes by itself only where nobody has anything to do.
        busy = bool(due)
        if (not busy or world.left) and (move := self._later(world, goes_wrong=busy)) is not None:
            yield move
        if world.left:
            spent = world._replace(left=world.left - 1)
            yield from self._disturbances(world, spent)

    def _due(self, world: World) -> Iterator[Move]:
        """Yield what happens if nothing goes wrong."""
        for place, at in enumerate(world.processes):
            yield from self._steps(world, place, at)
        yield from self._device_moves(world)
        for number in world.late:
            late = list(world.late)
            late.remove(number)
            ledger, _ = self._asked(world, number)
            yield Move(
                f"the CA gets what it was sent for {self._name(number)}, and nobody waits any more",
                False,
                world._replace(ledger=ledger, late=tuple(late)),
            )
        agenda = self.stores[world.store].agenda
        idle = all(at.name.partition("#")[0] != AGENDA for at in world.processes)
        if idle and any(due_at <= moment(world.time) for _, due_at in agenda):
            yield Move("a gateway looks at its agenda", False, self._begin(world, None, asks=False))

    def _steps(self, world: World, place: int, at: At) -> Iterator[Move]:
        view = self.view(at)
        if view.reply is not None and not at.replied:
            yield Move(f"{at.name}: its answer arrives", False, self._answered(world, place))
        for call in view.calls:
            if call.name == "wait" and not self._wakes(world, call):
                continue
            after, result = self._done(world, call)
            yield Move(
                f"{at.name}: {_said(call, result)}", False, self._told(after, place, call, result)
            )
        if view.timer is not None and view.timer <= world.time:
            number = self.processes.tell(at.number, Told(0, None, world.time))
            yield Move(f"{at.name}: has waited long enough", False, self._put(world, place, number))

    def _wakes(self, world: World, call: Call) -> bool:
        _, version, until = call.arguments
        _, live = self._done(world, call)
        return live is None or live.version != version or until <= world.time

    def _device_moves(self, world: World) -> Iterator[Move]:
        device, view = world.device, self.device(world)
        if view.ended or device.is_silent or device.asks or device.not_before > world.time:
            return
        yield Move(f"the device sends its {view.body_type}", False, self._begin(world, view.der))

    def _later(self, world: World, *, goes_wrong: bool) -> Move | None:
        """Return the move to the next moment at which anything is due, None for none."""
        stored, moments = self.stores[world.store], []
        for at in world.processes:
            view = self.view(at)
            moments += [] if view.timer is None else [view.timer]
            moments += [call.arguments[2] for call in view.calls if call.name == "wait"]
        outstanding = (*OUTSTANDING, State.WITHDRAWING)
        moments += [
            seconds_at(live.lease_until)
            for _, live in stored.transactions
            if live.state in outstanding
        ]
        moments += [seconds_at(due_at) for _, due_at in stored.agenda]
        if not world.device.is_silent and not self.device(world).ended:
            moments.append(world.device.not_before)
        soonest = min((each for each in moments if each > world.time), default=None)
        if soonest is None:
            return None
        passed = f"{soonest - world.time:g} s pass"
        words = f"{passed}, and nobody comes to anything" if goes_wrong else passed
        return Move(words, goes_wrong, world._replace(time=soonest, left=world.left - goes_wrong))

    def _disturbances(self, world: World, spent: World) -> Iterator[Move]:
        for place, at in enumerate(world.processes):
            view = self.view(at)
            if view.works or not at.replied:
                yield Move(f"{at.name}: its gateway dies", True, self._gone(spent, place))
            for call in view.calls:
                yield from self._failures(spent, place, at, call)
        device, view_of_device = world.device, self.device(world)
        if not view_of_device.ended and not device.is_silent:
            if device.asks:
                again = self._begin(spent, view_of_device.der)
                words = f"the device does not wait, and sends its {view_of_device.body_type} again"
                yield Move(words, True, again)
            if device.answers or device.asks:
                anew = Device(device.operation + 1, not_before=world.time)
                anew_world = self._settled(spent._replace(device=anew))
                yield Move("the device begins anew", True, anew_world)
            silent = self._settled(spent._replace(device=device._replace(is_silent=True, asks="")))
            yield Move("the device is switched off", True, silent)
        for number, _ in world.sent:
            words = f"somebody sends the {self._name(number)} once more"
            yield Move(words, True, self._begin(spent, self.messages[number], asks=False))
        if any(at.name.partition("#")[0] == AGENDA for at in world.processes):
            stored = self.stores[world.store]
            if any(due_at <= moment(world.time) for _, due_at in stored.agenda):
                words = "another gateway looks at its agenda, too"
                yield Move(words, True, self._begin(spent, None, asks=False))

    def _failures(self, spent: World, place: int, at: At, call: Call) -> Iterator[Move]:
        if call.name == "exchange":
            number = self.messages.of(call.arguments[0])
            told = self._told(spent, place, call, Raised("undelivered"))
            yield Move(f"{at.name}: the CA cannot be reached", True, told)
            spent = spent._replace(lost=True)
            after, _ = self._done(spent, call)
            told = self._told(after, place, call, Raised("delivered"))
            yield Move(f"{at.name}: the CA answers, and the answer is lost", True, told)
            slow = spent._replace(late=tuple(sorted((*spent.late, number))))
            told = self._told(slow, place, call, Raised("delivered"))
            yield Move(f"{at.name}: the CA does not answer in time", True, told)
            return
        told = self._told(spent, place, call, Raised("store"))
        yield Move(f"{at.name}: the store does not take {call.name}", True, told)
        if call.name in WRITES:
            after, _ = self._done(spent, call)
            if after.store != spent.store:
                told = self._told(after, place, call, Raised("store"))
                words = f"{at.name}: the store takes {call.name}, and its answer is lost"
                yield Move(words, True, told)

    # --- what comes of a move

    def _done(self, world: World, call: Call) -> tuple[World, Any]:
        """Return the world in which a call has been made, and its result."""
        if call.name == "exchange":
            ledger, answer = self._asked(world, self.messages.of(call.arguments[0]))
            return world._replace(ledger=ledger), answer
        known = world.store, call, world.time
        if known not in self._results:
            stored = self.stores[world.store]
            after, result = stored_after(stored, call, world.time, compares=self._compares)
            self._results[known] = self.stores.of(after), result
        store, result = self._results[known]
        return world._replace(store=store), result

    def _asked(self, world: World, message: int) -> tuple[int, bytes]:
        ledger, answer = self.sides.answer(
            self.ledgers[world.ledger], self.messages[message], world.time
        )
        return self.ledgers.of(ledger), answer

    def _told(self, world: World, place: int, call: Call, result: Any) -> World:
        number = world.processes[place].number
        told = Told(call.number, result, world.time)
        return self._put(world, place, self.processes.tell(number, told))

    def _put(self, world: World, place: int, number: int) -> World:
        processes = list(world.processes)
        processes[place] = processes[place]._replace(number=number)
        return self._settled(world._replace(processes=tuple(processes)))

    def _settled(self, world: World) -> World:
        """Return a world without what nobody hears of: answers for nobody, and processes that are done."""
        processes = []
        for at in world.processes:
            view = self.view(at)
            if view.reply is not None and at.name != world.device.asks:
                at = at._replace(replied=True)
            over = at.replied or at.name.startswith(AGENDA)
            if view.works or not over:
                processes.append(at)
        return world._replace(processes=tuple(sorted(processes)))

    def _gone(self, world: World, place: int) -> World:
        """Return a world without a process: whoever waited for it sees its connection close."""
        processes, device = list(world.processes), world.device
        if processes.pop(place).name == device.asks:
            device = device._replace(asks="")
        return world._replace(processes=tuple(processes), device=device, lost=True)

    def _begin(self, world: World, der: bytes | None, *, asks: bool = True) -> World:
        sent, device = world.sent, world.device
        if der is None:
            running = {at.name for at in world.processes}
            name = next(name for n in range(9) if (name := f"{AGENDA}#{n + 1}") not in running)
        else:
            number = self.messages.of(der)
            times = dict(sent).get(number, 0) + 1
            sent = tuple(sorted({**dict(sent), number: times}.items()))
            name = f"{self._name(number)}#{times}"
        if asks:
            device = device._replace(asks=name)
        begun = At(name, self.processes.begin(Start(name, der, world.time)))
        processes = (*world.processes, begun)
        return self._settled(world._replace(sent=sent, device=device, processes=processes))

    def _answered(self, world: World, place: int) -> World:
        reply, device = self.view(world.processes[place]).reply or b"", world.device
        if is_unavailable(reply):
            refusals, again_at = device.refusals + 1, world.time + UNAVAILABLE_SECONDS
            device = device._replace(asks="", not_before=again_at, refusals=refusals)
            if refusals == PATIENCE:
                device = Device(device.operation + 1, not_before=again_at)
        else:
            answers = (*device.answers, self.messages.of(reply))
            device = device._replace(asks="", answers=answers, refusals=0)
            view = self.device(world._replace(device=device))
            device = device._replace(not_before=world.time + view.after_seconds)
            if view.ended == "refused":
                device = Device(device.operation + 1, not_before=world.time)
        return self._settled(world._replace(device=device))

    # --- words

    def _name(self, number: int) -> str:
        """Return what a message is called: its type, its operation, and which one of these it is, after the first."""
        if number not in self._names:
            message = PKIMessage.from_der(self.messages[number])
            operation = self._operations.of(message.header.transaction_id or b"") + 1
            name = f"{message.body_type.name}({operation})"
            alike = sum(each.partition(".")[0] == name for each in self._names.values())
            self._names[number] = f"{name}.{alike + 1}" if alike else name
        return self._names[number]


def _said(call: Call, result: Any) -> str:
    match call.name, result:
        case "exchange", _:
            return "the CA answers"
        case "replace", Raised():
            return "the store refuses, as another version is there"
        case "replace", _:
            return f"the store takes {call.arguments[0].state}"
        case "create", None:
            return f"the store takes a new transaction, {call.arguments[0].state}"
        case "create", _:
            return "the store has that transaction already"
        case _:
            return f"{call.name}"
