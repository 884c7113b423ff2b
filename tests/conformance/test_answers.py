"""How the gateway says no, what the log learns of it, and what neither of them may show."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import SignatureAlgorithm
from ra_gateway.cmp.bodies import CertStatus, cert_confirm_body, cert_rep_message, error_msg_content
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.messages import PKIMessage, assemble, body
from ra_gateway.cmp.protection import Credential as CMPCredential
from ra_gateway.cmp.protection import protect
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.cmp.verification import authenticate_answer
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.values import Done, Send, operator_trust
from ra_gateway.errors import PKIFailureInfo, ServiceFailure, UpstreamUnavailable
from ra_gateway.events import RequestHandled
from ra_gateway.logs import LogSink
from ra_gateway.ra import authentication, authorization, pipeline, response_checks
from ra_gateway.ra.pipeline import Gateway
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.services import Services
from tests.support.answers import fail_names, follow, status_of
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.harness import MakeWorld, World, handled_only, make_gateway
from tests.support.pki import Credential, make_key, make_vendor_pki


async def signed(world: World, device: Credential, message: PKIMessage, **header: Any) -> bytes:
    """A message with a changed header, under the device's own protection."""
    credential = cmp_credential(device)
    return await protect(
        replace(message.header, **header), message.body_der, credential, credential.certificates
    )


