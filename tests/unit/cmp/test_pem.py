"""PEM is read in linear time, strictly, and counted before it is decoded."""

from __future__ import annotations

import base64
import os
from contextlib import suppress
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ra_gateway.cmp import pem as pem_module
from ra_gateway.cmp.asn1 import parts, tlv
from ra_gateway.cmp.pem import PEMRefused, pem_blocks
from ra_gateway.errors import MalformedMessage
from tests.support.pki import make_root

BEGIN, END = b"-----BEGIN X509 CRL-----\n", b"-----END X509 CRL-----\n"


def block(octets: bytes, label: str = "X509 CRL") -> bytes:
    text = base64.encodebytes(octets)
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label.encode(), text, label.encode())


class Counting(bytes):
    """Octets that count how many of them were searched through."""

    searched = 0

    def count(self, *arguments: object) -> int:
        Counting.searched += len(self)
        return bytes.count(self, *arguments)  # type: ignore[arg-type]

    def find(self, needle: Any, start: Any = 0, end: Any = None) -> int:
        found = bytes.find(self, needle, start, len(self) if end is None else end)
        stop = found if found >= 0 else (len(self) if end is None else end)
        Counting.searched += max(stop - start, 0)
        return found


@pytest.mark.parametrize(
    "hostile",
    [
        BEGIN * 40_000,
        BEGIN * 39_999 + END,
        b"-----BEGIN " * 90_000,
        (b"-----BEGIN X509 CRL----" * 40_000),
        BEGIN + b"A" * 1_000_000,
        BEGIN + b"\n" * 1_000_000 + BEGIN + END,
        END * 40_000 + BEGIN,
    ],
)
@pytest.mark.parametrize("most", [16, 1_000_000])
def test_hostile_pem_is_searched_a_few_times_at_most(hostile: bytes, most: int) -> None:
    """A pattern that looks for each END from each BEGIN looks at 10^11 octets here."""
    Counting.searched = 0
    with suppress(PEMRefused):
        assert pem_blocks(Counting(hostile), "X509 CRL", most) == ()
    assert Counting.searched <= 4 * len(hostile)


def test_many_good_blocks_are_searched_a_few_times_at_most() -> None:
    """Where nothing is wrong, too."""
    Counting.searched = 0
    octets = block(b"0") * 5000
    assert pem_blocks(Counting(octets), "X509 CRL", 5000) == (b"0",) * 5000
    assert Counting.searched <= 4 * len(octets)


def test_blocks_are_counted_before_any_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seventeenth of sixteen costs no base64."""
    monkeypatch.setattr(pem_module, "_decoded", lambda *_: pytest.fail("decoded"))
    with pytest.raises(PEMRefused, match="17 blocks"):
        pem_blocks(block(b"0") * 17, "X509 CRL", 16)


@pytest.mark.parametrize(
    "text",
    [b"!!!!", b"AAA", b"AA=A", b"AAAA=", b"=AAA", b"AA==AAAA", b"AAAA\n\x00AAAA", b"AA-_", b"A"],
)
def test_base64_is_read_strictly(text: bytes) -> None:
    """Nothing that is not base64 is passed over."""
    with pytest.raises(PEMRefused, match="damaged"):
        pem_blocks(BEGIN + text + END, "X509 CRL", 1)


def test_blanks_other_blocks_and_text_are_passed_over() -> None:
    """RFC 7468 2 and 3; large blocks, which are decoded in pieces, come out whole."""
    large = os.urandom(3_000_001)
    spaced = block(b"abc").replace(b"\n", b" \r\n\t", 2)
    octets = b"text\n" + block(b"key", "PRIVATE KEY") + spaced + b"more" + block(large)
    assert pem_blocks(octets, "X509 CRL", 2) == (b"abc", large)


def test_certificates_of_other_code_are_read() -> None:
    """What `cryptography` writes."""
    ca = make_root("PEM Root")
    pem = ca.certificate.public_bytes(Encoding.PEM)
    assert pem_blocks(pem * 2, "CERTIFICATE", 2) == (ca.der, ca.der)
    assert x509.load_der_x509_certificate(ca.der) == ca.certificate


# --- DER that nobody has verified -----------------------------------------------------------------------------


def test_elements_are_told_apart_without_looking_into_them() -> None:
    """Whatever their lengths are."""
    items = [tlv(0x04, bytes(size)) for size in (0, 1, 127, 128, 255, 256, 65_536)]
    assert parts(tlv(0x30, *items), 7, "it") == items
    assert parts(tlv(0x30), 0, "it") == []


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"0",
        b"0\x80\x00\x00",  # indefinite
        b"0\x81\x01\x00",  # not the shortest form
        b"0\x82\x00\x80" + bytes(128),
        b"0\x85\x00\x00\x00\x00\x00",
        b"0\x84\xff\xff\xff\xff",
        b"0\x02\x04\x01",  # ends too early
        b"0\x01\x04",
        b"\x3f\x81\x00\x00",  # a long tag
        b"0\x00\x00",  # octets behind it
    ],
)
def test_what_is_not_der_is_refused(der: bytes) -> None:
    """With an error of ours."""
    with pytest.raises(MalformedMessage):
        parts(der, 9, "it")


def test_more_elements_than_allowed_are_not_read() -> None:
    """The error comes at the first that is too many: what is behind it is not even DER."""
    with pytest.raises(MalformedMessage, match="more than 3"):
        parts(tlv(0x30, b"\x05\x00" * 4, b"\xff" * 50_000), 3, "it")
