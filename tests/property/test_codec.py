"""No octets, however broken, make the codec or the checks raise anything but their own errors, or pass.

Invariant: a message is authentic only if header, body and signature are what was signed, bit for bit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import (
    SIGNATURE_ALGORITHMS,
    SignatureAlgorithm,
    hash_algorithm,
    signature_algorithm,
    signing_arguments,
    verify_signature,
)
from ra_gateway.cmp.bodies import (
    CertRepMessage,
    CertResponse,
    CertStatus,
    PKIStatusInfo,
    cert_confirm_body,
    cert_confirm_content,
    cert_rep_body,
    cert_rep_message,
    error_msg_content,
    nested_messages,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.crmf import cert_req_messages
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.messages import PKIHeader, PKIMessage, body
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.cmp.requests import AuthenticatedRequest, read_request
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.cmp.verification import authenticate, authenticate_answer
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.values import DeviceIdentity, RequestOptions
from ra_gateway.errors import CMPError, MalformedMessage, PKIFailureInfo
from ra_gateway.keys import KeySigner
from tests.support import pki
from tests.support.strategies import elements, headers, texts

NOW = datetime(2030, 1, 1, tzinfo=UTC)
RULES = HeaderRules()


# --- any octets -----------------------------------------------------------------------------------------------

CONTENT_DECODERS = (
    cert_req_messages,
    cert_rep_message,
    cert_confirm_content,
    error_msg_content,
    nested_messages,
    Certificate.from_der,
    PKIHeader.from_der,
    PKIMessage.from_der,
)


@pytest.mark.requirement(1)
@given(st.binary(max_size=200) | elements())
@example(b"")
@example(b"\x30\x80\x00\x00")
@example(b"\x30\x84\xff\xff\xff\xff")
@example(b"\x30\x88" + b"\xff" * 8)
@example(b"\x30" * 5000)
@example(asn1.tlv(0x30, b"\x30\x00", b"\xbf\x7f\x00"))
def test_any_octets(octets: bytes) -> None:
    """Each decoder returns or raises MalformedMessage."""
    for decoder in CONTENT_DECODERS:
        try:
            decoder(octets)
        except MalformedMessage:
            continue


@pytest.mark.requirement(1)
@pytest.mark.parametrize("tag", [0x30, 0x31, 0xA0, 0xA4])
def test_deep_nesting(tag: int) -> None:
    """Elements in elements to any depth are no way to exhaust the stack."""
    octets = b""
    for _ in range(3000):
        octets = asn1.tlv(tag, octets)
    for decoder in CONTENT_DECODERS:
        try:
            decoder(asn1.tlv(0x30, octets))
        except MalformedMessage:
            continue


# --- a real ir, changed ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """An ir that passes every check, and the domain that vouches for it."""

    der: bytes
    domain: TrustDomain

    def check(self, der: bytes) -> AuthenticatedRequest:
        """Do all that the gateway does with an ir before policy."""
        message = PKIMessage.from_der(der)
        cert_req_messages(message.body_content)
        return read_request(authenticate(message, [self.domain], RULES, NOW), RULES)


def make_sample(vendor: pki.VendorPKI, subject: str | None) -> Sample:
    issued = vendor.device()
    credential = Credential(
        Certificate.from_der(issued.der),
        tuple(Certificate.from_der(pki.certificate_der(item)) for item in issued.intermediates),
        KeySigner(issued.private_key),
    )
    counter = count(1)
    operation = Enrollment(
        DeviceIdentity(credential),
        pki.make_key("p256"),
        RequestOptions(subject=subject, san=("dns:enb1.example.net",), implicit_confirm=True),
        clock=lambda: NOW,
        random_octets=lambda size: next(counter).to_bytes(size, "big"),
    )
    root = Certificate.from_der(vendor.root.der)
    domain = TrustDomain("acme", DomainKind.vendor, (root,))
    return Sample(asyncio.run(operation.request()), domain)


@pytest.fixture(scope="module", params=["CN=enb1", None], ids=["subject", "no subject"])
def sample(request: pytest.FixtureRequest, vendor_pki: pki.VendorPKI) -> Sample:
    return make_sample(vendor_pki, request.param)


def test_the_sample_is_good(sample: Sample) -> None:
    """Otherwise the tests below would prove nothing."""
    assert sample.check(sample.der).message.body_type is BodyType.ir


@pytest.mark.requirement(1)
def test_every_truncation(sample: Sample) -> None:
    """A message cut off anywhere is malformed."""
    for length in range(len(sample.der)):
        with pytest.raises(MalformedMessage):
            PKIMessage.from_der(sample.der[:length])


def _flips(der: bytes) -> Iterator[tuple[int, bytes]]:
    spoilt = bytearray(der)
    for at in range(len(der)):
        for bit in range(8):
            spoilt[at] ^= 1 << bit
            yield at, bytes(spoilt)
            spoilt[at] ^= 1 << bit


@pytest.mark.requirement(15, 16, 54)
def test_every_flipped_bit(sample: Sample) -> None:
    """One changed bit raises a CMPError, or lies in extraCerts, which nothing protects.

    There a change may go unnoticed only if the message still says the same and the same key signed it.
    """
    good = PKIMessage.from_der(sample.der)
    signer_der = good.extra_certs[0]
    # All before the [1] of extraCerts: outer head, header, body, protection.
    protected_octets = sample.der.index(asn1.tlv(0x30, *good.extra_certs))
    for at, der in _flips(sample.der):
        try:
            checked = sample.check(der)
        except CMPError:
            continue
        assert at >= protected_octets, f"flipped bit in octet {at} was accepted"
        assert checked.message.header_der == good.header_der
        assert checked.message.body_der == good.body_der
        assert checked.message.protection == good.protection
        assert checked.signer.der == signer_der


@pytest.mark.requirement(15)
@given(data=st.data())
def test_octets_replaced_anywhere(sample: Sample, data: st.DataObject) -> None:
    """Any change of header, body or protection is refused, and with a CMPError only."""
    der = bytearray(sample.der)
    start = data.draw(st.integers(0, len(der) - 1))
    der[start : start + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
    assume(bytes(der) != sample.der)
    good = PKIMessage.from_der(sample.der)
    try:
        checked = sample.check(bytes(der))
    except CMPError:
        return
    assert (checked.message.header_der, checked.message.body_der) == (
        good.header_der,
        good.body_der,
    )


@given(data=st.data())
def test_changed_answers(sample: Sample, data: st.DataObject) -> None:
    """The checks of a CA's answer raise nothing but CMPError either."""
    der = bytearray(sample.der)
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    with suppress(CMPError):
        message = PKIMessage.from_der(bytes(der))
        authenticate_answer(message, sample.domain, sample.domain.anchors, RULES, NOW)
        cert_rep_message(message.body_content)