# --- refusals -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that is refused, and all that is to be said about it.

    Args:
        make: Builds it.
        known: Whether the signer was authenticated, and so belongs into the log.
    """

    make: Callable[[World], Awaitable[bytes]]
    fail_info: str
    body_type: BodyType
    known: bool
    identity: IdentityRules | None = None


async def _made(world: World, **options: Any) -> tuple[Credential, PKIMessage]:
    device = options.pop("device", None) or world.device()
    enrollment = world.enrollment(device, **options)
    return device, PKIMessage.from_der(await enrollment.request())


def _header(**changes: Any) -> Callable[[World], Awaitable[bytes]]:
    async def make(world: World) -> bytes:
        device, message = await _made(world)
        return await signed(world, device, message, **changes)

    return make


def _request(**options: Any) -> Callable[[World], Awaitable[bytes]]:
    async def make(world: World) -> bytes:
        return (await _made(world, **options))[1].der

    return make


async def _unprotected(world: World) -> bytes:
    _, message = await _made(world)
    header = replace(message.header, protection_alg_der=None)
    return assemble(header.to_der(), message.body_der, None, message.extra_certs)


async def _flipped(world: World) -> bytes:
    _, message = await _made(world)
    spoilt = bytearray(message.protection or b"")
    spoilt[-1] ^= 1
    return assemble(message.header_der, message.body_der, bytes(spoilt), message.extra_certs)


async def _foreign(world: World) -> bytes:
    return await _request(device=make_vendor_pki("Foreign Radio").device())(world)


async def _expired(world: World) -> bytes:
    return await _request(device=world.device(not_after=datetime(2025, 1, 1, tzinfo=UTC)))(world)


async def _ca_as_device(world: World) -> bytes:
    sub = world.vendor.sub
    return await _request(device=Credential(sub.certificate, sub.private_key, sub.chain))(world)


async def _kur_by_vendor(world: World) -> bytes:
    return await _request(body_type=BodyType.kur)(world)


def _body(body_der: bytes) -> Callable[[World], Awaitable[bytes]]:
    async def make(world: World) -> bytes:
        device, message = await _made(world)
        return await signed(world, device, replace(message, body_der=body_der))

    return make


async def _bad_pop(world: World) -> bytes:
    device, message = await _made(world)
    spoilt = message.body_der[:-1] + bytes([message.body_der[-1] ^ 1])
    return await signed(world, device, replace(message, body_der=spoilt))


async def _bad_pop_of_kur(world: World) -> bytes:
    old = world.operator.device("enb-1.ran.example.net")
    device, message = await _made(world, device=old, body_type=BodyType.kur)
    spoilt = message.body_der[:-1] + bytes([message.body_der[-1] ^ 1])
    return await signed(world, device, replace(message, body_der=spoilt))


async def _bad_pop_of_cr(world: World) -> bytes:
    old = world.operator.device("enb-1.ran.example.net")
    subject = cmp_certificate(old.certificate).subject
    device, message = await _made(world, device=old, body_type=BodyType.cr, subject=subject)
    spoilt = message.body_der[:-1] + bytes([message.body_der[-1] ^ 1])
    return await signed(world, device, replace(message, body_der=spoilt))


async def _wrong_old_subject(world: World) -> bytes:
    old = world.operator.device("enb-1.ran.example.net")
    enrollment = world.enrollment(old, body_type=BodyType.cr, subject="CN=enb-2")
    return await enrollment.request()


async def _many_certificates(world: World) -> bytes:
    _, message = await _made(world)
    return assemble(
        message.header_der, message.body_der, message.protection, message.extra_certs * 20
    )


async def _bad_hash(world: World) -> bytes:
    device, message = await _made(world)
    answer = await world.ask(message.der)
    confirmation = cert_confirm_body(CertStatus(bytes(32), 0))
    return await follow(device, answer, confirmation, now=world.clock())


async def _in_use(world: World) -> bytes:
    device, message = await _made(world)
    await world.ask(message.der)
    return await signed(world, device, message, sender_nonce=secrets.token_bytes(16))


POLL_REQ = body(BodyType.pollReq, asn1.tlv(0x30, asn1.tlv(0x30, b"\x02\x01\x00")))


async def _no_id(world: World) -> bytes:
    """A request may have none (RFC 9810 5.1.1), what belongs to one may not."""
    device, message = await _made(world)
    return await signed(world, device, replace(message, body_der=POLL_REQ), transaction_id=None)


NOBODY = IdentityRules()

ERROR, IP = BodyType.error, BodyType.ip

REFUSALS: dict[str, Refusal] = {
    "pvno 1": Refusal(_header(pvno=1), "unsupportedVersion", ERROR, False),
    "pvno 4": Refusal(_header(pvno=4), "unsupportedVersion", ERROR, False),
    "no transactionID": Refusal(_no_id, "badDataFormat", ERROR, False),
    "no senderNonce": Refusal(_header(sender_nonce=None), "badSenderNonce", ERROR, False),
    "old": Refusal(_header(message_time=datetime(2025, 1, 1, tzinfo=UTC)), "badTime", ERROR, True),
    "ip": Refusal(_body(body(BodyType.ip, b"\x30\x00")), "badRequest", ERROR, False),
    "genm": Refusal(_body(body(BodyType.genm, b"\x30\x00")), "badRequest", ERROR, False),
    "pollReq": Refusal(_body(POLL_REQ), "badRequest", ERROR, False),
    "unprotected": Refusal(_unprotected, "badMessageCheck", ERROR, False),
    "flipped bit": Refusal(_flipped, "badMessageCheck", ERROR, False),
    "foreign vendor": Refusal(_foreign, "signerNotTrusted", ERROR, False),
    "expired": Refusal(_expired, "signerNotTrusted", ERROR, False),
    "many certificates": Refusal(_many_certificates, "badRequest", ERROR, False),
    "kur by vendor": Refusal(_kur_by_vendor, "signerNotTrusted", ERROR, False),
    "body does not parse": Refusal(
        _body(body(BodyType.ir, b"\x02\x01\x00")), "badDataFormat", IP, True
    ),
    "bad POP": Refusal(_bad_pop, "badPOP", IP, True),
    "bad POP in kur": Refusal(_bad_pop_of_kur, "badPOP", BodyType.kup, True),
    "bad POP in cr": Refusal(_bad_pop_of_cr, "badPOP", BodyType.cp, True),
    "weak key": Refusal(_request(new_key=make_key("rsa1024")), "badCertTemplate", IP, True),
    "subject not allowed": Refusal(_request(), "notAuthorized", IP, True, NOBODY),
    "other subject in cr": Refusal(_wrong_old_subject, "notAuthorized", BodyType.cp, True),
    "certHash": Refusal(_bad_hash, "badCertId", ERROR, True),
    "transactionID in use": Refusal(_in_use, "transactionIdInUse", ERROR, True),
}


@pytest.mark.requirement(96, 112, 113, 114, 160)
@pytest.mark.parametrize("case", REFUSALS)
async def test_a_refusal_is_signed_fits_its_request_and_is_logged(
    make_world: MakeWorld, case: str
) -> None:
    """Body, failInfo, nonces and one fixed phrase for the device; ID, signer, rule and cause for the log."""
    refusal = REFUSALS[case]
    world = make_world(**({"identity": refusal.identity} if refusal.identity else {}))
    request = PKIMessage.from_der(await refusal.make(world))
    asked = len(world.ca.received)
    answer = await world.ask(request.der)
    assert answer.body_type is refusal.body_type
    assert status_of(answer).status is PKIStatus.rejection
    assert fail_names(answer) == [refusal.fail_info]
    assert len(status_of(answer).status_string) == 1
    assert answer.header.transaction_id == request.header.transaction_id
    assert answer.header.recip_nonce == request.header.sender_nonce
    assert answer.header.recipient_der == request.header.sender_der
    assert answer.header.sender_nonce not in (None, request.header.sender_nonce)
    trust = operator_trust(cmp_certificate(world.operator.root.certificate))
    ra = cmp_certificate(world.operator.ra.certificate)
    rules = HeaderRules(strictness=Strictness.strict)
    assert authenticate_answer(answer, trust, (), rules, world.clock()).signer == ra
    if answer.body_type is not BodyType.error:
        response = cert_rep_message(answer.body_content).responses[0]
        assert (response.certificate_der, response.encrypted) == (None, False)
    assert len(world.ca.received) == asked
    event = world.events[-1]
    assert event.outcome == "refused"
    assert event.fail_info is PKIFailureInfo[refusal.fail_info]
    assert event.transaction_id == (request.header.transaction_id or b"").hex()
    assert event.rule
    assert event.detail
    assert event.detail.encode() not in answer.der
    signer = Certificate.from_der(request.extra_certs[0])
    assert event.signer_fingerprint == (signer.fingerprint.hex() if refusal.known else "")
    assert event.bug is None


@pytest.mark.requirement(89, 160)
@pytest.mark.parametrize("bits", [(PKIFailureInfo.badCertTemplate,), ()])
async def test_a_rejection_by_the_ca_is_logged_like_one_of_ours(
    world: World, bits: tuple[PKIFailureInfo, ...]
) -> None:
    """transactionID, signer, failInfo as the CA said it, and the rule by which it was passed on."""
    world.ca.script = lambda answer: answer.reject(*bits, text="profile full")
    device, message = await _made(world)
    await world.ask(message.der)
    event = world.events[-1]
    assert event.outcome == "refused"
    assert event.transaction_id == (message.header.transaction_id or b"").hex()
    assert event.signer_fingerprint == cmp_certificate(device.certificate).fingerprint.hex()
    assert event.fail_info is (bits[0] if bits else None)
    assert event.rule == "R89"
    assert "profile full" in event.detail


@pytest.mark.requirement(119)
async def test_a_poll_req_in_a_live_transaction_is_refused_as_well(world: World) -> None:
    """Nobody is ever told to wait here, so there is nothing to poll for; the operation goes on."""
    device, message = await _made(world)
    answer = await world.ask(message.der)
    refusal = await world.ask(await follow(device, answer, POLL_REQ, now=world.clock()))
    assert (refusal.body_type, fail_names(refusal)) == (BodyType.error, ["badRequest"])
    assert world.events[-1].rule == "R119"
    assert len(world.ca.received) == 1


@pytest.mark.requirement(3)
@pytest.mark.parametrize("pvno", [2, 3])
async def test_answers_and_refusals_have_the_version_of_the_request(
    world: World, pvno: int
) -> None:
    """2 for 2, 3 for 3."""
    assert (await world.ask(await _header(pvno=pvno)(world))).header.pvno == pvno
    refused = await world.ask(await _header(pvno=pvno, sender_nonce=None)(world))
    assert refused.header.pvno == pvno


@pytest.mark.requirement(37)
async def test_our_nonces_are_fresh(world: World) -> None:
    """Sixteen octets, another sixteen in every refusal, also to the same octets."""
    der = await _unprotected(world)
    nonces = {(await world.ask(der)).header.sender_nonce for _ in range(20)}
    assert len(nonces) == 20
    assert {len(nonce or b"") for nonce in nonces} == {16}


@pytest.mark.requirement(1, 113)
@pytest.mark.parametrize(
    "octets", [b"", b"0", b"\x30\x00", b"hello", b"\x30\x80" + bytes(64), bytes(5000)]
)
async def test_what_is_no_message_gets_an_unprotected_error(world: World, octets: bytes) -> None:
    """badDataFormat under a transactionID of our own, marked as not understood, and logged."""
    reply = await world.gateway.handle(octets, endpoint="ran", peer="192.0.2.7")
    answer = PKIMessage.from_der(reply.der)
    assert reply.understood is False
    assert answer.protection is None
    assert fail_names(answer) == ["badDataFormat"]
    assert len(answer.header.transaction_id or b"") == 16
    event = world.events[-1]
    assert (event.outcome, event.fail_info) == ("refused", PKIFailureInfo.badDataFormat)
    assert event.rule
    assert event.peer == "192.0.2.7"


# --- bugs, keys that do not sign, cancellation ----------------------------------------------------------------


INTERNAL = "psycopg.OperationalError: password authentication failed for user 'ra' at 10.0.0.7"


@pytest.mark.requirement(114, 159)
@pytest.mark.parametrize(
    "module,name",
    [
        (pipeline, "check_version"),
        (authentication, "authenticate"),
        (authorization, "read_request"),
        (authorization, "authorize"),
        (response_checks, "check_response"),
    ],
)
async def test_a_bug_is_a_system_failure_that_shows_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    """An exception nobody raised on purpose: signed systemFailure with the fixed phrase, the cause in the event."""

    def bug(*args: Any, **options: Any) -> None:
        raise KeyError(INTERNAL)

    monkeypatch.setattr(module, name, bug)
    answer = await world.ask(await _request()(world))
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])
    assert status_of(answer).status_string == (ServiceFailure.phrase,)
    content = error_msg_content(answer.body_content)
    assert (content.error_code, content.error_details) == (None, ())
    for secret in (b"psycopg", b"KeyError", b"10.0.0.7", name.encode()):
        assert secret not in answer.der
    assert answer.protection is not None
    event = world.events[-1]
    assert event.outcome == "failed"
    assert isinstance(event.bug, KeyError)
    assert event.rule == "bug"


def unusable(world: World, failure: BaseException) -> CMPCredential:
    """The RA's credential with a key that is gone."""

    @dataclass(frozen=True, slots=True)
    class Gone:
        algorithm: SignatureAlgorithm

        async def sign(self, octets: bytes) -> bytes:
            raise failure

    credential = cmp_credential(world.operator.ra)
    return replace(credential, signer=Gone(credential.signer.algorithm))


