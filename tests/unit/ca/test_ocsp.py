"""OCSP answers, asked for and read with somebody else's code."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.ocsp import OCSPCertStatus, OCSPResponseStatus

from ra_gateway.ca.ocsp import (
    MAX_QUESTIONS,
    MAX_REQUEST_OCTETS,
    OCSPAnswer,
    OCSPResponder,
    OCSPSettings,
    OCSPSigner,
)
from ra_gateway.ca.records import CertificateStatus, Reason
from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import verify_signature
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import ConfigError, ServiceFailure
from tests.support import pki
from tests.support.status import (
    CONFIRM_WAIT,
    Failing,
    StatusCA,
    issuing_ca,
    ocsp_signer,
    status_ca,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SETTINGS = OCSPSettings(validity_minutes=60)


@pytest.fixture
async def ca(tmp_path: Path) -> AsyncIterator[StatusCA]:
    async with status_ca(tmp_path, NOW) as made:
        yield made


def responder(ca: StatusCA, *signers: OCSPSigner, ledger: Any = None) -> OCSPResponder:
    return OCSPResponder(
        signers or [ocsp_signer(ca.issuing)], ledger or ca.ledger, ca.clock, SETTINGS
    )


def request(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    nonce: bytes | None = None,
    algorithm: hashes.HashAlgorithm | None = None,
) -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate(
        certificate, issuer, algorithm or hashes.SHA1()
    )
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def about(ca: StatusCA, credential: pki.Credential, nonce: bytes | None = None) -> bytes:
    return request(credential.certificate, ca.operator.issuing.certificate, nonce)


def read(answer: OCSPAnswer) -> ocsp.OCSPResponse:
    response = ocsp.load_der_ocsp_response(answer.der)
    assert response.public_bytes(Encoding.DER) == answer.der
    return response


def failure(answer: OCSPAnswer) -> OCSPResponseStatus:
    """Return the status of an answer that nobody may keep."""
    assert (answer.this_update, answer.cacheable_until) == (None, None)
    return read(answer).response_status


# --- Statuses -------------------------------------------------------------------------------------------------


async def test_a_good_certificate(ca: StatusCA) -> None:
    """The answer is about the certificate that was asked about, and of the delegated signer."""
    signer = ocsp_signer(ca.issuing)
    credential = await ca.issue()
    answer = await responder(ca, signer).answer(about(ca, credential))
    response = read(answer)
    assert response.response_status is OCSPResponseStatus.SUCCESSFUL
    assert response.certificate_status is OCSPCertStatus.GOOD
    assert response.serial_number == credential.certificate.serial_number
    assert response.this_update_utc == response.produced_at_utc == answer.this_update == NOW
    assert response.next_update_utc == NOW + timedelta(hours=1)
    # Not for as long as the answer is good: a cache would go on serving it after a revocation.
    assert answer.cacheable_until == NOW + timedelta(minutes=5)
    (certificate,) = response.certificates
    assert certificate.public_bytes(Encoding.DER) == signer.credential.certificate.der
    key = certificate.public_key()
    assert response.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(key).digest
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(hashes.SHA256()))
    assert len(response.extensions) == 0


@pytest.mark.requirement(129)
@pytest.mark.parametrize(
    "reason, shown",
    [
        (Reason.unspecified, None),
        (Reason.keyCompromise, x509.ReasonFlags.key_compromise),
        (Reason.certificateHold, x509.ReasonFlags.certificate_hold),
        (Reason.aACompromise, x509.ReasonFlags.aa_compromise),
    ],
)
async def test_a_revoked_certificate(
    ca: StatusCA, reason: Reason, shown: x509.ReasonFlags | None
) -> None:
    """At once, with time and reason, and with no reason where there is none to tell."""
    credential = await ca.issue()
    await ca.revoke(credential, reason)
    ca.clock.advance(minutes=1)
    response = read(await responder(ca).answer(about(ca, credential)))
    assert response.certificate_status is OCSPCertStatus.REVOKED
    assert (response.revocation_time_utc, response.revocation_reason) == (NOW, shown)
    assert response.this_update_utc == NOW + timedelta(minutes=1)


async def test_a_certificate_released_from_hold(ca: StatusCA) -> None:
    """It is good again."""
    credential = await ca.issue()
    await ca.revoke(credential, Reason.certificateHold)
    await ca.revoke(credential, Reason.removeFromCRL)
    response = read(await responder(ca).answer(about(ca, credential)))
    assert response.certificate_status is OCSPCertStatus.GOOD


async def test_an_unconfirmed_certificate(ca: StatusCA) -> None:
    """It is good while certConf is awaited and revoked afterwards, also if nobody swept."""
    credential = await ca.issue(status=CertificateStatus.issued)
    statuses = []
    for seconds in (0, CONFIRM_WAIT.total_seconds() + 1):
        ca.clock.advance(seconds=seconds)
        response = read(await responder(ca).answer(about(ca, credential)))
        statuses.append(response.certificate_status)
    assert statuses == [OCSPCertStatus.GOOD, OCSPCertStatus.REVOKED]


async def test_unknown_certificates(ca: StatusCA) -> None:
    """Serial numbers never used, only reserved, of another issuing CA, or impossible; nobody may keep that."""
    retired = issuing_ca(ca.operator.root.issue_ca("CN=Issuing CA 0,O=Example Operator"))
    asked = [
        about(ca, ca.operator.issuing.issue("CN=never recorded")),
        about(ca, await ca.issue(status=CertificateStatus.reserved)),
        _by_hash(ca, (await ca.issue(by=retired)).certificate.serial_number),
        *(
            _by_hash(ca, serial)
            for serial in (0, -5, 1 << 158, (1 << 159) - 1, 1 << 159, 1 << 1000)
        ),
    ]
    for request_der in asked:
        answer = await responder(ca).answer(request_der)
        assert read(answer).certificate_status is OCSPCertStatus.UNKNOWN
        assert answer.cacheable_until is None


def _by_hash(ca: StatusCA, serial_number: int) -> bytes:
    """Return a request about any serial number, which `cryptography` would not build."""
    ours = ocsp.load_der_ocsp_request(about(ca, ca.operator.ra))
    cert_id = _cert_id(ours.issuer_name_hash, ours.issuer_key_hash, serial_number)
    return _requests(asn1.tlv(0x30, cert_id))


def _cert_id(name_hash: bytes, key_hash: bytes, serial_number: int, null: bytes = b"") -> bytes:
    algorithm = asn1.tlv(0x30, asn1.oid_der("1.3.14.3.2.26"), null)
    size = serial_number.bit_length() // 8 + 1
    serial = asn1.tlv(0x02, serial_number.to_bytes(size, "big", signed=True))
    return asn1.tlv(0x30, algorithm, asn1.tlv(0x04, name_hash), asn1.tlv(0x04, key_hash), serial)


def _requests(*requests: bytes, extension: bytes = b"") -> bytes:
    return asn1.tlv(0x30, asn1.tlv(0x30, asn1.tlv(0x30, *requests), extension))


# --- How it is asked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "algorithm", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()]
)
async def test_hashes_of_cert_id(ca: StatusCA, algorithm: hashes.HashAlgorithm) -> None:
    """The issuing CA is known by any of them, and the answer has the same CertID."""
    credential = await ca.issue()
    asked = request(credential.certificate, ca.operator.issuing.certificate, algorithm=algorithm)
    response = read(await responder(ca).answer(asked))
    assert response.certificate_status is OCSPCertStatus.GOOD
    assert response.hash_algorithm.name == algorithm.name
    ours = ocsp.load_der_ocsp_request(asked)
    assert (response.issuer_name_hash, response.issuer_key_hash) == (
        ours.issuer_name_hash,
        ours.issuer_key_hash,
    )


@pytest.mark.parametrize("null", [b"", b"\x05\x00"], ids=["absent", "NULL"])
async def test_cert_id_comes_back_octet_for_octet(ca: StatusCA, null: bytes) -> None:
    """With and without NULL parameters: some clients compare octets."""
    credential = await ca.issue()
    ours = ocsp.load_der_ocsp_request(about(ca, credential))
    cert_id = _cert_id(
        ours.issuer_name_hash, ours.issuer_key_hash, credential.certificate.serial_number, null
    )
    answer = await responder(ca).answer(_requests(asn1.tlv(0x30, cert_id)))
    assert read(answer).certificate_status is OCSPCertStatus.GOOD
    assert cert_id in answer.der


@pytest.mark.parametrize("length", [1, 16, 32, 33, 128])
async def test_a_nonce_comes_back(ca: StatusCA, length: int) -> None:
    """And makes the answer one that nobody may keep."""
    credential = await ca.issue()
    answer = await responder(ca).answer(about(ca, credential, bytes(range(length))))
    response = read(answer)
    value = response.extensions.get_extension_for_class(x509.OCSPNonce).value
    assert value.nonce == bytes(range(length))
    assert answer.cacheable_until is None
    assert response.next_update_utc == NOW + timedelta(hours=1)


@pytest.mark.parametrize("length", [0, 129, 200])
async def test_a_nonce_of_a_length_that_is_not_allowed(ca: StatusCA, length: int) -> None:
    """RFC 9654 2.1: it is refused, not echoed."""
    answer = await responder(ca).answer(about(ca, await ca.issue(), bytes(length)))
    assert failure(answer) is OCSPResponseStatus.MALFORMED_REQUEST


@pytest.mark.parametrize(
    "broken",
    ["empty", "no DER", "cut off", "followed", "none", "many", "critical", "two nonces", "large"],
)
async def test_malformed_requests(ca: StatusCA, broken: str) -> None:
    """What is no request, is about none or too many certificates, or demands what we do not know."""
    asked = about(ca, await ca.issue())
    ours = ocsp.load_der_ocsp_request(asked)
    one = asn1.tlv(0x30, _cert_id(ours.issuer_name_hash, ours.issuer_key_hash, 5))

    def extensions(*items: bytes) -> bytes:
        return asn1.tlv(0xA2, asn1.tlv(0x30, *(asn1.tlv(0x30, item) for item in items)))

    nonce = asn1.oid_der(OID.ocspNonce) + asn1.tlv(0x04, asn1.tlv(0x04, bytes(16)))
    critical = asn1.oid_der("1.2.3") + b"\x01\x01\xff" + asn1.tlv(0x04)
    request_der = {
        "empty": b"",
        "no DER": b"GET / HTTP/1.1",
        "cut off": asked[:-1],
        "followed": asked + b"\x00",
        "none": _requests(),
        "many": _requests(*[one] * (MAX_QUESTIONS + 1)),
        "critical": _requests(one, extension=extensions(critical)),
        "two nonces": _requests(one, extension=extensions(nonce, nonce)),
        "large": asked + bytes(MAX_REQUEST_OCTETS),
    }[broken]
    answer = await responder(ca).answer(request_der)
    assert failure(answer) is OCSPResponseStatus.MALFORMED_REQUEST


@pytest.mark.parametrize("nonce", [None, bytes(16)], ids=["no nonce", "nonce"])
async def test_several_certificates_in_one_request(ca: StatusCA, nonce: bytes | None) -> None:
    """Each has its own status, in the order asked, under one signature and with the nonce."""
    good, revoked, stranger = await ca.issue(), await ca.issue(), ca.operator.issuing.issue("CN=x")
    await ca.revoke(revoked, Reason.keyCompromise)
    asked = [about(ca, item, nonce) for item in (good, revoked, stranger)]
    ours = [ocsp.load_der_ocsp_request(item) for item in asked]
    ids = [
        asn1.tlv(0x30, _cert_id(item.issuer_name_hash, item.issuer_key_hash, item.serial_number))
        for item in ours
    ]
    extension = b""
    if nonce is not None:
        value = asn1.oid_der(OID.ocspNonce) + asn1.tlv(0x04, asn1.tlv(0x04, nonce))
        extension = asn1.tlv(0xA2, asn1.tlv(0x30, asn1.tlv(0x30, value)))
    answer = await responder(ca).answer(_requests(*ids, extension=extension))
    response = read(answer)
    assert [item.certificate_status for item in response.responses] == [
        OCSPCertStatus.GOOD,
        OCSPCertStatus.REVOKED,
        OCSPCertStatus.UNKNOWN,
    ]
    numbers = [item.serial_number for item in response.responses]
    assert numbers == [item.serial_number for item in ours]
    assert answer.cacheable_until is None  # the last may be issued next
    if nonce is not None:
        assert response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == nonce
    assert response.responder_key_hash == (
        x509.SubjectKeyIdentifier.from_public_key(response.certificates[0].public_key()).digest
    )


async def test_several_certificates_of_several_issuing_cas(ca: StatusCA) -> None:
    """No responder speaks for two of them: unauthorized, and so is one of a CA that is nobody's here."""
    retired = issuing_ca(ca.operator.root.issue_ca("CN=Issuing CA 0,O=Example Operator"))
    answers = responder(ca, ocsp_signer(ca.issuing), ocsp_signer(retired))
    stranger = pki.make_operator_pki("Another Operator").issuing
    ids = []
    for issuer in (ca.issuing.authority, retired.authority, stranger):
        asked = request(issuer.issue("CN=x").certificate, issuer.certificate)
        ours = ocsp.load_der_ocsp_request(asked)
        ids.append(asn1.tlv(0x30, _cert_id(ours.issuer_name_hash, ours.issuer_key_hash, 5)))
    for some in (ids[:2], [ids[0], ids[2]], [ids[2], ids[0]]):
        answer = await answers.answer(_requests(*some))
        assert failure(answer) is OCSPResponseStatus.UNAUTHORIZED
    assert read(await answers.answer(_requests(ids[0], ids[0]))).response_status is (
        OCSPResponseStatus.SUCCESSFUL
    )


