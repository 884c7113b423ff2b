"""A certificate is what was signed: written in other octets, it opens nothing new and no verdict changes.

Whole dialogues with respelt certificates are had in the modules that `conftest` lists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from ra_gateway.app.revocation import LedgerStatus
from ra_gateway.ca.authorization import Mode
from ra_gateway.cmp.certificates import Certificate, load_certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.device.values import Done, Send
from ra_gateway.errors import MalformedMessage, PKIFailureInfo, SignerNotTrusted
from ra_gateway.ra.signer_status import SignerStatus
from tests.support import pki
from tests.support.answers import fail_names
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.desk import NOW, open_desk
from tests.support.harness import World, make_gateway
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.respelling import (
    SPELLINGS,
    TWIN,
    respelt_message,
    respelt_protection,
)


@pytest.fixture(scope="module")
def kinds() -> dict[str, bytes]:
    """Certificates under signatures of each kind."""
    found = {}
    for kind in ("p256", "p384", "p521", "rsa2048", "ed25519"):
        root = pki.make_root(f"Root {kind}", kind)
        found[kind] = pki.certificate_der(root.issue("ENB-1").certificate)
    return found


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_another_spelling_is_the_same_certificate_or_none(
    kinds: dict[str, bytes], spelling: str
) -> None:
    """Equal, with the same identity and the same place in every memory; or not read at all."""
    read = 0
    for der in kinds.values():
        respelt = SPELLINGS[spelling](der)
        original = Certificate.from_der(der)
        try:
            other = Certificate.from_der(respelt)
        except MalformedMessage:
            continue
        read += respelt != der
        assert (other, hash(other), other.id, other.digest) == (
            original,
            hash(original),
            original.id,
            original.digest,
        )
        assert load_certificate(respelt) == load_certificate(der)
    assert read or spelling != TWIN


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_whoever_sees_an_ir_opens_nothing_with_it(world: World, spelling: str) -> None:
    """Sent again with the certificates respelt: the stored answer or a refusal, and nothing at the CA."""
    request = await world.enrollment(world.device()).request()
    answer = await world.post(request)
    again = await world.post(respelt_message(request, SPELLINGS[spelling]))
    assert again == answer or fail_names(PKIMessage.from_der(again))
    assert len(world.ca.received) == 1


async def test_a_respelt_signature_of_a_message_makes_no_other_message(world: World) -> None:
    """The twin of the protection: ir, then certConf."""
    enrollment = world.enrollment(world.device())
    request = await enrollment.request()
    answer = await world.post(request)
    assert await world.post(respelt_protection(request)) == answer
    step = await enrollment.receive(answer)
    assert isinstance(step, Send)
    pkiconf = await world.post(respelt_protection(step.der))
    assert await world.post(step.der) == pkiconf
    assert isinstance(await enrollment.receive(pkiconf), Done)
    assert len(world.ca.received) == 2


async def test_pss_signed_certificates_open_one_transaction(operator_pki: OperatorPKI) -> None:
    """Its parameters have many spellings; none but the one under the signature is read."""
    world = World.make(pki.make_vendor_pki("PSS Radio", "rsa2048"), operator_pki)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    request = await world.enrollment(world.device(rsa_padding=pss)).request()
    answer = await world.post(request)
    for spell in SPELLINGS.values():
        again = await world.post(respelt_message(request, spell))
        assert again == answer or fail_names(PKIMessage.from_der(again))
    assert len(world.ca.received) == 1


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("body_type", [BodyType.cr, BodyType.kur, BodyType.rr])
async def test_a_revoked_certificate_is_revoked_in_every_spelling(
    operator_pki: OperatorPKI,
    vendor_pki: VendorPKI,
    tmp_path: Path,
    body_type: BodyType,
    spelling: str,
) -> None:
    """At the gateway beside the CA that revoked it, and at that CA in client mode."""
    async with open_desk(operator_pki, tmp_path / "ledger.db") as desk:
        enrolment = await desk.enrol()
        await desk.confirm(enrolment)
        rr = await desk.revocation(enrolment.certificate)
        await desk.send(rr)
        world = World.make(
            vendor_pki,
            operator_pki,
            endpoint={"body_types": frozenset({BodyType.cr, BodyType.kur, BodyType.rr})},
        )
        world.clock.now = desk.clock.now
        status = LedgerStatus(desk.ledger, [cmp_certificate(operator_pki.issuing.certificate)])
        world.gateway = make_gateway(
            world.endpoint,
            operator_pki,
            world.store,
            world.clock,
            world.events,
            signer_status=SignerStatus(None, status),
        )
        if body_type is BodyType.rr:
            request = await desk.revocation(enrolment.certificate, signer=enrolment.entity)
        else:
            request = await desk.request(body_type, signer=enrolment.entity)
        assert fail_names(await world.ask(request))
        assert fail_names(await world.ask(respelt_message(request, SPELLINGS[spelling])))
        assert world.ca.received == []
        desk.mode = Mode.client
        reply = await desk.ca.handle(
            respelt_message(request, SPELLINGS[spelling]), mode=Mode.client
        )
        assert fail_names(PKIMessage.from_der(reply.der))


async def test_a_certificate_that_our_issuer_did_not_record_is_refused(
    operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """Unknown is never "not revoked": signed by the issuing key, and not in the ledger."""
    async with open_desk(operator_pki, tmp_path / "ledger.db") as desk:
        status = LedgerStatus(desk.ledger, [cmp_certificate(operator_pki.issuing.certificate)])
        unknown = cmp_certificate(operator_pki.device("enb-9").certificate)
        with pytest.raises(SignerNotTrusted, match="ledger has no such certificate"):
            await status.revoked_at(unknown, NOW)
        other = cmp_certificate(pki.make_root("Other").issue("enb-9").certificate)
        assert await status.revoked_at(other, NOW) is None
        known = (await desk.enrol()).certificate
        assert await status.revoked_at(known, NOW) is None
        # Another RA's, which the operator listed: what the CA knows of it counts, and that it knows nothing does not.
        assert await status.revoked_at(unknown, NOW, listed=True) is None
        rr = await desk.revocation(known)
        await desk.send(rr)
        assert await status.revoked_at(known, NOW, listed=True) is not None


async def test_a_registered_ra_is_known_in_every_spelling_and_not_as_another(
    operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """Same answer to the same message; another certificate of the same name is nobody."""
    async with open_desk(operator_pki, tmp_path / "ledger.db") as desk:
        request = await desk.request()
        answer = (await desk.ca.handle(request)).der
        respelt = respelt_message(request, SPELLINGS[TWIN])
        assert respelt != request
        assert (await desk.ca.handle(respelt)).der == answer
        namesake: Any = operator_pki.issuing.issue(
            operator_pki.ra.certificate.subject, "p256", eku=[pki.CMC_RA]
        )
        refused = await desk.refused(await desk.request(signer=cmp_credential(namesake)))
        assert refused == (BodyType.error, PKIFailureInfo.signerNotTrusted)
