"""certConf and pkiConf: what closes an operation, and what leaves it as it was (RFC 9483 4.1.1, 3.2)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import digest
from ra_gateway.cmp.bodies import (
    PKICONF_BODY,
    CertStatus,
    PKIStatusInfo,
    cert_confirm_body,
    cert_confirm_content,
    cert_rep_message,
    error_body,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.messages import IMPLICIT_CONFIRM, PKIMessage, assemble, body, confirm_wait_time
from ra_gateway.cmp.names import directory_name
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.verification import authenticate_answer
from ra_gateway.device.values import Send, operator_trust
from ra_gateway.errors import PKIFailureInfo, UpstreamBroken, UpstreamUnavailable
from ra_gateway.ra.settings import CertConf, ImplicitConfirm
from ra_gateway.ra.transaction import State
from tests.support.answers import fail_names, follow, status_of
from tests.support.credentials import cmp_certificate
from tests.support.harness import Answer, MakeWorld, World
from tests.support.pki import (
    Credential,
    KeyKind,
    VendorPKI,
    make_key,
    make_operator_pki,
)

SHA256 = "2.16.840.1.101.3.4.2.1"
SHA512 = "2.16.840.1.101.3.4.2.3"


@dataclass(frozen=True, slots=True)
class Issued:
    """A base station that got its ip and has not confirmed yet."""

    world: World
    device: Credential
    key: Any
    answer: PKIMessage

    @property
    def certificate(self) -> Certificate:
        response = cert_rep_message(self.answer.body_content).responses[0]
        return Certificate.from_der(response.certificate_der or b"")

    def status(self, hash_name: str = "sha256", **changes: Any) -> CertStatus:
        """The CertStatus that belongs there, with fields changed."""
        return replace(CertStatus(digest(hash_name, self.certificate.der), 0), **changes)

    async def cert_conf(
        self,
        status: CertStatus | None = None,
        *,
        signer: Credential | None = None,
        body_der: bytes | None = None,
        **header: Any,
    ) -> bytes:
        """The certConf that belongs there, with anything changed."""
        body_der = body_der or cert_confirm_body(status or self.status())
        return await follow(
            signer or self.device, self.answer, body_der, now=self.world.clock(), **header
        )

    async def state(self) -> State:
        (transaction,) = await self.world.store.find(self.answer.header.transaction_id or b"")
        return transaction.state


async def issue(world: World, **options: Any) -> Issued:
    """Bring a base station to the point where certConf is due."""
    device, key = world.device(), make_key("p256")
    enrollment = world.enrollment(device, new_key=key, **options)
    answer = await world.ask(await enrollment.request())
    assert status_of(answer).issued
    return Issued(world, device, key, answer)


def confirmations(world: World) -> list[PKIMessage]:
    """The certConfs that reached the CA."""
    return [m for m in world.ca.messages if m.body_type is BodyType.certConf]


async def still_confirms(issued: Issued) -> None:
    """A good certConf works whatever was refused before."""
    forwarded = len(confirmations(issued.world))
    answer = await issued.world.ask(await issued.cert_conf())
    assert answer.body_type is BodyType.pkiconf
    assert await issued.state() is State.CONFIRMED
    assert len(confirmations(issued.world)) == forwarded + 1


async def assert_refused(issued: Issued, der: bytes, *names: str) -> PKIMessage:
    """A certConf is refused with an error, nothing goes up, and the transaction lives on."""
    answer = await issued.world.ask(der)
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, list(names))
    assert status_of(answer).status is PKIStatus.rejection
    assert confirmations(issued.world) == []
    await still_confirms(issued)
    return answer


# --- what the ip says about confirmation ----------------------------------------------------------------------


@pytest.mark.requirement(98)
async def test_an_ip_that_awaits_cert_conf_says_until_when(make_world: MakeWorld) -> None:
    """confirmWaitTime is as configured, messageTime is there, implicitConfirm is not."""
    world = make_world(endpoint={"confirm_wait_seconds": 120})
    header = (await issue(world)).answer.header
    assert header.message_time == world.clock()
    assert header.general_info == (confirm_wait_time(world.clock() + timedelta(seconds=120)),)


@pytest.mark.requirement(98)
async def test_a_ca_s_own_confirm_wait_time_is_passed_on(world: World) -> None:
    """The CA knows how long it waits."""
    theirs = confirm_wait_time(world.clock() + timedelta(seconds=77))

    def script(answer: Answer) -> None:
        answer.header = replace(answer.header, general_info=(theirs,))

    world.ca.script = script
    assert (await issue(world)).answer.header.general_info == (theirs,)


@pytest.mark.requirement(98, 99)
async def test_a_granting_ip_has_no_confirm_wait_time(make_world: MakeWorld) -> None:
    """Never both, even when the CA sends both."""
    world = make_world(endpoint={"implicit_confirm": ImplicitConfirm.relay})
    both = (IMPLICIT_CONFIRM, confirm_wait_time(world.clock()))

    def script(answer: Answer) -> None:
        answer.header = replace(answer.header, general_info=both)

    world.ca.script = script
    issued = await issue(world, implicit_confirm=True)
    assert issued.answer.header.general_info == (IMPLICIT_CONFIRM,)
    assert await issued.state() is State.GRANTED


# --- a good certConf ------------------------------------------------------------------------------------------


@pytest.mark.requirement(100)
async def test_a_cert_conf_is_answered_with_the_ra_s_pki_conf(world: World) -> None:
    """NULL body, the CA's nonce, the credential that signed the ip; the transaction is closed."""
    issued = await issue(world)
    request = PKIMessage.from_der(await issued.cert_conf())
    answer = await world.ask(request.der)
    assert answer.body_der == PKICONF_BODY
    assert answer.header.transaction_id == request.header.transaction_id
    assert answer.header.recip_nonce == request.header.sender_nonce
    assert len(answer.header.sender_nonce or b"") == 16
    assert answer.header.sender_nonce != issued.answer.header.sender_nonce
    assert answer.header.recipient_der == request.header.sender_der
    assert answer.header.general_info == ()
    trust = operator_trust(cmp_certificate(world.operator.root.certificate))
    signers = {
        authenticate_answer(item, trust, (), HeaderRules(), world.clock()).signer
        for item in (issued.answer, answer)
    }
    assert signers == {cmp_certificate(world.operator.ra.certificate)}
    assert await issued.state() is State.CONFIRMED
    assert world.events[-1].outcome == "confirmed"


