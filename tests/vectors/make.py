"""Rebuild the vectors: `python -m tests.vectors.make`; `--record` runs openssl anew, `--cast` makes new keys first.

What is signed with ML-DSA, and what openssl sent, differs each time it is made: such files are left as they are as
long as the cast is the same. What the fuzzer found (`dear-...`) stays as it is.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Final

from tests.vectors import cast, catalogue, dear, recorded
from tests.vectors.book import DIRECTORY, INDEX, Book

ABOUT: Final = (
    "One file NAME.der for each vector. expected is what the device is told. A vector with 'posted' is what a CA "
    "answers to that request, every other is posted by a device, after what 'before' names; 'ca' is what the CA "
    "answers then, otherwise what was asked for. 'at' is the time at which it is judged, 2026-01-02T03:04:05Z if "
    "absent. rule is a requirement of docs/requirements.md or a clause. 'configurations' has what differs from "
    "the first of them."
)
UNSTEADY: Final = ("ir-mldsa",)
"""Signed by an algorithm that draws random octets."""


async def build(*, record: bool) -> tuple[Book, dict[str, bytes]]:
    """Return the book and the octets of every vector.

    Args:
        record: Whether to run openssl; otherwise what it sent before is read from the files.
    """
    found = catalogue.Catalogue()
    await catalogue.write(found)
    if not record:
        found.octets.update((name, (DIRECTORY / f"{name}.der").read_bytes()) for name in UNSTEADY)
    dear.write(found)
    recorded.write(found, recorded.record() if record else recorded.read())
    return Book(catalogue.CONFIGURATIONS, found.vectors, ABOUT), found.octets


def main() -> None:
    """Write index and files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="run openssl anew")
    parser.add_argument(
        "--cast", action="store_true", help="new keys and certificates, everything anew"
    )
    arguments = parser.parse_args()
    if arguments.cast:
        cast.make()
    book, octets = asyncio.run(build(record=arguments.record or arguments.cast))
    for path in DIRECTORY.glob("*.der"):
        if path.stem not in octets:
            path.unlink()
    for name, der in octets.items():
        (DIRECTORY / f"{name}.der").write_bytes(der)
    INDEX.write_text(book.to_json())


if __name__ == "__main__":
    main()
