"""Room for connections: which one goes for another, wherever it is counted."""

from __future__ import annotations

import pytest

from ra_gateway.server.connection_limits import PROXIES, Counters, Room


class Connection:
    def __init__(self, network: bytes) -> None:
        self.network = network
        self.is_closed = False

    def let_go(self) -> None:
        self.is_closed = True


def room_for(limit: int, limit_per_address: int) -> Room[Connection]:
    return Room(limit, limit_per_address, Counters())


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("limits", [(1, 1), (2, 1), (1, 2)])
def test_who_was_moved_waits_as_before(limits: tuple[int, int], waits: bool) -> None:
    """What a balancer says first changes whose it is, and not whose turn it is."""
    room = room_for(*limits)
    moved = Connection(PROXIES)
    assert room.take(moved)
    room.note(moved, waits=waits)
    assert room.move(moved, b"one")
    assert moved.network == b"one"
    another = Connection(b"one")
    assert (room.take(another), moved.is_closed) == (waits, waits)
    assert room.connections == {another if waits else moved}


def test_who_is_moved_has_room_where_it_goes() -> None:
    """Of an address that has as many as it may, none waits: it stays what it was."""
    room = room_for(10, 1)
    there, moved = Connection(b"one"), Connection(PROXIES)
    assert room.take(there)
    assert room.take(moved)
    assert not room.move(moved, b"one")
    assert (moved.network, there.is_closed) == (PROXIES, False)


def test_the_longest_goes_first() -> None:
    """Not the oldest: who was answered last has waited least."""
    room = room_for(2, 2)
    old, new, third = Connection(b"one"), Connection(b"two"), Connection(b"three")
    for connection in (old, new):
        assert room.take(connection)
        room.note(connection, waits=True)
    room.note(old, waits=False)
    room.note(old, waits=True)
    assert room.take(third)
    assert (old.is_closed, new.is_closed) == (False, True)


def test_who_has_left_is_counted_nowhere() -> None:
    """And may leave again, or be noted, as its end and its last phase come in any order."""
    room = room_for(1, 1)
    left = Connection(b"one")
    assert room.take(left)
    assert room.leave(left)
    assert not room.leave(left)
    room.note(left, waits=True)
    assert (room.connections, dict(room.waiting), room.networks) == (set(), {}, {})
    assert room.take(Connection(b"one"))