@pytest.mark.parametrize("strictness", Strictness)
def test_strictness_takes_the_sample(vendor_pki: pki.VendorPKI, strictness: Strictness) -> None:
    """What our device sends with a subject conforms to the strictest reading."""
    sample = make_sample(vendor_pki, "CN=enb1")
    rules = HeaderRules(strictness=strictness)
    message = PKIMessage.from_der(sample.der)
    read_request(authenticate(message, [sample.domain], rules, NOW), rules)


# --- round trips ----------------------------------------------------------------------------------------------

statuses = st.builds(
    PKIStatusInfo,
    st.sampled_from(PKIStatus),
    st.lists(texts, max_size=2).map(tuple),
    st.sets(st.sampled_from(PKIFailureInfo)).map(lambda bits: tuple(sorted(bits))),
)


@given(headers)
def test_header(header: PKIHeader) -> None:
    """A header decodes to what was encoded, and encodes to the same octets again."""
    der = header.to_der()
    assert PKIHeader.from_der(der) == header
    assert PKIHeader.from_der(der).to_der() == der


@given(st.lists(st.builds(CertResponse, st.integers(-1, 400), statuses), max_size=3))
def test_responses(responses: list[CertResponse]) -> None:
    """Statuses of answers survive the round trip."""
    message = CertRepMessage(tuple(responses))
    encoded = cert_rep_body(BodyType.ip, message)
    assert cert_rep_message(asn1.content(asn1.element(encoded))) == message