def failing_gateway(world: World, failure: BaseException) -> Gateway:
    """A gateway whose RA key is gone."""
    return make_gateway(
        world.endpoint,
        world.operator,
        world.store,
        world.clock,
        world.events,
        credential=unusable(world, failure),
    )


@pytest.mark.requirement(114)
@pytest.mark.parametrize("kind", ["good", "refused"])
async def test_a_key_that_cannot_sign_leaves_an_unprotected_error(world: World, kind: str) -> None:
    """An answer always leaves; it says systemFailure, or why the request was refused, and nothing internal."""
    gateway = failing_gateway(world, OSError("PKCS#11 token /dev/hsm0: CKR_PIN_LOCKED"))
    der = await (_request() if kind == "good" else _unprotected)(world)
    answer = await world.ask(der, gateway=gateway)
    assert answer.body_type is BodyType.error
    assert fail_names(answer) == ["systemFailure" if kind == "good" else "badMessageCheck"]
    assert (answer.protection, answer.header.protection_alg_der) == (None, None)
    assert answer.header.recip_nonce == PKIMessage.from_der(der).header.sender_nonce
    assert b"/dev/hsm0" not in answer.der
    assert "could not be signed" in world.events[-1].detail
    assert world.ca.received == []


@pytest.mark.requirement(114)
async def test_a_credential_that_cannot_be_had_leaves_an_unprotected_error(world: World) -> None:
    """The same when not even the certificate can be loaded."""

    def gone() -> Any:
        raise FileNotFoundError("/etc/ra-gateway/ra.key")

    gateway = Gateway(
        Services(
            endpoints={"ran": world.endpoint},
            credential=gone,
            store=world.store,
            clock=world.clock,
            monotonic=lambda: 0.0,
            random_octets=secrets.token_bytes,
            sink=handled_only(world.events.append),
        )
    )
    answer = await world.ask(await _request()(world), gateway=gateway)
    assert (answer.protection, fail_names(answer)) == (None, ["systemFailure"])
    assert b"ra.key" not in answer.der


