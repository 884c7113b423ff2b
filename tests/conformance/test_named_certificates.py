"""Which certificate a message is about: what an rr says of it, and a kur that a registered RA vouches for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from ra_gateway.ca.records import CertificateStatus
from ra_gateway.cmp.bodies import rev_rep_content
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.contradictions import require_consistent
from ra_gateway.cmp.crmf import (
    RA_VERIFIED_POPO_DER,
    CertId,
    CertTemplate,
    Control,
    Extension,
    cert_id_der,
    cert_req_messages,
)
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.names import directory_name, from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.errors import PKIFailureInfo, RequestRefused, SignerNotTrusted
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.settings import POP
from ra_gateway.ra.signer_status import SignerStatus
from tests.support import pki, requests
from tests.support.answers import status_of
from tests.support.asserts import assert_refused, assert_served
from tests.support.chain import ALL_TYPES, registered
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.desk import SUBJECT, Desk, enrolled
from tests.support.harness import World, make_gateway
from tests.support.pki import OperatorPKI, VendorPKI, make_key
from tests.support.requests import san_extension, spki

MakeWorld = Callable[..., World]
OTHER_NAME = from_rfc4514("CN=enb-2.ran.example.net")


@pytest.fixture
def make_world(vendor_pki: VendorPKI, operator_pki: OperatorPKI, ra: pki.Credential) -> MakeWorld:
    def make(
        strictness: Strictness = Strictness.lenient,
        upstream: dict[str, Any] | None = None,
        **relays: Any,
    ) -> World:
        return World.make(
            vendor_pki,
            operator_pki,
            rules=HeaderRules(strictness=strictness),
            upstream=upstream,
            endpoint={
                "body_types": ALL_TYPES,
                "registration_authorities": registered(operator_pki, ra, **relays),
            },
        )

    return make


# --- rr: what it says of the certificate ----------------------------------------------------------------------

CONTRADICTIONS: dict[str, dict[str, Any]] = {
    "subject": {"subject_der": OTHER_NAME},
    "publicKey": {"spki_der": spki(make_key("p256"))},
    "notBefore": {"not_before": datetime(2019, 6, 1, tzinfo=UTC)},
    "notAfter": {"not_after": datetime(2050, 1, 1, tzinfo=UTC)},
    "version": {"version": 0},
    "subjectAltName": {"extensions": (san_extension("dns:enb-2.ran.example.net"),)},
    "extension 2.5.29.15": {"extensions": (Extension(OID.keyUsage, True, b"\x03\x02\x05\x20"),)},
}


@pytest.mark.requirement(131)
@pytest.mark.parametrize("field", CONTRADICTIONS)
async def test_an_rr_that_contradicts_its_certificate(make_world: MakeWorld, field: str) -> None:
    """badCertId, from a device and from an RA on its behalf: it names another certificate than it means."""
    world = make_world()
    device = world.operator.device()
    certificate = cmp_certificate(device.certificate)
    asked = requests.details(certificate, **CONTRADICTIONS[field])
    der = await requests.rr(world, device, asked)
    await assert_refused(world, der, "badCertId", rule="R131", body_type=BodyType.rp)
    assert field in world.events[-1].detail


@pytest.mark.requirement(131)
@pytest.mark.parametrize("field", ["issuerUID", "subjectUID", "serialNumber"])
def test_what_no_certificate_has_contradicts_it(operator_pki: OperatorPKI, field: str) -> None:
    """RFC 5280 4.1.2.8; signingAlg, which RFC 4211 5 leaves to the CA, says nothing."""
    certificate = cmp_certificate(operator_pki.device().certificate)
    require_consistent(CertTemplate(reserved=("signingAlg",)), certificate)
    asked = CertTemplate(reserved=(field,))
    if field == "serialNumber":
        asked = CertTemplate(serial_number=certificate.serial_number + 1)
    with pytest.raises(RequestRefused, match=f"another {field}") as caught:
        require_consistent(asked, certificate)
    assert caught.value.fail_info is PKIFailureInfo.badCertId


@pytest.mark.requirement(130, 131)
async def test_an_ra_shows_the_certificate_that_it_contradicts(
    make_world: MakeWorld, ra: pki.Credential
) -> None:
    """What came along is what the rr is about."""
    world = make_world()
    certificate = cmp_certificate(world.operator.device().certificate)
    shown = (*cmp_credential(ra).certificates, certificate.der)
    asked = requests.details(certificate, subject_der=OTHER_NAME)
    der = await requests.rr(world, ra, asked, extra_certs=shown)
    await assert_refused(world, der, "badCertId", rule="R131", body_type=BodyType.rp)


@pytest.mark.requirement(129)
async def test_an_rr_that_says_all_of_its_certificate(make_world: MakeWorld) -> None:
    """Revoked, as nothing contradicts: spelled as in the certificate, or otherwise."""
    world = make_world()
    device = world.operator.device("enb-1", san=["dns:enb-1.example.net"])
    certificate = cmp_certificate(device.certificate)
    asked = requests.details(
        certificate,
        version=2,
        subject_der=certificate.subject_der,
        spki_der=certificate.spki_der,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        extensions=(san_extension("dns:ENB-1.example.net"),),
    )
    answer = await world.ask(await requests.rr(world, device, asked))
    assert status_of(answer).status is PKIStatus.accepted


@pytest.mark.requirement(131)
async def test_the_bundled_ca_compares_too(ca: Desk, client: Desk) -> None:
    """In both modes; the certificate stays."""
    for desk, asked in ((ca, None), (client, CertTemplate())):
        device = await enrolled(desk, template=asked)
        named = CertTemplate(
            issuer_der=device.certificate.issuer_der,
            serial_number=device.certificate.serial_number,
        )
        signer = None if desk is ca else device.entity
        for change in CONTRADICTIONS.values():
            template = replace(named, **change)
            der = await desk.revocation(device.certificate, template=template, signer=signer)
            assert await desk.refused(der) == (BodyType.rp, PKIFailureInfo.badCertId)
        assert await desk.status(device.certificate) is CertificateStatus.confirmed


# --- rr: issuers that nobody is, and what is revoked already --------------------------------------------------


@pytest.mark.requirement(131)
async def test_an_issuer_that_nobody_here_is(
    make_world: MakeWorld, ra: pki.Credential, client: Desk
) -> None:
    """badCertId: the device is told nothing that it should not know, and the RA what is wrong."""
    world = make_world(identity=IdentityRules(allowed_subjects=("CN=enb-*",)))
    device = world.operator.device()
    asked = requests.details(
        cmp_certificate(device.certificate), issuer_der=from_rfc4514("CN=Nobody")
    )
    for signer in (device, ra):
        der = await requests.rr(world, signer, asked)
        await assert_refused(world, der, "badCertId", rule="R131", body_type=BodyType.rp)
    own = await enrolled(client, template=CertTemplate())
    der = await client.revocation(
        own.certificate, issuer_der=from_rfc4514("CN=Nobody"), signer=own.entity
    )
    assert await client.refused(der) == (BodyType.rp, PKIFailureInfo.badCertId)


class Lists:
    """A CRL that lists certificates."""

    def __init__(self, *revoked: Certificate) -> None:
        self.revoked = revoked

    async def check(
        self, domain: str, path: tuple[Certificate, ...], now: datetime
    ) -> tuple[str, ...]:
        for item in path:
            if item in self.revoked:
                raise SignerNotTrusted(f"{item.subject} is revoked", rule="R23")
        return ()


@pytest.mark.requirement(112, 129)
async def test_a_second_rr_is_told_in_an_rp(make_world: MakeWorld) -> None:
    """certRevoked, in the body; a CA above that is revoked is another matter."""
    world = make_world()
    device = world.operator.device()
    issuing = cmp_certificate(world.operator.issuing.certificate)

    def gateway(*revoked: Certificate) -> None:
        world.gateway = make_gateway(
            world.endpoint,
            world.operator,
            world.store,
            world.clock,
            world.events,
            signer_status=SignerStatus(Lists(*revoked)),
        )

    gateway(cmp_certificate(device.certificate))
    der = await requests.rr(world, device)
    await assert_refused(world, der, "certRevoked", rule="R129", body_type=BodyType.rp)
    gateway(cmp_certificate(device.certificate), issuing)
    der = await requests.rr(world, device)
    await assert_refused(world, der, "signerNotTrusted", rule="R23")


@pytest.mark.requirement(112, 129)
async def test_a_second_rr_at_the_bundled_ca(ca: Desk, client: Desk) -> None:
    """rp, certRevoked; the first answer says in words what was done."""
    for desk, asked in ((ca, None), (client, CertTemplate())):
        device = await enrolled(desk, template=asked)
        signer = None if desk is ca else device.entity
        first = await desk.send(await desk.revocation(device.certificate, signer=signer))
        (status,) = rev_rep_content(first.body_content).statuses
        assert (status.status, status.status_string) == (
            PKIStatus.accepted,
            ("The certificate is revoked.",),
        )
        again = await desk.revocation(device.certificate, signer=signer)
        assert await desk.refused(again) == (BodyType.rp, PKIFailureInfo.certRevoked)


# --- kur that an RA vouches for -------------------------------------------------------------------------------


def old_cert_id(old: Certificate) -> Control:
    named = CertId(directory_name(old.issuer_der), old.serial_number)
    return Control(OID.oldCertID, cert_id_der(named))


@pytest.mark.requirement(59)
async def test_a_strict_endpoint_takes_no_ras_word_for_a_kur(
    make_world: MakeWorld, ra: pki.Credential
) -> None:
    """RFC 9483 5.2.3.2; for an ir it does."""
    world = make_world(Strictness.strict)
    old = cmp_certificate(world.operator.device().certificate)
    options: dict[str, Any] = {"popo_der": RA_VERIFIED_POPO_DER, "controls": (old_cert_id(old),)}
    signer, key = cmp_credential(ra), make_key("p256")
    der = await requests.request(world, signer, key, body_type=BodyType.kur, **options)
    await assert_refused(world, der, "notAuthorized", rule="R59", body_type=BodyType.kup)
    der = await requests.request(world, signer, key, popo_der=RA_VERIFIED_POPO_DER)
    await assert_served(world, der)


@pytest.mark.requirement(59, 68)
async def test_the_bundled_ca_chooses_no_certificate_by_a_name_that_an_ra_vouched_for(
    ca: Desk,
) -> None:
    """oldCertID is asked for where raVerified stands; where the device proved its key, its name will do."""
    old = await enrolled(ca)
    template = CertTemplate(subject_der=from_rfc4514(SUBJECT))
    der = await ca.request(BodyType.kur, template=template, popo=RA_VERIFIED_POPO_DER)
    assert await ca.refused(der) == (BodyType.kup, PKIFailureInfo.badCertId)
    renewed = await ca.enrol(
        BodyType.kur,
        template=template,
        popo=RA_VERIFIED_POPO_DER,
        controls=(old_cert_id(old.certificate),),
    )
    assert renewed.answer.body_type is BodyType.kup
    assert (await ca.enrol(BodyType.kur, template=template)).answer.body_type is BodyType.kup


@pytest.mark.requirement(59)
async def test_who_vouches_for_a_kur_names_the_old_certificate(make_world: MakeWorld) -> None:
    """Where a CA wants raVerified, the RA adds oldCertID that the device left out; the rest stays as it was."""
    world = make_world(upstream={"pop": POP.ra_verified})
    device = world.operator.device()
    certificate = cmp_certificate(device.certificate)
    key = make_key("p256")
    asked = requests.template(key, certificate.subject)
    der = await requests.request(world, cmp_credential(device), key, asked, body_type=BodyType.kur)
    await assert_served(world, der)
    (up,) = cert_req_messages(world.ca.messages[0].body_content)
    named = up.old_cert_id()
    assert up.pop == "raVerified"
    assert named is not None
    assert named.serial_number == certificate.serial_number