@pytest.mark.requirement(34, "T50")
async def test_a_cert_conf_may_come_without_certificates(world: World) -> None:
    """The signer is remembered from the ir."""
    issued = await issue(world)
    answer = await world.ask(await issued.cert_conf(extra_certs=False))
    assert answer.body_type is BodyType.pkiconf


@pytest.mark.requirement(100)
async def test_a_status_info_that_accepts_is_as_good_as_none(world: World) -> None:
    """RFC 9810 5.3.18: statusInfo may be left out, and need not be."""
    issued = await issue(world)
    status = issued.status(status_info=PKIStatusInfo(PKIStatus.accepted))
    answer = await world.ask(await issued.cert_conf(status))
    assert answer.body_type is BodyType.pkiconf
    assert await issued.state() is State.CONFIRMED


@pytest.mark.requirement(101)
async def test_a_device_may_reject_its_certificate(world: World) -> None:
    """The CA is told in the device's own words, the device gets pkiConf, and the log says what happened."""
    issued = await issue(world)
    refusal = PKIStatusInfo(PKIStatus.rejection, ("wrong name",), (PKIFailureInfo.badCertTemplate,))
    der = await issued.cert_conf(issued.status(status_info=refusal))
    answer = await world.ask(der)
    assert answer.body_type is BodyType.pkiconf
    (forwarded,) = confirmations(world)
    assert cert_confirm_content(forwarded.body_content)[0].status_info == refusal
    assert await issued.state() is State.REJECTED
    assert world.events[-1].outcome == "rejected"


@pytest.mark.requirement(109)
async def test_a_repeated_cert_conf_gets_the_stored_octets(world: World) -> None:
    """However often and at whichever node; the CA is asked once."""
    issued = await issue(world)
    der = await issued.cert_conf()
    first = await world.post(der)
    world.clock.move(seconds=1800)
    assert await world.post(der) == first
    assert await world.post(der, gateway=world.second_gateway()) == first
    assert len(confirmations(world)) == 1
    assert [event.outcome for event in world.events[1:]] == ["confirmed", "replayed", "replayed"]


