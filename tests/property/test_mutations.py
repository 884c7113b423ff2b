"""Mutated messages through the whole gateway in memory: the short form of the fuzzer, with its very invariant."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.errors import MalformedMessage
from tests.fuzz import run
from tests.fuzz.mutation import mutated, seeds
from tests.fuzz.target import ENDPOINTS, Target, Violation, authentic
from tests.support.der import parse
from tests.vectors.book import book

EXAMPLES = 500
LOG = """\
#2\tINITED cov: 10 ft: 11 corp: 1/5b exec/s: 0 rss: 82Mb
#3000\tDONE   cov: 1468 ft: 2521 corp: 204/304Kb lim: 65536 exec/s: 750 rss: 89Mb
stat::number_of_executed_units: 3000
Test unit written to ./finding-crash-1
"""


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    made = Target()
    yield made
    made.close()


@pytest.mark.requirement(1, 13, 15, 113)
@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**64 - 1), data=st.data())
def test_mutated_messages(target: Target, seed: int, data: st.DataObject) -> None:
    """Whatever a message is turned into, signed again or not, the invariant of `tests.fuzz.target` holds."""
    target.one(mutated(Random(seed), data.draw(st.sampled_from(seeds()))))


@pytest.mark.requirement(1)
@settings(max_examples=EXAMPLES)
@given(st.binary(max_size=300))
def test_any_octets(target: Target, octets: bytes) -> None:
    """So it does for octets that never were a message."""
    target.one(octets)


def test_vectors_and_corpus(target: Target) -> None:
    """And for every vector, and for what the fuzzer found to reach something of its own."""
    for vector in book().vectors.values():
        target.one(vector.der)
    for path in run.CORPUS.iterdir():
        target.one(path.read_bytes())
    assert sum(path.stat().st_size for path in run.CORPUS.iterdir()) < 500_000


def test_mutations_get_behind_the_signature(target: Target) -> None:
    """They are refused for many reasons, and some are served: not everything ends at the first check."""
    random = Random(8)
    rules, outcomes = set(), set()
    for _ in range(1500):
        octets = mutated(random, random.choice(seeds()))
        target.one(octets)
        for event in target.last_events:
            rules.add(event.rule)
            outcomes.add(event.outcome)
    assert len(rules) >= 40
    assert outcomes >= {"issued", "refused", "confirmed", "informed", "failed"}


def test_trees_come_out_as_they_went_in() -> None:
    """A message taken apart and not changed is the same octets."""
    for der in seeds():
        assert parse(der).encode() == der


@pytest.mark.parametrize("name", ["ir", "ir-mldsa", "kur", "ir-pbm", "ir-pbmac1", "openssl-ir-pbm"])
def test_the_second_opinion_knows_who_signed(name: str) -> None:
    """What the fuzzer holds against the gateway tells authentic messages from others."""
    message = PKIMessage.from_der(book().vectors[name].der)
    assert authentic(message)
    flipped = bytearray(message.der)
    flipped[20] ^= 1
    try:
        changed = PKIMessage.from_der(bytes(flipped))
    except MalformedMessage:
        return
    assert not authentic(changed)


def test_the_invariant_would_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that verifies no signature does not pass."""
    monkeypatch.setattr("ra_gateway.cmp.verification.verify_protection", lambda *_: None)
    careless = Target()
    flipped = bytearray(book().vectors["ir-unknown-general-info"].der)
    flipped[flipped.index(b"Ein Gru")] ^= 1
    # Which endpoint takes a message follows from its octets: one of these is taken by each.
    variants = [bytes(flipped[:-1]) + bytes((octet,)) for octet in range(256)]
    with pytest.raises(Violation, match="nobody protected"):
        list(map(careless.one, variants))
    careless.close()


# --- the command ------------------------------------------------------------------------------------------------


def test_without_atheris_the_fuzzer_fails(tmp_path: Path) -> None:
    """It says what is missing and how to get it; it does not pass by doing nothing."""
    (tmp_path / "atheris.py").write_text("raise ImportError('not here')\n")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", "--inputs", "1"],
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install -e '.[test,fuzz]'" in done.stderr


def test_the_report_counts() -> None:
    """What libFuzzer says at its end becomes numbers, and a finding is one."""
    report = run.read_report(LOG, 3, 6.0)
    assert (report.inputs, report.edges, report.features, report.corpus) == (3000, 1468, 2521, 204)
    assert report.findings == ("./finding-crash-1",)
    assert "| inputs | 3,000 |" in str(report)


def test_every_kind_of_endpoint_is_fuzzed() -> None:
    """One of each strictness, one with shared secrets."""
    assert {item.strictness for item in ENDPOINTS.values()} == {"lenient", "3gpp", "strict"}
    assert any(item.mac for item in ENDPOINTS.values())
