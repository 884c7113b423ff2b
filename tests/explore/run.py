"""Explores every setting, and prints what was found (`make explore`).

With one disturbance it takes seconds, with two minutes, with three hours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.explore.explorer import INVARIANTS, Explorer
from tests.explore.settings import SETTINGS
from tests.explore.sides import Sides
from tests.support.pki import make_operator_pki, make_vendor_pki


def main(arguments: Sequence[str]) -> int:
    """Explore, and return 1 if anything does not hold that should."""
    parser = argparse.ArgumentParser(prog="python -m tests.explore.run", description=__doc__)
    parser.add_argument("--disturbances", type=int, default=2, help="things that go wrong at most")
    parser.add_argument("--most", type=int, default=2_000_000, help="states looked at at most")
    parser.add_argument("--only", default="", help="settings whose name has this in it")
    options = parser.parse_args(arguments)
    vendor, operator = make_vendor_pki(), make_operator_pki()
    print(f"At most {options.disturbances} things go wrong. Invariants:")
    for number, invariant in enumerate(INVARIANTS, 1):
        print(f"  {number}. {invariant}")
    fails = False
    for setting in SETTINGS:
        if options.only not in setting.name:
            continue
        sides = Sides(setting, vendor, operator)
        found = Explorer(sides, disturbances=options.disturbances).explore(options.most)
        print(
            f"{setting.name}: {found.states:,} states, {found.transitions:,} transitions, depth {found.depth},"
            f" {found.ends:,} ends ({found.fetched_by_nobody:,} with a certificate"
            f" that nobody came back for), {found.seconds:.0f} s"
            + ("" if found.complete else "; NOT ALL: --most was reached, and 7 was not looked at"),
            flush=True,
        )
        for invariant, way in found.broken.items():
            fails = True
            print(f"  BROKEN: {invariant}")
            for step in way:
                print(f"    {step}")
    return int(fails)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