@pytest.mark.requirement(109)
async def test_concurrent_repeats_of_a_cert_conf_are_one(world: World) -> None:
    """Ten at once at two nodes: one message to the CA, one answer to all."""
    issued = await issue(world)
    der = await issued.cert_conf()
    world.ca.gate = asyncio.Event()
    nodes = [world.gateway, world.second_gateway()]
    tasks = [asyncio.create_task(world.post(der, gateway=nodes[i % 2])) for i in range(10)]
    await asyncio.sleep(0.01)
    world.ca.gate.set()
    assert len(set(await asyncio.gather(*tasks))) == 1
    assert len(confirmations(world)) == 1


@pytest.mark.requirement(109)
@pytest.mark.parametrize("rejecting", [False, True])
async def test_another_cert_conf_after_the_end_is_told_so(world: World, rejecting: bool) -> None:
    """certConfirmed, whether it would accept or reject; nothing more goes up."""
    issued = await issue(world)
    await world.ask(await issued.cert_conf())
    info = PKIStatusInfo(PKIStatus.rejection) if rejecting else None
    answer = await world.ask(await issued.cert_conf(issued.status(status_info=info)))
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["certConfirmed"])
    assert len(confirmations(world)) == 1
    assert await issued.state() is State.CONFIRMED


@pytest.mark.requirement(109)
async def test_two_different_cert_confs_at_once_have_one_winner(world: World) -> None:
    """The other is told certConfirmed, as if it had come later."""
    issued = await issue(world)
    world.ca.gate = asyncio.Event()
    tasks = [
        asyncio.create_task(world.ask(await issued.cert_conf(), gateway=gateway))
        for gateway in (world.gateway, world.second_gateway())
    ]
    await asyncio.sleep(0.01)
    world.ca.gate.set()
    answers = sorted(await asyncio.gather(*tasks), key=lambda answer: answer.body_type)
    assert [answer.body_type for answer in answers] == [BodyType.pkiconf, BodyType.error]
    assert fail_names(answers[1]) == ["certConfirmed"]
    assert len(confirmations(world)) == 1


@pytest.mark.requirement(110)
async def test_a_cert_conf_after_an_implicit_grant_is_told_so(make_world: MakeWorld) -> None:
    """certConfirmed: there is nothing left to confirm."""
    world = make_world(endpoint={"implicit_confirm": ImplicitConfirm.relay})
    issued = await issue(world, implicit_confirm=True)
    answer = await world.ask(await issued.cert_conf())
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["certConfirmed"])
    assert confirmations(world) == []
    assert world.events[-1].rule == "R110"


@pytest.mark.requirement(80)
@pytest.mark.parametrize("rejecting", [False, True])
async def test_a_cert_conf_answered_here_does_not_go_up(
    make_world: MakeWorld, rejecting: bool
) -> None:
    """certconf = local: checked and answered by the RA, with a nonce of its own."""
    world = make_world(upstream={"certconf": CertConf.local})
    issued = await issue(world)
    bad = await world.ask(await issued.cert_conf(issued.status(cert_hash=bytes(32))))
    assert fail_names(bad) == ["badCertId"]
    info = PKIStatusInfo(PKIStatus.rejection) if rejecting else None
    request = PKIMessage.from_der(await issued.cert_conf(issued.status(status_info=info)))
    answer = await world.ask(request.der)
    assert answer.body_der == PKICONF_BODY
    assert answer.header.recip_nonce == request.header.sender_nonce
    assert len(answer.header.sender_nonce or b"") == 16
    assert confirmations(world) == []
    assert await issued.state() is (State.REJECTED if rejecting else State.CONFIRMED)
    assert await world.post(request.der) == answer.der


# --- certHash -------------------------------------------------------------------------------------------------