@given(st.binary(max_size=64), st.integers(-1, 400), st.none() | statuses)
def test_confirmations(cert_hash: bytes, cert_req_id: int, info: PKIStatusInfo | None) -> None:
    """So does certConf."""
    status = CertStatus(cert_hash, cert_req_id, info)
    encoded = cert_confirm_body(status)
    assert cert_confirm_content(asn1.content(asn1.element(encoded))) == (status,)


@given(st.sets(st.integers(0, 127)))
def test_named_bits(numbers: set[int]) -> None:
    """Bits come back as they were set, and the encoding has no trailing zero bit (X.690 11.2.2)."""
    bits = asn1.named_bits(sorted(numbers))
    assert set(asn1.set_bits(bits)) == numbers
    der = asn1.encode(bits)
    assert asn1.encode(asn1.decode(asn1.BitString, der)) == der
    octets = bits.as_bytes()
    if numbers:
        assert octets[-1] >> bits.padding_bits() & 1
    else:
        assert octets == b""


@given(st.sets(st.sampled_from(PKIFailureInfo), min_size=1))
def test_failure_bits_have_their_numbers(bits: set[PKIFailureInfo]) -> None:
    """The number of a failure bit is its position from the left, as the RFC counts."""
    octets = asn1.named_bits(sorted(bits)).as_bytes()
    text = "".join(f"{octet:08b}" for octet in octets)
    assert {PKIFailureInfo(at) for at, bit in enumerate(text) if bit == "1"} == bits


@given(st.integers(0, 30), st.sampled_from([0, 1, 127, 128, 255, 256, 65535, 65536, 70000]))
def test_lengths(tag: int, length: int) -> None:
    """tlv writes lengths in the fewest octets, as our strict decoder demands, and any content comes back."""
    der = asn1.tlv(0xA0 | tag, bytes(length))
    element = asn1.element(der)
    assert asn1.content(element) == bytes(length)
    assert asn1.raw(element) == der


@given(st.sampled_from(BodyType), st.lists(st.binary(max_size=10), max_size=3))
def test_body(body_type: BodyType, parts: list[bytes]) -> None:
    """Each body type has its tag, and its parts in order behind it."""
    der = body(body_type, *parts)
    assert der[0] == 0xA0 + body_type
    assert asn1.content(asn1.element(der)) == b"".join(parts)


# --- algorithms -----------------------------------------------------------------------------------------------

KEYS: dict[str, pki.KeyKind] = {
    "ec": "p256",
    "rsa": "rsa2048",
    "ed25519": "ed25519",
    "ed448": "ed448",
    "ml-dsa-44": "mldsa44",
    "ml-dsa-65": "mldsa65",
    "ml-dsa-87": "mldsa87",
}


@pytest.mark.parametrize("algorithm", SIGNATURE_ALGORITHMS.values(), ids=SIGNATURE_ALGORITHMS)
def test_every_signature_algorithm(algorithm: SignatureAlgorithm) -> None:
    """It is recognised from its DER, and what a key signs with it verifies and nothing else does."""
    assert signature_algorithm(algorithm.der) == algorithm
    assert asn1.encode(asn1.decode(structures.AlgorithmIdentifier, algorithm.der)) == algorithm.der
    key: Any = pki.make_key(KEYS[algorithm.family])
    signature = key.sign(b"octets", *signing_arguments(algorithm))
    verify_signature(algorithm, key.public_key(), signature, b"octets")
    with pytest.raises(InvalidSignature):
        verify_signature(algorithm, key.public_key(), signature, b"other")


@given(elements() | st.binary(max_size=60))
def test_any_algorithm_identifier(octets: bytes) -> None:
    """Unknown ones are refused, never guessed at."""
    try:
        algorithm = signature_algorithm(octets)
    except CMPError:
        return
    assert algorithm.der == octets or algorithm in SIGNATURE_ALGORITHMS.values()


@given(elements())
def test_any_hash_algorithm(octets: bytes) -> None:
    """The same for hashes."""
    with suppress(CMPError):
        hash_algorithm(asn1.decode(structures.AlgorithmIdentifier, octets))