@pytest.mark.parametrize("where", ["sign", "exchange"])
async def test_cancellation_leaves_as_cancellation(world: World, where: str) -> None:
    """It is no bug to be answered: whoever cancels wants nothing more."""
    gateway = world.gateway
    if where == "sign":
        gateway = failing_gateway(world, asyncio.CancelledError())
    else:
        world.ca.gate = asyncio.Event()
    task = asyncio.create_task(gateway.handle(await _request()(world), endpoint="ran"))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.events == []


@pytest.mark.requirement(114, 160)
async def test_a_signer_whose_name_cannot_be_written_is_answered_and_logged(world: World) -> None:
    """A vendor left out what its subject consists of: the certificate verifies, its name is shown in hex."""
    usual = world.device("ENB-1")
    issuer: Any = world.vendor.sub.private_key
    certificate = cmp_certificate(usual.certificate)
    common_name = bytes.fromhex("310e300c06035504030c05") + b"ENB-1"
    tbs_der = certificate.tbs_der.replace(common_name, b"\x31\x00" * 8)
    signature = issuer.sign(tbs_der, ec.ECDSA(hashes.SHA256()))
    der = asn1.tlv(0x30, tbs_der, certificate.algorithm_der, asn1.tlv(0x03, b"\x00", signature))
    device = Credential(x509.load_der_x509_certificate(der), usual.private_key, usual.chain)
    answer = await world.ask(await _request(device=device)(world))
    assert answer.body_type is BodyType.ip
    event = world.events[-1]
    assert (event.outcome, event.signer) == (
        "issued",
        f"#{Certificate.from_der(der).subject_der.hex()}",
    )
    assert event.signer_fingerprint == hashlib.sha256(der).hexdigest()


