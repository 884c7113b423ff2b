"""What the fuzzer found dearest: octets that nothing makes again, and the verdict they had when they were kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from tests.vectors.book import DIRECTORY, INDEX, Vector, Verdict, book, make_world, post
from tests.vectors.catalogue import CONFIGURATIONS, Catalogue

PREFIX: Final = "dear-"


def write(found: Catalogue) -> None:
    """Take what was kept into the catalogue."""
    for name, vector in book().vectors.items():
        if name.startswith(PREFIX):
            found.vectors[name], found.octets[name] = vector, vector.der


async def keep(inputs: Mapping[bytes, str]) -> list[str]:
    """Put inputs among the vectors, with the verdict that they have now, and return their names.

    Args:
        inputs: What is dear about each.
    """
    known, names = dict(book().vectors), []
    for octets, what in inputs.items():
        name = PREFIX + hashlib.sha256(octets).hexdigest()[:12]
        (DIRECTORY / f"{name}.der").write_bytes(octets)
        known[name] = Vector(name, f"{what}.", await _verdict(octets), configuration="mac")
        names.append(name)
    INDEX.write_text(replace(book(), vectors=known).to_json())
    book.cache_clear()
    return names


async def _verdict(octets: bytes) -> Verdict:
    return await post(make_world(CONFIGURATIONS["mac"]), octets)