@pytest.mark.requirement(102)
@pytest.mark.parametrize("cert_hash", [b"", bytes(32), hashlib.sha512(b"x").digest()])
async def test_a_wrong_cert_hash_confirms_nothing(world: World, cert_hash: bytes) -> None:
    """badCertId; the right one still works afterwards."""
    issued = await issue(world)
    der = await issued.cert_conf(issued.status(cert_hash=cert_hash))
    await assert_refused(issued, der, "badCertId")
    assert [event.rule for event in world.events if event.fail_info] == ["R102"]


@pytest.mark.requirement(103)
@pytest.mark.parametrize("hash_name, oid", [("sha256", SHA256), ("sha512", SHA512)])
async def test_hash_alg_is_honoured_in_version_3(world: World, hash_name: str, oid: str) -> None:
    """The named hash counts, not the certificate's."""
    issued = await issue(world)
    named = structures.AlgorithmIdentifier(algorithm=asn1.oid(oid), parameters=None)
    der = await issued.cert_conf(issued.status(hash_name, hash_alg=named), pvno=3)
    answer = await world.ask(der)
    assert (answer.body_type, answer.header.pvno) == (BodyType.pkiconf, 3)


@pytest.mark.requirement(103)
async def test_hash_alg_in_version_3_is_not_just_decoration(world: World) -> None:
    """The certificate's own hash under another name is wrong."""
    issued = await issue(world)
    named = structures.AlgorithmIdentifier(algorithm=asn1.oid(SHA512), parameters=None)
    der = await issued.cert_conf(issued.status(hash_alg=named), pvno=3)
    await assert_refused(issued, der, "badCertId")


@pytest.mark.requirement(103)
async def test_hash_alg_needs_version_3(world: World) -> None:
    """badRequest under version 2, right or not."""
    issued = await issue(world)
    named = structures.AlgorithmIdentifier(algorithm=asn1.oid(SHA256), parameters=None)
    await assert_refused(
        issued, await issued.cert_conf(issued.status(hash_alg=named)), "badRequest"
    )


@pytest.mark.requirement(103)
async def test_an_unknown_hash_alg_is_refused(world: World) -> None:
    """badAlg for an OID that is no hash."""
    issued = await issue(world)
    named = structures.AlgorithmIdentifier(algorithm=asn1.oid(OID.cmcRA), parameters=None)
    der = await issued.cert_conf(issued.status(hash_alg=named), pvno=3)
    await assert_refused(issued, der, "badAlg")


@pytest.mark.requirement(104, 157)
@pytest.mark.parametrize(
    "kind, hash_name, wrong",
    [
        ("p256", "sha256", "sha512"),
        ("p384", "sha384", "sha256"),
        ("p521", "sha512", "sha256"),
        ("rsa2048", "sha256", "sha512"),
        ("ed25519", "sha512", "sha256"),
        ("ed448", "shake256", "sha512"),
        ("mldsa44", "sha512", "sha256"),
        ("mldsa65", "sha512", "sha256"),
    ],
)
async def test_the_hash_follows_the_signature_of_the_certificate(
    vendor_pki: VendorPKI, kind: KeyKind, hash_name: str, wrong: str
) -> None:
    """Whatever key the issuing CA has; another hash is badCertId."""
    world = World.make(vendor_pki, make_operator_pki("Other Keys", kind))
    issued = await issue(world)
    bad = await world.ask(await issued.cert_conf(issued.status(wrong)))
    assert fail_names(bad) == ["badCertId"]
    answer = await world.ask(await issued.cert_conf(issued.status(hash_name)))
    assert answer.body_type is BodyType.pkiconf


# --- what does not fit ----------------------------------------------------------------------------------------


@pytest.mark.requirement(107)
@pytest.mark.parametrize("cert_req_id", [-1, 1, 2**64])
async def test_a_cert_conf_names_the_request_it_is_about(world: World, cert_req_id: int) -> None:
    """badRequest for any certReqId but the request's."""
    issued = await issue(world)
    der = await issued.cert_conf(issued.status(cert_req_id=cert_req_id))
    await assert_refused(issued, der, "badRequest")


