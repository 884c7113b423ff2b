"""The message vectors: index and files agree, and every message gets its verdict from the whole gateway."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.malformed import header_of
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.errors import MalformedMessage
from tests.vectors import cast, make
from tests.vectors.book import DIRECTORY, INDEX, Vector, book, make_world, play, steps_of

VECTORS = book().vectors.values()
MAX_OCTETS = 1_000_000


def _parameters() -> list[object]:
    return [
        pytest.param(vector, id=vector.name, marks=pytest.mark.requirement(*vector.requirements))
        for vector in VECTORS
    ]


@pytest.mark.parametrize("vector", _parameters())
async def test_every_message_gets_its_verdict(vector: Vector) -> None:
    """What the device is told, by which rule, and what became of the octets."""
    configuration = book().configurations[vector.configuration]
    octets = {name: item.der for name, item in book().vectors.items()}
    world = make_world(configuration, vector.at)
    assert await play(world, steps_of(vector), octets) == vector.expected


@pytest.mark.parametrize("vector", _parameters())
def test_our_decoder_agrees_with_the_verdict(vector: Vector) -> None:
    """A PKIMessage is one to the decoder, header and all, and what is none is malformed."""
    if vector.posted:
        # Of a CA's answer the verdict says what the device is told: html-from-ca is no message.
        assert vector.name == "html-from-ca" or PKIMessage.from_der(vector.der).header_der
    elif vector.name.startswith("malformed-") and vector.expected.answer == "error":
        assert (header_of(vector.der) is not None) is vector.expected.understood
        if vector.name != "malformed-genm":
            with pytest.raises(MalformedMessage):
                PKIMessage.from_der(vector.der)
    else:
        assert PKIMessage.from_der(vector.der).header.to_der()


def test_index_and_files_agree() -> None:
    """Every file has its entry and every entry its file; the names they use exist; all of it is small."""
    files = {path.stem: path.stat().st_size for path in DIRECTORY.glob("*.der")}
    assert set(files) == set(book().vectors)
    assert sum(files.values()) + INDEX.stat().st_size < MAX_OCTETS
    used = {vector.configuration for vector in VECTORS}
    assert used == set(book().configurations)
    named = {
        name for vector in VECTORS for step in steps_of(vector) for name in (step.post, step.ca)
    }
    assert named - {""} <= set(files)


def test_the_index_is_what_the_code_says() -> None:
    """Reading and writing it loses nothing."""
    assert book().to_json() == INDEX.read_text()


async def test_the_code_makes_these_very_octets() -> None:
    """Nobody edited a file by hand: what can be made again comes out the same."""
    built, octets = await make.build(record=False)
    assert built == replace(book(), about=built.about)
    assert octets == {vector.name: vector.der for vector in VECTORS}


def test_every_body_type_is_there() -> None:
    """All 27 choices of PKIBody."""
    kinds = set()
    for vector in VECTORS:
        try:
            kinds.add(PKIMessage.from_der(vector.der).body_type)
        except MalformedMessage:
            continue
    assert kinds == set(BodyType)


def test_the_cast_is_not_about_to_expire() -> None:
    """Certificates last as long as their tests."""
    for path in cast.DIRECTORY.glob("*.pem"):
        certificates = cast.member(path.stem).certificates
        expired = path.stem == "device-expired"
        assert all(item.not_after.year >= 2049 for item in certificates[expired:])