async def test_other_issuers(ca: StatusCA) -> None:
    """A certificate of somebody else's CA, or an unknown hash, is answered unauthorized (RFC 5019 2.2.3)."""
    stranger = pki.make_operator_pki("Another Operator")
    device = stranger.device()
    asked = request(device.certificate, stranger.issuing.certificate)
    assert failure(await responder(ca).answer(asked)) is OCSPResponseStatus.UNAUTHORIZED
    sha3 = asn1.oid_der("2.16.840.1.101.3.4.2.8")
    unknown = asn1.tlv(
        0x30,
        asn1.tlv(
            0x30,
            asn1.tlv(0x30, sha3),
            asn1.tlv(0x04, bytes(32)),
            asn1.tlv(0x04, bytes(32)),
            b"\x02\x01\x05",
        ),
    )
    assert (
        failure(await responder(ca).answer(_requests(unknown))) is OCSPResponseStatus.UNAUTHORIZED
    )


async def test_every_issuing_ca_has_its_signer(ca: StatusCA) -> None:
    """A retired one is answered for with the signer that it certified."""
    retired = issuing_ca(ca.operator.root.issue_ca("CN=Issuing CA 0,O=Example Operator"))
    signers = [ocsp_signer(ca.issuing), ocsp_signer(retired)]
    answers = responder(ca, *signers)
    for issuer, signer in zip((ca.issuing, retired), signers, strict=True):
        credential = await ca.issue(by=issuer)
        asked = request(credential.certificate, issuer.authority.certificate)
        response = read(await answers.answer(asked))
        assert response.certificate_status is OCSPCertStatus.GOOD
        assert response.certificates[0].public_bytes(Encoding.DER) == (
            signer.credential.certificate.der
        )