@pytest.mark.requirement(106)
async def test_a_cert_conf_has_one_cert_status(world: World) -> None:
    """badRequest for two, even for the same twice."""
    issued = await issue(world)
    content = asn1.content(asn1.element(cert_confirm_body(issued.status())))
    (status_der,) = [asn1.content(asn1.element(content))]
    der = await issued.cert_conf(body_der=body(BodyType.certConf, asn1.tlv(0x30, status_der * 2)))
    await assert_refused(issued, der, "badRequest")


@pytest.mark.requirement(108)
async def test_accepting_with_fail_info_is_a_contradiction(world: World) -> None:
    """badRequest."""
    issued = await issue(world)
    info = PKIStatusInfo(PKIStatus.accepted, (), (PKIFailureInfo.badRequest,))
    der = await issued.cert_conf(issued.status(status_info=info))
    await assert_refused(issued, der, "badRequest")


@pytest.mark.requirement(1)
async def test_a_cert_conf_that_does_not_parse_is_refused(world: World) -> None:
    """badDataFormat; it was signed by the right device all the same."""
    issued = await issue(world)
    der = await issued.cert_conf(body_der=body(BodyType.certConf, b"\x02\x01\x00"))
    await assert_refused(issued, der, "badDataFormat")


@pytest.mark.requirement(8)
@pytest.mark.parametrize("nonce", [None, b"", bytes(16), bytes(15)])
async def test_a_cert_conf_returns_the_nonce_of_the_ip(world: World, nonce: bytes | None) -> None:
    """badRecipientNonce otherwise."""
    issued = await issue(world)
    der = await issued.cert_conf(recip_nonce=nonce)
    await assert_refused(issued, der, "badRecipientNonce")


@pytest.mark.requirement(6)
@pytest.mark.parametrize("nonce", [None, bytes(15)])
async def test_a_cert_conf_has_a_nonce_of_its_own(world: World, nonce: bytes | None) -> None:
    """badSenderNonce for none or a short one."""
    issued = await issue(world)
    await assert_refused(issued, await issued.cert_conf(sender_nonce=nonce), "badSenderNonce")


@pytest.mark.requirement(29)
@pytest.mark.parametrize("off", [-301, 301])
async def test_a_cert_conf_has_a_current_message_time(world: World, off: int) -> None:
    """badTime outside the window."""
    issued = await issue(world)
    moment: datetime = world.clock() + timedelta(seconds=off)
    await assert_refused(issued, await issued.cert_conf(message_time=moment), "badTime")


@pytest.mark.requirement(11)
async def test_a_cert_conf_for_an_unknown_transaction_is_refused(world: World) -> None:
    """badRequest, signed, with the transactionID it came with."""
    issued = await issue(world)
    der = await issued.cert_conf(transaction_id=bytes(16))
    answer = await assert_refused(issued, der, "badRequest")
    assert answer.header.transaction_id == bytes(16)


@pytest.mark.requirement(11, 107)
async def test_a_cert_conf_after_a_rejection_is_refused(world: World) -> None:
    """badRequest: there is nothing to confirm, and there never was."""
    world.ca.script = lambda answer: answer.reject(PKIFailureInfo.badCertTemplate)
    device = world.device()
    answer = await world.ask(await world.enrollment(device).request())
    der = await follow(
        device, answer, cert_confirm_body(CertStatus(bytes(32), 0)), now=world.clock()
    )
    refusal = await world.ask(der)
    assert (refusal.body_type, fail_names(refusal)) == (BodyType.error, ["badRequest"])
    assert confirmations(world) == []


@pytest.mark.requirement(11)
async def test_a_cert_conf_before_the_ip_is_refused(world: World) -> None:
    """badRequest while the CA is being asked; the certificate comes all the same."""
    world.ca.gate = asyncio.Event()
    device = world.device()
    request = PKIMessage.from_der(await world.enrollment(device).request())
    first = asyncio.create_task(world.ask(request.der))
    await asyncio.sleep(0.01)
    status = cert_confirm_body(CertStatus(bytes(32), 0))
    refusal = await world.ask(await follow(device, request, status, now=world.clock()))
    assert (refusal.body_type, fail_names(refusal)) == (BodyType.error, ["badRequest"])
    world.ca.gate.set()
    issued = Issued(world, device, None, await first)
    await still_confirms(issued)


# --- who confirms ---------------------------------------------------------------------------------------------


