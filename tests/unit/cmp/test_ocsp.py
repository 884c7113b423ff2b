"""What makes an OCSP answer count; what comes off the network never leaves as another exception than OCSPRefused."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import AlgorithmPolicy, digest, load_public_key
from ra_gateway.cmp.ocsp import (
    CertStatus,
    OCSPQuestion,
    OCSPStatus,
    ask,
    read_answer,
    responder_urls,
)
from ra_gateway.cmp.sealed import Seal
from ra_gateway.errors import OCSPRefused
from tests.support.credentials import cmp_certificate
from tests.support.ocsp import Script, delegate, key_hash, script_for
from tests.support.pki import Authority, KeyKind, make_root

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NONCE = bytes(range(32))
POLICY = AlgorithmPolicy()


@pytest.fixture(scope="module")
def ca() -> Authority:
    """Issues what is asked about."""
    return make_root("OCSP Root")


def question_about(ca: Authority) -> OCSPQuestion:
    certificate = cmp_certificate(ca.issue("ENB-1").certificate)
    return ask(certificate, cmp_certificate(ca.certificate), NONCE)


def read(
    der: bytes, question: OCSPQuestion, policy: AlgorithmPolicy = POLICY, **options: Any
) -> OCSPStatus:
    options.setdefault("require_responder", lambda responder: None)
    return read_answer(der, question, policy, NOW, **options)


def refused(der: bytes, question: OCSPQuestion, **options: Any) -> str:
    with pytest.raises(OCSPRefused) as caught:
        read(der, question, **options)
    return str(caught.value)


@pytest.mark.requirement(23)
def test_a_question_is_what_other_code_reads(ca: Authority) -> None:
    """One certificate, named by SHA-1 as everywhere, and a nonce."""
    question = question_about(ca)
    request = ocsp.load_der_ocsp_request(question.der)
    builder = ocsp.OCSPRequestBuilder().add_certificate(
        x509.load_der_x509_certificate(question.certificate.der), ca.certificate, hashes.SHA1()
    )
    expected = builder.add_extension(x509.OCSPNonce(NONCE), critical=False).build()
    assert list(request.extensions) == list(expected.extensions)
    for name in ("serial_number", "issuer_key_hash", "issuer_name_hash"):
        assert getattr(request, name) == getattr(expected, name)


@pytest.mark.requirement(23)
@pytest.mark.parametrize("kind", ["rsa2048", "p384", "ed25519", "mldsa44"])
def test_an_answer_is_read_whatever_key_signed_it(kind: KeyKind) -> None:
    """By a delegate, and by the CA itself."""
    ca = make_root("Root", kind)
    question = question_about(ca)
    for signer in (delegate(ca, kind), ca):
        script = Script({key_hash(ca): signer})
        status = read(script.answer(question.der, NOW), question)
        assert (status.status, status.this_update) == (CertStatus.good, NOW)
        assert status.fresh_until == NOW + timedelta(minutes=65)


def test_only_read_answer_makes_a_status() -> None:
    """Nobody else can say that a certificate is good."""
    with pytest.raises(TypeError, match=r"only ra_gateway\.cmp\.ocsp"):
        OCSPStatus(CertStatus.good, NOW, NOW, None, Seal("tests"))


@pytest.mark.requirement(23)
@pytest.mark.parametrize(
    "options, text",
    [
        ({"eku": []}, "has no extended key usage OCSPSigning"),
        ({"key_usage": ["keyEncipherment"]}, "has a keyUsage without digitalSignature"),
        ({"not_after": datetime(2025, 1, 1, tzinfo=UTC)}, "to 2025-01-01T00:00:00Z only"),
        (
            {
                "extensions": [
                    (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b""), True)
                ]
            },
            "has critical extensions not known here: 1.2.3",
        ),
        ({"key": "rsa1024"}, "the least allowed is 2048"),
    ],
)
def test_who_may_not_answer(ca: Authority, options: dict[str, Any], text: str) -> None:
    """A certificate of the right CA is not enough."""
    question = question_about(ca)
    script = Script({key_hash(ca): delegate(ca, **options)})
    assert text in refused(script.answer(question.der, NOW), question)


@pytest.mark.requirement(23)
def test_the_domains_algorithms_hold_for_answers(ca: Authority) -> None:
    """What the domain does not allow signs no answer either."""
    question = question_about(ca)
    policy = AlgorithmPolicy(frozenset({"ed25519"}))
    answer = script_for(ca).answer(question.der, NOW)
    assert "the answer is signed with ecdsa-sha256" in refused(answer, question, policy=policy)


@pytest.mark.requirement(23)
def test_a_responder_that_may_be_revoked_is_the_callers_question(ca: Authority) -> None:
    """Asked about a delegate, and not about the CA."""

    def refuse(responder: object) -> None:
        raise OCSPRefused(f"{responder} is on a CRL")

    question = question_about(ca)
    answer = script_for(ca).answer(question.der, NOW)
    assert refused(answer, question, require_responder=refuse) == "CN=OCSP responder is on a CRL"
    by_ca = Script({key_hash(ca): ca}).answer(question.der, NOW)
    assert read(by_ca, question, require_responder=refuse).status is CertStatus.good


@pytest.mark.requirement(23)
@pytest.mark.parametrize("name", ["TRY_LATER", "UNAUTHORIZED", "SIG_REQUIRED", "INTERNAL_ERROR"])
def test_failures_of_responders_are_named(ca: Authority, name: str) -> None:
    """With the name that RFC 6960 has for them."""
    failure = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus[name])
    der = asn1.tlv(0x30, asn1.tlv(0x0A, bytes((failure.response_status.value,))))
    assert refused(der, question_about(ca)) == f"the responder answers {name}"


# --- answers that the library does not make -------------------------------------------------------------------


def single(question: OCSPQuestion, *, serial_offset: int = 0, extension: bytes = b"") -> bytes:
    """Return a SingleResponse: good, for an hour."""
    request = ocsp.load_der_ocsp_request(question.der)
    cert_id = asn1.tlv(
        0x30,
        asn1.tlv(0x30, asn1.oid_der("1.3.14.3.2.26"), b"\x05\x00"),
        asn1.tlv(0x04, request.issuer_name_hash),
        asn1.tlv(0x04, request.issuer_key_hash),
        asn1.encode(request.serial_number + serial_offset),
    )
    until = asn1.encode(asn1.generalized_time(NOW + timedelta(hours=1)))
    moment = asn1.encode(asn1.generalized_time(NOW))
    return asn1.tlv(0x30, cert_id, asn1.tlv(0x80), moment, asn1.tlv(0xA0, until), extension)


def critical(tag: int) -> bytes:
    """Return Extensions with a critical one that nobody knows, under a tag."""
    extension = asn1.tlv(0x30, asn1.oid_der("1.2.3"), b"\x01\x01\xff", asn1.tlv(0x04, b"\x05\x00"))
    return asn1.tlv(tag, asn1.tlv(0x30, extension))


def signed(
    ca: Authority, *singles: bytes, certificates: int = 0, by_name: bool = False, rest: bytes = b""
) -> bytes:
    """Return an answer with these statuses, by the CA itself."""
    name = ca.certificate.subject.public_bytes()
    responder_id = asn1.tlv(0xA1, name) if by_name else asn1.tlv(0xA2, asn1.tlv(4, key_hash(ca)))
    moment = asn1.encode(asn1.generalized_time(NOW))
    tbs = asn1.tlv(0x30, responder_id, moment, asn1.tlv(0x30, *singles), rest)
    key: Any = ca.private_key
    signature = key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    algorithm = asn1.tlv(0x30, asn1.oid_der("1.2.840.10045.4.3.2"))
    along = asn1.tlv(0xA0, asn1.tlv(0x30, *[ca.der] * certificates)) if certificates else b""
    basic = asn1.tlv(0x30, tbs, algorithm, asn1.tlv(0x03, b"\x00", signature), along)
    response = asn1.tlv(0x30, asn1.oid_der("1.3.6.1.5.5.7.48.1.1"), asn1.tlv(0x04, basic))
    return asn1.tlv(0x30, asn1.tlv(0x0A, b"\x00"), asn1.tlv(0xA0, response))


@pytest.mark.requirement(23)
def test_one_of_several_statuses_is_found(ca: Authority) -> None:
    """An answer may be about more than was asked; the responder may be named by its name."""
    question = question_about(ca)
    parts = [single(question, serial_offset=offset) for offset in (2, 0, 1)]
    assert read(signed(ca, *parts, by_name=True), question).status is CertStatus.good


@pytest.mark.requirement(23)
@pytest.mark.parametrize(
    "make, text",
    [
        (lambda ca, q: signed(ca, single(q), single(q)), "twice about this certificate"),
        (lambda ca, q: signed(ca), "about another certificate"),
        (
            lambda ca, q: signed(ca, single(q, extension=critical(0xA1))),
            "its status has a critical extension",
        ),
        (
            lambda ca, q: signed(ca, single(q), rest=critical(0xA1)),
            "has the critical extension 1.2.3",
        ),
        (lambda ca, q: signed(ca, single(q), certificates=9), "more than 8 certificates come"),
    ],
)
def test_what_is_not_understood_is_refused(
    ca: Authority, make: Callable[[Authority, OCSPQuestion], bytes], text: str
) -> None:
    """Never half understood."""
    question = question_about(ca)
    assert text in refused(make(ca, question), question)


@pytest.mark.requirement(23)
def test_damaged_answers_are_refused(ca: Authority) -> None:
    """Cut short or with any octet changed: OCSPRefused or, where nothing signed was hit, the same status."""
    question = question_about(ca)
    der = script_for(ca).answer(question.der, NOW)
    draw = random.Random(23)
    damaged = [der[:length] for length in range(0, len(der), 7)]
    for _ in range(1500):
        octets = bytearray(der)
        octets[draw.randrange(len(octets))] ^= 1 << draw.randrange(8)
        damaged.append(bytes(octets))
    for item in damaged:
        try:
            status = read(item, question)
        except OCSPRefused:
            continue
        assert (status.status, status.fresh_until) == (CertStatus.good, NOW + timedelta(minutes=65))


# --- what nobody has verified ---------------------------------------------------------------------------------


def parts_of(der: bytes) -> list[bytes]:
    """Return the parts of a BasicOCSPResponse."""
    _, tagged = asn1.parts(der, 2, "")
    _, octets = asn1.parts(asn1.inner(tagged), 2, "")
    return asn1.parts(asn1.inner(octets), 4, "")


def around(*parts: bytes) -> bytes:
    """Return an OCSPResponse around the parts of a BasicOCSPResponse."""
    basic = asn1.tlv(0x30, *parts)
    response = asn1.tlv(0x30, asn1.oid_der("1.3.6.1.5.5.7.48.1.1"), asn1.tlv(0x04, basic))
    return asn1.tlv(0x30, asn1.tlv(0x0A, b"\x00"), asn1.tlv(0xA0, response))


def with_key(responder: bytes, spki: bytes, *, sign: Any = None) -> bytes:
    """Return a certificate with another key in it, under the signature that it had or one made anew."""
    tbs, algorithm, signature = asn1.parts(responder, 3, "")
    fields = asn1.parts(tbs, 10, "")
    fields[6] = spki
    tbs = asn1.tlv(0x30, *fields)
    if sign is not None:
        signature = asn1.tlv(0x03, b"\x00", sign.sign(tbs, ec.ECDSA(hashes.SHA256())))
    return asn1.tlv(0x30, tbs, algorithm, signature)


@pytest.mark.parametrize("why", ["signature", "issuer", "purpose", "expired"])
def test_no_key_of_a_responder_is_loaded_before_its_certificate_is_in_order(
    ca: Authority, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """A key of 6144 bits of Diffie and Hellman takes OpenSSL seconds to load, whoever signed it."""
    question = question_about(ca)
    others = {
        "signature": lambda: delegate(ca),
        "issuer": lambda: delegate(make_root("Other Root")),
        "purpose": lambda: delegate(ca, eku=[]),
        "expired": lambda: delegate(
            ca, not_before=NOW - timedelta(days=9), not_after=NOW - timedelta(days=8)
        ),
    }
    signer = others[why]()
    answer = Script({key_hash(ca): signer}).answer(question.der, NOW)
    tbs, algorithm, signature, _ = parts_of(answer)
    spki = asn1.tlv(0x30, asn1.tlv(0x30, asn1.oid_der("1.2.840.113549.1.3.1")), b"\x03\x02\x00\x01")
    der = with_key(signer.der, spki, sign=None if why == "signature" else ca.private_key)
    # The answer names its maker by key: by the one that is in the certificate now.
    fields = asn1.parts(tbs, 5, "")
    fields[0] = asn1.tlv(0xA2, asn1.tlv(0x04, digest("sha1", b"\x01")))
    along = asn1.tlv(0xA0, asn1.tlv(0x30, der))
    loaded: list[bytes] = []

    def recorded(spki_der: bytes) -> Any:
        loaded.append(spki_der)
        return load_public_key(spki_der)

    monkeypatch.setattr("ra_gateway.cmp.certificates.load_public_key", recorded)
    text = refused(around(asn1.tlv(0x30, *fields), algorithm, signature, along), question)
    assert "responder" in text
    assert spki not in loaded


def name_of(*rdns: bytes) -> bytes:
    return asn1.tlv(0xA1, asn1.tlv(0x30, *rdns))


ATTRIBUTE = asn1.tlv(0x30, asn1.oid_der("2.5.4.3"), asn1.tlv(0x0C, b"x"))


@pytest.mark.parametrize(
    "index, element",
    [
        (0, name_of(*[asn1.tlv(0x31, ATTRIBUTE)] * 100)),
        (0, name_of(asn1.tlv(0x31, *[ATTRIBUTE] * 100))),
        (
            0,
            name_of(
                asn1.tlv(0x31, asn1.tlv(0x30, asn1.oid_der("2.5.4.3"), asn1.tlv(12, b"x" * 9000)))
            ),
        ),
        (2, asn1.tlv(0x30, *[asn1.tlv(0x30, b"\x05\x00")] * 2000)),
        (3, asn1.tlv(0xA1, asn1.tlv(0x30, *[b"\x30\x00"] * 2000))),
    ],
)
def test_nothing_of_an_endless_answer_is_decoded(
    ca: Authority, monkeypatch: pytest.MonkeyPatch, index: int, element: bytes
) -> None:
    """Names, statuses and extensions are measured and counted first."""
    question = question_about(ca)
    tbs, algorithm, signature, *along = parts_of(signed(ca, single(question), rest=critical(0xA1)))
    fields = asn1.parts(tbs, 5, "")
    fields[index] = element
    monkeypatch.setattr(
        "ra_gateway.cmp.ocsp.ocsp.load_der_ocsp_response", lambda _: pytest.fail("decoded")
    )
    monkeypatch.setattr("ra_gateway.cmp.ocsp.same_name", lambda *_: pytest.fail("compared"))
    assert refused(around(asn1.tlv(0x30, *fields), algorithm, signature, *along), question)


def test_an_unsigned_answer_is_not_decoded(ca: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its statuses are looked at once its signature has verified."""
    question = question_about(ca)
    answer = signed(make_root("OCSP Root"), single(question), by_name=True)
    monkeypatch.setattr(
        "ra_gateway.cmp.ocsp.ocsp.load_der_ocsp_response", lambda _: pytest.fail("decoded")
    )
    assert "was not signed by the key of" in refused(answer, question)


