"""How many connections a listener takes, of one address and in all, and which one is closed for another."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar


class Counted(Protocol):
    """A connection as a listener counts it.

    `network` is what it is counted under: `peers.network_of`, or PROXIES.
    """

    network: bytes

    def let_go(self) -> None:
        """Close now: another connection needs the room."""


C = TypeVar("C", bound=Counted)

PROXIES: Final = b"proxies"
"""What those are counted under who speak for many: of them there may be as many as of all."""


@dataclass(slots=True)
class Counters:
    """What a listener has done since its start."""

    requests: int = 0
    connections_refused: int = 0
    connections_timed_out: int = 0
    connections_let_go: int = 0
    """Closed while they waited for their clients, to make room."""
    connections_cut_off: int = 0
    """Of those two, before a request was whole and answered, or for another connection."""
    requests_refused: int = 0
    """Refused by HTTP status, before any code but the listener's saw them."""
    refusals: dict[int | None, int] = field(default_factory=dict)
    """Of those, how many by which status; None where the connection was closed without an answer."""
    refusals_untold: int = 0
    """Of all that is refused, which no event was told of, since the last one that was."""

    @property
    def all_refused(self) -> int:
        """Requests and connections that were refused or cut off."""
        return self.requests_refused + self.connections_refused + self.connections_cut_off

    def refuse(self, status: int | None) -> None:
        """Count a request that is refused."""
        self.requests_refused += 1
        self.refusals[status] = self.refusals.get(status, 0) + 1


@dataclass(slots=True)
class Network(Generic[C]):
    """The connections of one address: how many, and which wait for their client, the longest first."""

    count: int = 0
    waiting: OrderedDict[C, None] = field(default_factory=OrderedDict)


class Room(Generic[C]):
    """The open connections of a listener.

    Args:
        limit: For one more, the connection is closed that has waited longest for its client.
        limit_per_address: The same for those of one address, among themselves.
        counters: Gets those that were let go.
    """

    def __init__(self, limit: int, limit_per_address: int, counters: Counters) -> None:
        self.limit = limit
        self._limit_per_address = limit_per_address
        self._counters = counters
        self.connections: set[C] = set()
        self.waiting: OrderedDict[C, None] = OrderedDict()
        self.networks: dict[bytes, Network[C]] = {}

    def take(self, connection: C) -> bool:
        """Return whether there is room for one more connection, made if need be, and count it if so."""
        if not self._has_room_of(connection.network) or not self._has_room(
            len(self.connections), self.limit, self.waiting
        ):
            return False
        self._add(connection)
        return True

    def move(self, connection: C, network: bytes) -> bool:
        """Count a connection under another address; return whether that has room for it."""
        if network == connection.network:
            return True
        if not self._has_room_of(network):
            return False
        waits = connection in self.waiting
        if self.leave(connection):
            connection.network = network
            self._add(connection)
            self.note(connection, waits=waits)
        return True

    def note(self, connection: C, *, waits: bool) -> None:
        """Remember that it is a connection's client's turn from now on, or no longer."""
        network = self.networks.get(connection.network)
        if network is None or connection not in self.connections:
            return
        for waiting in (self.waiting, network.waiting):
            waiting.pop(connection, None)
            if waits:
                waiting[connection] = None

    def leave(self, connection: C) -> bool:
        """Forget a connection; return whether it was counted."""
        if connection not in self.connections:
            return False
        self.note(connection, waits=False)
        self.connections.discard(connection)
        network = self.networks[connection.network]
        network.count -= 1
        if not network.count:
            del self.networks[connection.network]
        return True

    def _add(self, connection: C) -> None:
        self.connections.add(connection)
        self.networks.setdefault(connection.network, Network()).count += 1

    def _has_room_of(self, name: bytes) -> bool:
        network = self.networks.get(name)
        return (
            network is None
            or name == PROXIES
            or self._has_room(network.count, self._limit_per_address, network.waiting)
        )

    def _has_room(self, count: int, limit: int, waiting: OrderedDict[C, None]) -> bool:
        if count < limit:
            return True
        longest = next(iter(waiting), None)
        if longest is None:
            return False
        self._counters.connections_let_go += 1
        self.leave(longest)
        longest.let_go()
        return True