@pytest.mark.requirement(35, 105, "T49")
async def test_the_new_key_does_not_confirm_itself(world: World) -> None:
    """certConf is protected by the key that protected the ir (RFC 9483 4.1.1)."""
    issued = await issue(world)
    new = Credential(
        world.operator.issuing.sign("CN=enb-1.ran.example.net", issued.key.public_key()),
        issued.key,
        (world.operator.issuing.certificate,),
    )
    await assert_refused(issued, await issued.cert_conf(signer=new), "badMessageCheck")


@pytest.mark.requirement(35)
@pytest.mark.parametrize("names_itself", [True, False])
async def test_another_trusted_device_confirms_nothing(world: World, names_itself: bool) -> None:
    """Right IDs and nonces do not help, neither does the victim's name and certificate."""
    issued = await issue(world)
    other = world.device("ENB-2")
    if names_itself:
        await assert_refused(issued, await issued.cert_conf(signer=other), "badMessageCheck")
        return
    disguised = Credential(issued.device.certificate, other.private_key, issued.device.chain)
    await assert_refused(issued, await issued.cert_conf(signer=disguised), "badMessageCheck")


@pytest.mark.requirement(35)
async def test_a_twin_of_the_certificate_is_the_same_signer(world: World) -> None:
    """Same name, same key, another certificate: it is the key that must be the one that asked."""
    issued = await issue(world)
    twin = world.vendor.device("ENB-1", issued.device.private_key)
    answer = await world.ask(await issued.cert_conf(signer=twin))
    assert answer.body_type is BodyType.pkiconf


@pytest.mark.requirement(13, 14)
@pytest.mark.parametrize("part", ["protection", "protectionAlg"])
async def test_a_cert_conf_is_protected(world: World, part: str) -> None:
    """badMessageCheck without protection."""
    issued = await issue(world)
    message = PKIMessage.from_der(await issued.cert_conf())
    header = message.header
    if part == "protectionAlg":
        header = replace(header, protection_alg_der=None)
    der = assemble(header.to_der(), message.body_der, None, message.extra_certs)
    await assert_refused(issued, der, "badMessageCheck")


@pytest.mark.requirement(22)
async def test_a_signer_that_expired_meanwhile_confirms_nothing(make_world: MakeWorld) -> None:
    """signerNotTrusted: what was valid for the ir must be so for the certConf."""
    world = make_world()
    device = world.device(not_after=world.clock() + timedelta(seconds=100))
    answer = await world.ask(await world.enrollment(device).request())
    world.clock.move(seconds=101)
    issued = Issued(world, device, None, answer)
    refusal = await world.ask(await issued.cert_conf())
    assert fail_names(refusal) == ["signerNotTrusted"]
    assert confirmations(world) == []


@pytest.mark.requirement(147)
async def test_a_cert_conf_belongs_to_the_endpoint_of_its_request(world: World) -> None:
    """Another endpoint knows nothing of the transaction, though it shares the store."""
    issued = await issue(world)
    other = world.second_gateway(replace(world.endpoint, name="ran"))
    elsewhere = replace(world.endpoint, name="elsewhere")
    gateway = world.second_gateway(elsewhere)
    reply = await gateway.handle(await issued.cert_conf(), endpoint="elsewhere")
    assert fail_names(PKIMessage.from_der(reply.der)) == ["badRequest"]
    answer = await world.ask(await issued.cert_conf(), gateway=other)
    assert answer.body_type is BodyType.pkiconf


# --- too late -------------------------------------------------------------------------------------------------


@pytest.mark.requirement(111)
async def test_a_cert_conf_after_the_transaction_is_refused(world: World) -> None:
    """When the transaction is forgotten, its certificate stays unconfirmed."""
    issued = await issue(world)
    world.clock.move(seconds=3601)
    refusal = await world.ask(await issued.cert_conf())
    assert fail_names(refusal) == ["badRequest"]
    assert confirmations(world) == []