@pytest.mark.parametrize("kind", ["p384", "rsa2048", "ed25519", "ed448", "mldsa44"])
async def test_kinds_of_keys(ca: StatusCA, kind: pki.KeyKind) -> None:
    """Whatever the signer's key, its certificate's public key verifies the answer."""
    signer = ocsp_signer(ca.issuing, kind)
    answer = await responder(ca, signer).answer(about(ca, await ca.issue()))
    response = read(answer)
    verify_signature(
        signer.credential.signer.algorithm,
        signer.credential.certificate.public_key,
        response.signature,
        response.tbs_response_bytes,
    )


# --- What goes wrong on our side ------------------------------------------------------------------------------


async def test_the_ledger_does_not_answer(ca: StatusCA) -> None:
    """tryLater: the client asks again, or another responder."""
    ledger = Failing(ca.ledger)
    ledger.fails = True
    answer = await responder(ca, ledger=ledger).answer(about(ca, await ca.issue()))
    assert failure(answer) is OCSPResponseStatus.TRY_LATER


async def test_the_key_cannot_be_used(ca: StatusCA) -> None:
    """internalError: nothing that the client could do."""

    class Broken:
        algorithm = ca.issuing.signer.algorithm

        async def sign(self, octets: bytes) -> bytes:
            raise ServiceFailure("the HSM is away")

    signer = ocsp_signer(ca.issuing)
    broken = replace(signer, credential=replace(signer.credential, signer=Broken()))
    answer = await responder(ca, broken).answer(about(ca, await ca.issue()))
    assert failure(answer) is OCSPResponseStatus.INTERNAL_ERROR


