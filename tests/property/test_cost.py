"""The search for dear inputs: it counts the same every time, finds what is dear, and keeps it as a vector."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import cost
from tests.fuzz.cost import MAX_OCTETS, Cost, Dear, Meter, first_inputs, search
from tests.fuzz.mutation import seeds, swollen
from tests.vectors import book as books
from tests.vectors import dear
from tests.vectors.book import book

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def meter() -> Iterator[Meter]:
    made = Meter(clock=False)
    yield made
    made.close()


def test_a_message_costs_the_same_every_time(meter: Meter) -> None:
    """Whatever came before: what is remembered is forgotten first."""
    octets = [book().vectors[name].der for name in ("ir", "kur", "malformed-deep", "ir-stranger")]
    first = [meter.weigh(der).cost for der in octets]
    for der in seeds()[:20]:
        meter.weigh(der)
    assert [meter.weigh(der).cost for der in reversed(octets)] == first[::-1]
    assert all(item.steps > 100 for item in first)


def test_what_is_called_when_garbage_is_collected_is_no_cost(meter: Meter) -> None:
    """Such as hypothesis's hook, wherever in the process a test of it has run before."""
    der = book().vectors["ir"].der
    first = meter.weigh(der).cost
    gc.callbacks.append(lambda phase, info: None)
    before = gc.get_threshold()
    gc.set_threshold(10)
    try:
        assert meter.weigh(der).cost == first
    finally:
        gc.set_threshold(*before)
        del gc.callbacks[-1]


def test_the_same_seed_finds_the_same(meter: Meter) -> None:
    """Ten inputs, the dearest first, each with its shape; none is cheaper than what was there in the beginning."""
    first = first_inputs()[:12]
    found = search(meter, 60, 3, first)
    again = search(meter, 60, 3, first)
    assert found == again
    assert len(found) == 10
    steps = [item.cost.steps for item in found]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] >= max(meter.weigh(octets).cost.steps for octets in first)
    assert all(item.shape and len(item.octets) <= MAX_OCTETS for item in found)


def test_something_dear_is_found(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that goes over every octet of a long senderKID would come out on top."""
    dearest = search(meter, 40, 1, [book().vectors["ir"].der])[0].cost.steps
    check = "ra_gateway.ra.pipeline.check_header"

    def slow(header: object, *args: object, **kwargs: object) -> None:
        for octet in getattr(header, "sender_kid", None) or b"":
            bytes((octet,))

    monkeypatch.setattr(check, slow)
    assert search(meter, 400, 1, [book().vectors["ir"].der])[0].cost.steps > dearest + 1000


def test_both_measures_choose() -> None:
    """Half of the ten are the dearest by time: one call into C may be all that a second goes into."""
    cheap = [Dear(bytes((n,)), Cost(1000 + n, 1.0), "ir") for n in range(20)]
    slow = Dear(b"slow", Cost(5, 900.0), "cr")
    kept = cost._fittest([*cheap, slow])
    assert slow in kept
    assert slow in cost._dearest(kept)


def test_swollen_messages_stay_within_their_size() -> None:
    """And are larger than what they were made from, mostly."""
    random, larger = Random(5), 0
    for _ in range(100):
        der = random.choice(seeds())
        made = swollen(random, der, 8000)
        assert len(made) < max(len(der), 8000) + 2500  # what is too large already does not grow
        larger += len(made) > len(der)
    assert larger > 60


async def test_what_is_kept_becomes_a_vector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Octets and entry, with the verdict that it has now."""
    index = tmp_path / "index.json"
    for module in (books, dear):
        monkeypatch.setattr(module, "DIRECTORY", tmp_path)
        monkeypatch.setattr(module, "INDEX", index)
    vectors = Path(__file__).parents[1] / "vectors"
    index.write_text((vectors / "index.json").read_text())
    monkeypatch.setattr("tests.vectors.cast.DIRECTORY", vectors / "pki")
    octets = (vectors / "malformed-deep.der").read_bytes()
    books.book.cache_clear()
    try:
        (name,) = await dear.keep({octets: "Much"})
    finally:
        books.book.cache_clear()
    assert name.startswith("dear-")
    assert (tmp_path / f"{name}.der").read_bytes() == octets
    entry = json.loads(index.read_text())["vectors"][name]
    assert entry["what"] == "Much."
    assert entry["expected"]["verdict"] == "refused"
