"""What is due when: the same as a list that is searched whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from ra_gateway.stores.timetable import Timetable

START = datetime(2030, 1, 1, tzinfo=UTC)

_times = st.integers(-3000, 3000).map(lambda ms: START + timedelta(milliseconds=ms))
_keys = st.integers(0, 9)
_changes = st.lists(st.tuples(_keys, st.none() | _times), max_size=40)


@given(_changes, _times, st.integers(0, 12))
def test_it_is_a_list_that_is_searched(
    changes: list[tuple[int, datetime | None]], now: datetime, limit: int
) -> None:
    """In the order of times, as many as are asked for; nothing is left of what was taken away."""
    table: Timetable[int] = Timetable()
    listed: dict[int, datetime] = {}
    for key, at in changes:
        if at is None:
            table.discard(key)
            listed.pop(key, None)
        else:
            table.put(key, at)
            listed[key] = at
    assert len(table) == len(listed)
    assert {key: table[key] for key in range(10) if key in table} == listed
    due = sorted(at for at in listed.values() if at <= now)
    found = table.due(now, limit)
    assert [listed[key] for key in found] == due[:limit]
    assert len(set(found)) == len(found)
    assert (
        len(due)
        <= table.due_count(now)
        <= sum(at < now + timedelta(seconds=1) for at in listed.values())
    )
    seconds = {at.replace(microsecond=0) for at in listed.values()}
    assert len(table._seconds) == len(table._buckets) == len(seconds)