def test_a_large_certificate_that_comes_along_is_not_decoded(
    ca: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are more than eight."""
    question = question_about(ca)
    parts = parts_of(signed(ca, single(question)))
    large = asn1.tlv(0x30, bytes(20_000))
    monkeypatch.setattr(
        "ra_gateway.cmp.certificates.Certificate.from_der",
        classmethod(lambda *_: pytest.fail("decoded")),
    )
    text = refused(around(*parts, asn1.tlv(0xA0, asn1.tlv(0x30, large))), question)
    assert "octets comes along" in text


def test_a_signature_with_unused_bits_is_refused(ca: Authority) -> None:
    """One answer has one spelling."""
    question = question_about(ca)
    tbs, algorithm, signature, *along = parts_of(signed(ca, single(question)))
    octets = asn1.inner(signature)
    other = asn1.tlv(0x03, b"\x01", octets[1:-1], bytes((octets[-1] & 0xFE,)))
    assert "unused bits" in refused(around(tbs, algorithm, other, *along), question)


@pytest.mark.parametrize(
    "nonce, sent, expected", [("echo", True, ""), ("omit", True, "nonce"), ("echo", False, "nonce")]
)
def test_a_domain_may_insist_on_its_nonce(
    ca: Authority, nonce: str, sent: bool, expected: str
) -> None:
    """An answer made beforehand can be played back; without the setting it counts until it ends."""
    question = question_about(ca)
    if not sent:
        question = ask(question.certificate, question.issuer, b"")
        assert not list(ocsp.load_der_ocsp_request(question.der).extensions)
    script = script_for(ca)
    script.nonce = nonce
    answer = script.answer(question.der, NOW)
    assert read(answer, question).status is CertStatus.good
    if expected:
        assert "has no nonce" in refused(answer, question, require_nonce=True)
    else:
        assert read(answer, question, require_nonce=True).status is CertStatus.good


# --- where to ask ---------------------------------------------------------------------------------------------


def test_responders_of_a_certificate(ca: Authority) -> None:
    """URLs of OCSP in their order, once; other methods, other kinds of names and broken extensions are none."""
    uri, dns = x509.UniformResourceIdentifier, x509.DNSName
    of_ocsp, of_issuers = (
        AuthorityInformationAccessOID.OCSP,
        AuthorityInformationAccessOID.CA_ISSUERS,
    )
    access = x509.AuthorityInformationAccess(
        x509.AccessDescription(method, name)
        for method, name in (
            (of_issuers, uri("http://ca.example")),
            (of_ocsp, uri("http://b.example")),
            (of_ocsp, dns("c.example")),
            (of_ocsp, uri("http://a.example")),
            (of_ocsp, uri("http://b.example")),
        )
    )
    oid = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.1")
    broken = x509.UnrecognizedExtension(oid, b"\x30\x04\x30\x02\x06\x00")
    for extensions, expected in (
        ([(access, False)], ("http://b.example", "http://a.example")),
        ([(broken, False)], ()),
        ([], ()),
    ):
        certificate = cmp_certificate(ca.issue("ENB-1", extensions=extensions).certificate)
        assert responder_urls(certificate) == expected
