"""The process that libFuzzer runs in: `python -m tests.fuzz.child`, with libFuzzer's arguments; `run.py` starts it."""

from __future__ import annotations

import os
import sys
from random import Random

import atheris

with atheris.instrument_imports(include=["ra_gateway"]):
    from tests.fuzz.target import Target

from tests.fuzz.mutation import mutated, seeds


def _mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Change an input: mostly as a message, now and then as octets."""
    random = Random(seed)
    if random.random() < 0.1:
        octets: bytes = atheris.Mutate(data, max_size)
        return octets
    if random.random() < 0.1:
        data = random.choice(seeds())
    return mutated(random, data)[:max_size]


def main() -> None:
    """Fuzz; does not return."""
    target = Target()
    # To merge, libFuzzer starts itself again: by this command, since it is none itself here.
    again = os.environ.get("FUZZ_AGAIN", sys.argv[0])
    atheris.Setup([again, *sys.argv[1:]], target.one, custom_mutator=_mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