@pytest.mark.requirement(111)
async def test_a_cert_conf_after_confirm_wait_time_is_not_confirmed_here(
    make_world: MakeWorld,
) -> None:
    """Where the RA itself confirms, nobody else would notice that it came too late; a rejection never is."""
    world = make_world(upstream={"certconf": CertConf.local})
    issued = await issue(world)
    in_time = await issue(world)
    world.clock.move(seconds=300)
    assert (await world.ask(await in_time.cert_conf())).body_type is BodyType.pkiconf
    world.clock.move(seconds=1)
    refusal = await world.ask(await issued.cert_conf())
    assert (refusal.body_type, fail_names(refusal)) == (BodyType.error, ["badRequest"])
    assert world.events[-1].rule == "R111"
    rejection = issued.status(status_info=PKIStatusInfo(PKIStatus.rejection))
    assert (await world.ask(await issued.cert_conf(rejection))).body_type is BodyType.pkiconf
    assert await issued.state() is State.REJECTED


@pytest.mark.requirement(111)
async def test_a_late_cert_conf_is_the_ca_s_to_judge_where_the_ca_confirms(world: World) -> None:
    """It goes up, and its answer comes down."""
    issued = await issue(world)
    world.clock.move(seconds=301)
    assert (await world.ask(await issued.cert_conf())).body_type is BodyType.pkiconf
    assert len(confirmations(world)) == 1


# --- the CA and certConf --------------------------------------------------------------------------------------


@pytest.mark.requirement(90, 109)
@pytest.mark.parametrize("delivered", [True, False])
async def test_a_ca_that_is_away_during_cert_conf_is_asked_again(
    world: World, delivered: bool
) -> None:
    """systemUnavail, then the device's repeat goes up as it was, and is answered."""
    issued = await issue(world)
    world.ca.failure, world.ca.failures = UpstreamUnavailable("away", delivered=delivered), 2
    der = await issued.cert_conf()
    for _ in range(2):
        refusal = await world.ask(der)
        assert (refusal.body_type, fail_names(refusal)) == (BodyType.error, ["systemUnavail"])
        assert await issued.state() is State.CONFIRMING
    answer = await world.ask(der)
    assert answer.body_type is BodyType.pkiconf
    assert await issued.state() is State.CONFIRMED
    assert len(set(world.ca.received[1:])) == 1


def _another_nonce(answer: Answer) -> None:
    answer.header = replace(answer.header, recip_nonce=bytes(16))


def _another_id(answer: Answer) -> None:
    answer.header = replace(answer.header, transaction_id=bytes(16))


def _unprotected(answer: Answer) -> None:
    answer.protected = False


def _garbage(answer: Answer) -> None:
    answer.octets = b"garbage"


def _foreign_sender(answer: Answer) -> None:
    answer.header = replace(answer.header, sender_der=directory_name(b"\x30\x00"))
    answer.extra_certs = ()


@pytest.mark.requirement(83, 84, 85)
@pytest.mark.parametrize(
    "script", [_another_nonce, _another_id, _unprotected, _garbage, _foreign_sender]
)
async def test_a_broken_pki_conf_is_not_relayed(
    world: World, script: Callable[[Answer], None]
) -> None:
    """The device is told that we failed, and nothing of what the CA said."""
    issued = await issue(world)
    world.ca.script = script
    answer = await world.ask(await issued.cert_conf())
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])
    assert status_of(answer).status_string == (UpstreamBroken.phrase,)
    assert world.events[-1].outcome == "failed"
    assert await issued.state() is not State.CONFIRMED


# --- error from a device --------------------------------------------------------------------------------------


async def device_error(issued: Issued, **options: Any) -> bytes:
    info = PKIStatusInfo(PKIStatus.rejection, ("no",), (PKIFailureInfo.incorrectData,))
    return await follow(
        options.pop("signer", issued.device),
        issued.answer,
        error_body(info),
        now=issued.world.clock(),
        **options,
    )


@pytest.mark.requirement(115)
async def test_an_error_from_the_device_ends_the_transaction(world: World) -> None:
    """pkiConf, nothing goes up, a repeat gets the same octets, and a certConf comes too late."""
    issued = await issue(world)
    der = await device_error(issued)
    answer = await world.ask(der)
    assert answer.body_der == PKICONF_BODY
    assert await world.post(der) == answer.der
    assert await issued.state() is State.REJECTED
    assert world.events[0].outcome == "issued"
    assert [event.outcome for event in world.events[1:]] == ["rejected", "replayed"]
    refusal = await world.ask(await issued.cert_conf())
    assert fail_names(refusal) == ["badRequest"]
    assert confirmations(world) == []
    assert [message.body_type for message in world.ca.messages] == [BodyType.ir]