async def test_the_signer_has_expired(ca: StatusCA) -> None:
    """Nobody would accept its answers, so there are none."""
    signer = ocsp_signer(ca.issuing, not_after=NOW - timedelta(days=1))
    answer = await responder(ca, signer).answer(about(ca, await ca.issue()))
    assert failure(answer) is OCSPResponseStatus.INTERNAL_ERROR


@pytest.mark.parametrize(
    "wrong, options",
    [
        ("OCSPSigning", {"eku": []}),
        ("id-pkix-ocsp-nocheck", {"extensions": []}),
        ("digitalSignature", {"key_usage": ["keyAgreement"]}),
    ],
)
async def test_a_certificate_that_is_no_responder_s(
    ca: StatusCA, wrong: str, options: dict[str, Any]
) -> None:
    """It is refused at the start, in words for the operator."""
    signer = ocsp_signer(ca.issuing, **options)
    with pytest.raises(ConfigError, match=wrong):
        responder(ca, signer)


async def test_a_signer_of_another_ca(ca: StatusCA) -> None:
    """Clients accept only one that the issuing CA itself certified (RFC 6960 4.2.2.2)."""
    stranger = issuing_ca(ca.operator.root)
    signer = replace(ocsp_signer(stranger), issuer=ca.issuing.certificate)
    assert Certificate.from_der(signer.credential.certificate.der).extended_key_usage
    with pytest.raises(ConfigError, match="was not issued by"):
        responder(ca, signer)
