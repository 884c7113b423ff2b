"""utf8Pairs by which an RA says whose a device is: what is written is read, and what else comes does no harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ra_gateway.cmp import asn1
from ra_gateway.cmp.device_info import LONGEST_TEXT, device_info, device_of
from ra_gateway.cmp.messages import IMPLICIT_CONFIRM, InfoTypeAndValue
from ra_gateway.cmp.oids import OID

TEXTS = st.text(
    st.characters(categories=["L", "N", "P", "Zs"], include_characters="%?=", max_codepoint=0x2FF),
    min_size=1,
    max_size=LONGEST_TEXT,
).filter(str.isprintable)


@given(TEXTS, TEXTS | st.just(""))
def test_what_is_written_is_read(vendor: str, identity: str) -> None:
    """Also with the signs that part the pairs in it."""
    (item,) = device_info(vendor, identity)
    assert device_of((IMPLICIT_CONFIRM, item)) == (vendor, identity)


def test_as_the_rfc_has_it() -> None:
    """name?value%, and escapes (RFC 4211 7.1)."""
    (item,) = device_info("acme", "SN%1?")
    assert item == InfoTypeAndValue(
        "1.3.6.1.5.5.7.5.2.1", asn1.encode("vendor?acme%identity?SN%251%3f%")
    )


def test_nothing_is_said_that_could_not_be_kept() -> None:
    """No vendor, no item; a text that is too long, or not visible, is left out."""
    assert device_info("", "SN1") == ()
    assert device_info("a" * 201, "SN1") == ()
    assert device_of(device_info("acme", "a" * 201)) == ("acme", "")
    assert device_of(device_info("acme", "a\x1b[2J")) == ("acme", "")


@pytest.mark.parametrize(
    "der",
    [
        None,
        b"",
        b"\x0c",
        b"\x0c\x02\xff\xff",
        asn1.encode(b"vendor?acme%"),
        asn1.encode("vendor?" + "a" * 201 + "%"),
        asn1.encode("vendor?a\nb%identity?x%"),
        asn1.encode("identity?x%"),
        asn1.encode("vendor?acme"),
        asn1.encode("vendor?a%" * 100_000),
    ],
)
def test_what_cannot_be_used_says_nothing(der: bytes | None) -> None:
    """It is passed over, and costs little."""
    assert device_of([InfoTypeAndValue(OID.utf8Pairs, der)]) == ("", "")


@given(st.binary(max_size=300))
def test_any_octets_are_survived(octets: bytes) -> None:
    """Whatever an RA sends."""
    vendor, identity = device_of([InfoTypeAndValue(OID.utf8Pairs, octets)])
    assert len(vendor) <= LONGEST_TEXT
    assert len(identity) <= LONGEST_TEXT