@pytest.mark.requirement(13, 35, 115)
async def test_somebody_else_s_error_ends_nothing(world: World) -> None:
    """Neither another device's nor an unprotected one."""
    issued = await issue(world)
    other = await device_error(issued, signer=world.device("ENB-2"))
    mine = PKIMessage.from_der(await device_error(issued))
    header = replace(mine.header, protection_alg_der=None).to_der()
    for der in (other, assemble(header, mine.body_der, None, mine.extra_certs)):
        answer = await world.ask(der)
        assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["badMessageCheck"])
    await still_confirms(issued)


@pytest.mark.requirement(115)
async def test_an_error_after_the_end_changes_nothing(world: World) -> None:
    """It is answered with an error, and the certificate stays confirmed."""
    issued = await issue(world)
    await still_confirms(issued)
    answer = await world.ask(await device_error(issued))
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["badRequest"])
    assert await issued.state() is State.CONFIRMED


@pytest.mark.requirement(11, 115)
async def test_an_error_about_nothing_is_answered_with_an_error(world: World) -> None:
    """badRequest for a transactionID that is not known here."""
    issued = await issue(world)
    answer = await world.ask(await device_error(issued, transaction_id=bytes(16)))
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["badRequest"])


@pytest.mark.requirement(8, 115)
async def test_an_error_that_does_not_follow_the_ip_ends_nothing(world: World) -> None:
    """An old error of the same device, under the same transactionID, is not about this ip."""
    issued = await issue(world)
    answer = await world.ask(await device_error(issued, recip_nonce=bytes(16)))
    assert answer.body_type is BodyType.error
    await still_confirms(issued)


async def test_the_device_of_this_project_says_the_same(world: World) -> None:
    """The certConf these tests build by hand is the one a real enrolment sends, but for its nonce."""
    device = world.device()
    enrollment = world.enrollment(device)
    der = await world.post(await enrollment.request())
    step = await enrollment.receive(der)
    assert isinstance(step, Send)
    theirs = PKIMessage.from_der(step.der)
    issued = Issued(world, device, None, PKIMessage.from_der(der))
    ours = PKIMessage.from_der(await issued.cert_conf())
    assert ours.body_der == theirs.body_der
    assert replace(ours.header, sender_nonce=None) == replace(theirs.header, sender_nonce=None)


def _told(*fail_info: PKIFailureInfo) -> Callable[[Answer], None]:
    """A script: certConf is answered with an error that has these bits."""

    def script(answer: Answer) -> None:
        if answer.request.body_type is BodyType.certConf:
            answer.body_der = error_body(PKIStatusInfo(PKIStatus.rejection, (), fail_info))

    return script


@pytest.mark.requirement(109)
async def test_a_ca_that_has_confirmed_already_is_as_good_as_its_pki_conf(world: World) -> None:
    """The first pkiConf was lost, the CA is asked again and says certConfirmed: the device is told yes."""
    issued = await issue(world)
    world.ca.script = _told(PKIFailureInfo.certConfirmed)
    answer = await world.ask(await issued.cert_conf())
    assert answer.body_type is BodyType.pkiconf
    assert await issued.state() is State.CONFIRMED


@pytest.mark.requirement(90, 109)
async def test_a_ca_that_cannot_confirm_now_is_asked_again_by_the_repeat(world: World) -> None:
    """systemUnavail from the CA ends nothing: the same certConf succeeds once the CA is well."""
    issued = await issue(world)
    world.ca.script = _told(PKIFailureInfo.systemUnavail)
    cert_conf = await issued.cert_conf()
    refusal = await world.ask(cert_conf)
    assert [bit.name for bit in status_of(refusal).fail_info] == ["systemUnavail"]
    world.ca.script = lambda answer: None
    assert (await world.ask(cert_conf)).body_type is BodyType.pkiconf
    assert len(confirmations(world)) == 2