# --- secrets --------------------------------------------------------------------------------------------------


@contextmanager
def captured_log() -> Iterator[io.StringIO]:
    """Everything that structlog writes, at level debug."""
    before = structlog.get_config()
    text = io.StringIO()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        logger_factory=structlog.WriteLoggerFactory(file=text),
        cache_logger_on_first_use=False,
    )
    try:
        yield text
    finally:
        structlog.configure(**before)


def private_forms(key: Any) -> list[bytes]:
    """A private key in every form it might be written in."""
    pkcs8 = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    scalar = key.private_numbers().private_value
    raw = scalar.to_bytes(32, "big")
    texts = [pkcs8.hex(), raw.hex(), str(scalar), f"{scalar:x}", repr(raw)[2:-1]]
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).splitlines()[1]
    return [pkcs8, raw, pem, *(text.encode() for text in texts)]


@pytest.mark.requirement(159, 160)
async def test_no_private_key_is_in_any_answer_or_log_line(world: World) -> None:
    """Good, refused and failed operations, at level debug, with the stack trace of a failing RA key."""
    key = make_key("p256")
    device = world.device()
    answers: list[bytes] = []
    events: list[RequestHandled] = []
    with captured_log() as log:
        write = LogSink()

        def sink(event: RequestHandled) -> None:
            events.append(event)
            write(event)

        gateway, broken = (
            make_gateway(
                world.endpoint,
                world.operator,
                world.store,
                world.clock,
                events,
                credential=credential,
                sink=sink,
            )
            for credential in (None, unusable(world, OSError("PIN 1234 is locked")))
        )
        await _enrol(world, world.enrollment(device, new_key=key), gateway, answers)
        for refusal in REFUSALS.values():
            answers.append(await world.post(await refusal.make(world), gateway=gateway))
        world.ca.failure, world.ca.failures = UpstreamUnavailable("away", delivered=False), 1
        answers.append(await world.post(await _request()(world), gateway=gateway))
        answers.append(await world.post(await _request()(world), gateway=broken))
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert len(lines) == len(events) == len(answers)
    assert "Traceback" in log.getvalue()
    output = b"".join(answers) + log.getvalue().encode()
    keys = (key, device.private_key, world.operator.ra.private_key, world.vendor.sub.private_key)
    for private_key in keys:
        for form in private_forms(private_key):
            assert form not in output
    assert b"PRIVATE KEY" not in output
    assert {line["level"] for line in lines} == {"info", "warning", "error"}
    refused = [line for line in lines if line["outcome"] == "refused"]
    # The one refused message without a transactionID is the one that was refused for it.
    assert all({"fail_info", "rule", "detail", "transaction_id"} <= set(line) for line in refused)
    assert [line["fail_info"] for line in refused if not line["transaction_id"]] == [
        "badDataFormat"
    ]


async def _enrol(
    world: World, enrollment: Enrollment, gateway: Gateway, answers: list[bytes]
) -> None:
    der = await enrollment.request()
    while True:
        answers.append(await world.post(der, gateway=gateway))
        step = await enrollment.receive(answers[-1])
        if isinstance(step, Done):
            return
        assert isinstance(step, Send)
        der = step.der
