"""What has to be true whenever the gateway refuses or serves, and messages changed on the way to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cryptography import x509

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import SignatureAlgorithm, signing_arguments
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.mac import mac_protected
from ra_gateway.cmp.messages import PKIMessage, assemble
from ra_gateway.cmp.protection import protected_part
from ra_gateway.cmp.verification import authenticate_answer
from ra_gateway.keys import KeySigner
from tests.support.answers import fail_names, status_of
from tests.support.credentials import cmp_certificate
from tests.support.harness import World
from tests.support.pki import Authority, Credential, PrivateKey

NONCE_OCTETS = 16


async def assert_refused(
    world: World,
    der: bytes,
    *fail_info: str,
    rule: str = "",
    body_type: BodyType = BodyType.error,
    pvno: int | None = None,
) -> PKIMessage:
    """Send octets that decode as a PKIMessage, and assert all that holds for a refusal (R113, R114, R160).

    Args:
        fail_info: Names of the failInfo bits expected.
        rule: What the event must name; any rule if empty.
        body_type: Of the answer.
        pvno: Of the answer; by default the request's.
    """
    request = PKIMessage.from_der(der)
    transaction_id = request.header.transaction_id
    forwarded = len(world.ca.received)
    stored = await world.store.find(transaction_id or b"")
    answer = await world.ask(der)
    assert (answer.body_type, tuple(fail_names(answer))) == (body_type, fail_info)
    assert status_of(answer).status is PKIStatus.rejection
    assert_answers(world, request, answer)
    assert answer.header.pvno == (request.header.pvno if pvno is None else pvno)
    assert len(world.ca.received) == forwarded
    assert await world.store.find(transaction_id or b"") == stored
    assert_logged(world, request, answer, rule=rule)
    return answer


def assert_answers(world: World, request: PKIMessage, answer: PKIMessage) -> None:
    """Assert that an answer is the RA's, belongs to the request and has a nonce of its own."""
    if mac_protected(answer):  # of a request whose MAC verified, whatever else was wrong with it
        assert answer.header.protection_alg_der == request.header.protection_alg_der
        assert (answer.header.sender_kid, answer.extra_certs) == (request.header.sender_kid, ())
    else:
        assert_signed(world, answer)
    assert answer.header.recipient_der == request.header.sender_der
    assert answer.header.transaction_id == request.header.transaction_id
    assert answer.header.recip_nonce == request.header.sender_nonce
    assert len(answer.header.sender_nonce or b"") == NONCE_OCTETS
    assert answer.header.sender_nonce != request.header.sender_nonce


def assert_signed(world: World, answer: PKIMessage) -> None:
    """Assert that the RA has signed an answer."""
    operator = world.endpoint.operator
    assert operator is not None
    ra = cmp_certificate(world.operator.ra.certificate)
    # A pkiConf may come without the certificates that its reader has since the answer before.
    bare = answer.body_type is BodyType.pkiconf and not answer.extra_certs
    known = (ra,) if bare else ()
    found = authenticate_answer(answer, operator, known, HeaderRules(), world.clock())
    assert found.signer == ra
    assert answer.header.sender_name_der == ra.subject_der
    assert answer.header.sender_kid == ra.subject_key_identifier


def assert_logged(world: World, request: PKIMessage, answer: PKIMessage, *, rule: str) -> None:
    """Assert that the event of a refusal tells what R160 wants, and the device none of the details."""
    event = world.events[-1]
    assert event.outcome == "refused"
    assert event.bug is None
    assert event.body_type == request.body_type.name
    assert event.transaction_id == (request.header.transaction_id or b"").hex()
    assert event.fail_info is not None
    assert [event.fail_info.name] == list(fail_names(answer))
    assert event.detail
    assert event.rule == rule if rule else event.rule
    # Whose certificate it is, is told once a domain has vouched for it and its signature verified.
    assert bool(event.signer_fingerprint) == bool(event.domain)
    assert len(status_of(answer).status_string) == 1
    assert event.detail.encode() not in answer.der


async def assert_served(world: World, der: bytes) -> PKIMessage:
    """Send a request and assert that it reached the CA and a certificate came back."""
    request = PKIMessage.from_der(der)
    forwarded = len(world.ca.received)
    answer = await world.ask(der)
    told = f"{answer.body_type.name} {status_of(answer)}: {world.events[-1].detail}"
    assert answer.body_type is CERT_RESPONSE_TO[request.body_type], told
    assert status_of(answer).issued, told
    assert len(world.ca.received) == forwarded + 1
    assert len(await world.store.find(request.header.transaction_id or b"")) == 1
    assert_answers(world, request, answer)
    return answer


# --- messages changed on the way ------------------------------------------------------------------------------


async def signed_again(
    der: bytes,
    signer: Credential | PrivateKey,
    *,
    algorithm: SignatureAlgorithm | None = None,
    body_der: bytes | None = None,
    extra_certs: Sequence[bytes] | None = None,
    **header: Any,
) -> bytes:
    """Return a message with fields changed and a signature that fits the change.

    Args:
        signer: Whose key signs; the header says what it said, unless `header` changes it.
        algorithm: To sign with; by default what fits the key.
        header: Fields of `PKIHeader`; protectionAlg follows the algorithm unless it is given.
    """
    message = PKIMessage.from_der(der)
    key = signer.private_key if isinstance(signer, Credential) else signer
    made_with = KeySigner(key, algorithm)
    fields = {"protection_alg_der": made_with.algorithm.der, **header}
    header_der = replace(message.header, **fields).to_der()
    body = message.body_der if body_der is None else body_der
    return assemble(
        header_der,
        body,
        await made_with.sign(protected_part(header_der, body)),
        message.extra_certs if extra_certs is None else extra_certs,
    )


def unsigned(
    der: bytes,
    *,
    protection: bytes | None = None,
    extra_certs: Sequence[bytes] | None = None,
    **header: Any,
) -> bytes:
    """Return a message with fields changed and whatever protection is given, by default none."""
    message = PKIMessage.from_der(der)
    return assemble(
        replace(message.header, **header).to_der() if header else message.header_der,
        message.body_der,
        protection,
        message.extra_certs if extra_certs is None else extra_certs,
    )


def with_extra_certs(der: bytes, extra_certs: Sequence[bytes]) -> bytes:
    """Return a message with other extraCerts: they are outside the protection, which stays as it is."""
    return unsigned(der, protection=PKIMessage.from_der(der).protection, extra_certs=extra_certs)


def resigned(
    certificate: x509.Certificate, issuer: Authority, algorithm: SignatureAlgorithm
) -> x509.Certificate:
    """Return a certificate signed again, also with an algorithm that `CertificateBuilder` refuses.

    Args:
        issuer: Has a key that fits the algorithm; its name is not looked at.
    """
    old = cmp_certificate(certificate)
    content = asn1.content(asn1.element(old.tbs_der))
    tbs_der = asn1.tlv(0x30, content.replace(old.algorithm_der, algorithm.der, 1))
    key: Any = issuer.private_key
    signature = key.sign(tbs_der, *signing_arguments(algorithm))
    return x509.load_der_x509_certificate(
        asn1.tlv(0x30, tbs_der, algorithm.der, asn1.tlv(0x03, b"\x00", signature))
    )
