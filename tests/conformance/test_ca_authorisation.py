"""Who may what at the bundled CA: one identity for both faces, RAs and their names, what is withheld from everybody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import delete

from ra_gateway.ca.authorization import ClientMode, Mode
from ra_gateway.ca.ledger import schema
from ra_gateway.ca.ledger.database import write
from ra_gateway.ca.profiles import OCSP_SIGNER, RA, Profile
from ra_gateway.ca.records import (
    NO_ENTITY,
    CertificateStatus,
    EndEntity,
    EntityStatus,
    Intent,
    Operation,
    Reason,
    Revocation,
    Role,
)
from ra_gateway.cmp import asn1, crmf, structures
from ra_gateway.cmp.bodies import gen_msg_body
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import CertId, CertTemplate, Control, Extension
from ra_gateway.cmp.messages import InfoTypeAndValue, body
from ra_gateway.cmp.names import NULL_DN, directory_name, from_rfc4514, general_names_der
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import ConfigError, PKIFailureInfo
from tests.support import pki
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.desk import (
    ALL,
    ENB1,
    IDENTITY,
    NOW,
    SUBJECT,
    Desk,
    Enrolment,
    open_desk,
    public,
    vendor_domain,
)
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.profiles import NE_IPSEC, NE_TLS

NOT_AUTHORIZED = PKIFailureInfo.notAuthorized


def san(*names: str) -> tuple[Extension, ...]:
    return (Extension(OID.subjectAltName, False, general_names_der(names)),)


def named(subject: str, *names: str) -> CertTemplate:
    """A template with a subject and other names."""
    return CertTemplate(subject_der=from_rfc4514(subject), extensions=san(*names) if names else ())


def with_directory_name(subject: str, other: str) -> CertTemplate:
    """A template with a subject, and another one as its other name."""
    value = asn1.tlv(0x30, directory_name(from_rfc4514(other)))
    extension = Extension(OID.subjectAltName, False, value)
    return CertTemplate(subject_der=from_rfc4514(subject), extensions=(extension,))


def nameless(*names: str) -> CertTemplate:
    return CertTemplate(subject_der=NULL_DN, extensions=san(*names))


def old_cert_id(enrolment: Enrolment) -> tuple[Control, ...]:
    certificate = enrolment.certificate
    cert_id = CertId(directory_name(certificate.issuer_der), certificate.serial_number)
    return (Control(OID.oldCertID, crmf.cert_id_der(cert_id)),)


@pytest.fixture
def ra2(operator_pki: OperatorPKI) -> pki.Credential:
    """A second RA."""
    return operator_pki.issuing.issue("CN=ra2,O=Example Operator")


@pytest.fixture
async def desk(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, ra2: pki.Credential, tmp_path: Path
) -> AsyncIterator[Desk]:
    """A CA with both modes: ra1 and ra2 may have ne_tls only, enb1 is registered for client mode with ne_ipsec."""
    async with open_desk(
        operator_pki,
        tmp_path / "ledger.db",
        client=ClientMode({"acme": vendor_domain(vendor_pki)}, "cn"),
        profile=NE_TLS,
        more_profiles=(NE_IPSEC,),
        others={"ra2": ra2},
    ) as desk:
        await desk.ledger.registry.add_entity(replace(ENB1, profile="ne_ipsec"), "test", NOW)
        yield desk


async def bind(desk: Desk, role: Role, name: str = "ra1") -> None:
    """Give an RA a role, heard at once."""
    await desk.ledger.registry.put_role(role, "test", NOW)
    await desk.ledger.registry.put_authority(name, role.name, "test", NOW)
    hear_anew(desk)


def hear_anew(desk: Desk) -> None:
    desk.ca._authentication.registered._good_until = float("-inf")


async def settled(
    desk: Desk, template: CertTemplate, *, key: pki.PrivateKey | None = None
) -> Enrolment:
    """A device enrolled by ra1 and confirmed."""
    enrolment = await desk.enrol(template=template, key=key)
    await desk.confirm(enrolment)
    return enrolment


# --- one identity at both faces -----------------------------------------------------------------------------------


@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr])
async def test_an_ra_does_not_get_what_is_registered_for_client_mode(
    desk: Desk, body_type: BodyType
) -> None:
    """Neither in the entity's spelling nor in another one; nothing is stored."""
    for subject in (SUBJECT, SUBJECT.upper()):
        der = await desk.request(body_type, template=named(subject), popo=crmf.RA_VERIFIED_POPO_DER)
        assert (await desk.refused(der))[1] is NOT_AUTHORIZED
    assert await desk.ledger.counts() == {}


async def test_an_ra_does_not_get_registered_names_under_another_subject(desk: Desk) -> None:
    """Nor without a subject."""
    for template in (named("CN=other", ENB1.names[0]), nameless(ENB1.names[1])):
        assert (await desk.refused(await desk.request(template=template)))[1] is NOT_AUTHORIZED
    assert await desk.ledger.counts() == {}


async def test_a_registered_address_is_one_in_every_spelling(desk: Desk) -> None:
    """However the operator wrote it, an RA does not get it."""
    names = ("ip:2001:DB8:0:0:0:0:0:1%a", "dns:Site9.example.net")
    entity = EndEntity("site9", "CN=site9,O=Nord", names, "", "acme", "SN-000009")
    await desk.ledger.registry.add_entity(entity, "test", NOW)
    for name in ("ip:2001:db8::1", "dns:site9.EXAMPLE.net"):
        der = await desk.request(template=named("CN=enb8,O=Nord", name))
        assert (await desk.refused(der))[1] is NOT_AUTHORIZED


HOST: Final = "enb7.example.net"
SEEMS: Final = (
    named("CN=other,O=Nord", f"dns:{HOST}"),
    named(f"CN={HOST},O=Nord"),
    named(f"CN={HOST.upper()}.,O=Nord"),
    named(f"CN=\\ {HOST}\\ ,O=Nord"),
    named(f"CN={HOST.replace('.', chr(0x3002))},O=Nord"),
    named(f"CN=https://{HOST}/,O=Nord"),
    named(f"CN=other,1.2.840.113549.1.9.2={HOST},O=Nord"),
    named(f"CN=other,UID={HOST},O=Nord"),
    named("CN=other,O=Nord", f"dn:CN={HOST},O=Sud"),
    named("CN=other,O=Nord", f"uri:https://{HOST}/x"),
    named("CN=other,O=Nord", f"uri:sip:other@{HOST}"),
)
"""Subjects and other names by which whoever reads them may take one for `HOST`."""


@pytest.mark.parametrize("blocked", [False, True])
async def test_a_host_that_a_registered_subject_names_is_its_own(desk: Desk, blocked: bool) -> None:
    """The CA itself makes a dNSName of it, so that an RA does not get it, nor anybody where it is blocked."""
    registry = desk.ledger.registry
    entity = EndEntity("enb7", f"CN={HOST},O=Op", (), "ne_ipsec", "acme", "SN-000007")
    await registry.add_entity(entity, "test", NOW)
    if blocked:
        await registry.set_entity_status("enb7", EntityStatus.blocked, "test", NOW)
    for template in SEEMS:
        assert (await desk.refused(await desk.request(template=template)))[1] is NOT_AUTHORIZED
    assert await desk.ledger.counts() == {}


@pytest.mark.parametrize("owner", ["registered", "blocked", "PKI"])
async def test_a_host_that_is_withheld_is_so_wherever_it_stands(
    desk: Desk, operator_pki: OperatorPKI, owner: str
) -> None:
    """In a commonName it names whom a dNSName names."""
    registry = desk.ledger.registry
    if owner == "registered":
        entity = EndEntity("e7", "CN=e7,O=Op", (f"dns:{HOST}",), "", "acme", "SN-000007")
        await registry.add_entity(entity, "test", NOW)
    elif owner == "blocked":
        await settled(desk, named("CN=e7,O=Nord", f"dns:{HOST}"))
        await registry.set_entity_status("CN=e7,O=Nord", EntityStatus.blocked, "test", NOW)
    else:
        signer = operator_pki.issuing.issue("CN=Signer,O=Op", san=(f"dns:{HOST}",))
        await desk.ledger.withhold([cmp_certificate(signer.certificate)])
    for template in SEEMS:
        assert (await desk.refused(await desk.request(template=template)))[1] is NOT_AUTHORIZED


ADDRESSES: Final = (
    ("ip:192.0.2.6", named("CN=192.0.2.6,O=Nord")),
    ("ip:192.0.2.6", named("CN=::ffff:192.0.2.6,O=Nord")),
    ("ip:192.0.2.6", named("CN=e8,O=Nord", "ip:::ffff:192.0.2.6")),
    ("ip:::ffff:192.0.2.7", named("CN=e8,O=Nord", "ip:192.0.2.7")),
    ("ip:192.0.2.6", named("CN=e8,1.2.840.113549.1.9.8=192.0.2.6,O=Nord")),
    ("ip:192.0.2.6", named("CN=e8,O=Nord", "dn:CN=192.0.2.6")),
    ("ip:192.0.2.6", named("CN=e8,O=Nord", "uri:https://192.0.2.6/")),
    ("ip:2001:db8::6", named("CN=[2001:DB8:0::6],O=Nord")),
    ("ip:2001:db8::6", named("CN=e8,O=Nord", "uri:https://[2001:db8:0:0::6]:80/")),
    ("email:e7@example.net", named("CN=e7@Example.net,O=Nord")),
    ("dns:xn--bcher-kva.example.net", named("CN=b\u00fccher.example.net")),
    ("dns:xn--fa-hia.example.net", named("CN=fa\u00df.example.net")),
)


async def test_an_address_that_is_withheld_is_so_wherever_it_stands(desk: Desk) -> None:
    """And in every form that names the same."""
    kept = tuple(dict.fromkeys(name for name, _ in ADDRESSES))
    for number, name in enumerate(kept):
        entity = EndEntity(f"k{number}", f"CN=k{number},O=Op", (name,), "", "acme", f"SN-7{number}")
        await desk.ledger.registry.add_entity(entity, "test", NOW)
    for _, asked in ADDRESSES:
        assert (await desk.refused(await desk.request(template=asked)))[1] is NOT_AUTHORIZED


async def test_what_names_no_host_is_not_withheld(desk: Desk) -> None:
    """One commonName under two organisations is two names; many share the host of a URI, and an organisation."""
    registry = desk.ledger.registry
    names = ("uri:spiffe://mesh.example.net/e7",)
    entity = EndEntity("e7", "CN=e7,O=shared.example.net", names, "", "acme", "SN-000007")
    await registry.add_entity(entity, "test", NOW)
    await registry.set_entity_status("e7", EntityStatus.blocked, "test", NOW)
    await settled(desk, named("CN=e7,O=Nord"))
    await settled(desk, named("CN=e8,O=shared.example.net", "uri:spiffe://mesh.example.net/e8"))
    await settled(desk, named("CN=mesh.example.net,O=Nord", "dns:shared.example.net"))


async def test_an_ra_does_not_get_a_registered_subject_as_another_name(desk: Desk) -> None:
    """In no spelling, by whatever subject; nor that of who is blocked and never had a certificate."""
    for subject in (SUBJECT, SUBJECT.upper()):
        template = with_directory_name("CN=enb8,O=Nord", subject)
        assert (await desk.refused(await desk.request(template=template)))[1] is NOT_AUTHORIZED
    registry = desk.ledger.registry
    await settled(desk, with_directory_name("CN=enb8,O=Nord", "CN=site8,O=Nord"))
    plain = EndEntity(name="enb9", subject="CN=enb9,O=Nord")
    await registry.add_entity(plain, "test", NOW)
    await registry.set_entity_status("enb9", EntityStatus.blocked, "test", NOW)
    template = with_directory_name("CN=enb8,O=Nord", "CN=ENB9,O=Nord")
    assert (await desk.refused(await desk.request(template=template)))[1] is NOT_AUTHORIZED


@pytest.mark.parametrize("nested", [False, True])
async def test_an_ra_gets_no_name_that_speaks_for_others(
    desk: Desk, vendor_pki: VendorPKI, nested: bool
) -> None:
    """A wildcard would be the names of devices that are registered, blocked, or the PKI's own."""
    template = named("CN=enb8,O=Nord", "dns:*.example.net")
    if nested:
        device = cmp_credential(vendor_pki.sub.issue("CN=enb8"))
        der = await desk.nest(await desk.request(template=template, signer=device))
    else:
        der = await desk.request(template=template)
    assert (await desk.refused(der))[1] is NOT_AUTHORIZED


@pytest.mark.parametrize("subject", ["CN=*.evil.org,O=Nord", "CN=*.example.net,O=Example Operator"])
async def test_an_ra_gets_no_cn_that_is_a_wildcard(desk: Desk, subject: str) -> None:
    """Clients of TLS may read it as the server's name."""
    for template in (named(subject), named(subject, "dns:enb8.example.net")):
        der = await desk.request(template=template)
        assert (await desk.refused(der))[1] is PKIFailureInfo.badCertTemplate


async def test_an_ra_gets_it_under_its_profile_if_its_role_names_it(desk: Desk) -> None:
    """A role that names the subject is not enough, nor one that has the entity's own profile: it takes both."""
    await bind(desk, Role("profile", ALL, ("ne_ipsec",)))
    assert (await desk.refused(await desk.request()))[1] is NOT_AUTHORIZED
    tls = Role("named", ALL, ("ne_tls",), ("CN=enb*,O=Example Operator",), ("dns:enb*",))
    await bind(desk, tls)
    assert (await desk.refused(await desk.request()))[1] is NOT_AUTHORIZED
    await bind(desk, replace(tls, profiles=("ne_ipsec",)))
    await settled(desk, named(SUBJECT))


async def test_a_certificate_of_ra_mode_gives_no_more_in_client_mode(desk: Desk) -> None:
    """Not another profile, not another name, and not by way of a renewal either."""
    device = await settled(desk, named("CN=small,O=X", "dns:small.example.net"))
    desk.mode = Mode.client
    renewed = await desk.enrol(BodyType.kur, signer=device.entity, template=CertTemplate())
    await desk.confirm(renewed, signer=device.entity)
    for signer in (device.entity, renewed.entity):
        same = await desk.enrol(BodyType.cr, signer=signer, template=CertTemplate())
        assert same.certificate.extended_key_usage == device.certificate.extended_key_usage
        assert same.certificate.subject_alt_name_der == device.certificate.subject_alt_name_der
        more = named("CN=small,O=X", "dns:large.example.net")
        for body_type in (BodyType.cr, BodyType.kur):
            der = await desk.request(body_type, signer=signer, template=more)
            assert (await desk.refused(der))[1] in (
                NOT_AUTHORIZED,
                PKIFailureInfo.badCertTemplate,
            )


async def test_what_an_ra_vouched_for_does_not_open_a_registered_entity(desk: Desk) -> None:
    """An RA that is allowed for the subject alone does not reach the names of the entity through client mode."""
    role = Role("named", ALL, ("ne_ipsec",), (SUBJECT,))
    await bind(desk, role)
    device = await settled(desk, named(SUBJECT))
    desk.mode = Mode.client
    renewed = await desk.enrol(BodyType.kur, signer=device.entity, template=CertTemplate())
    await desk.confirm(renewed, signer=device.entity)
    for signer in (device.entity, renewed.entity):
        got = await desk.enrol(BodyType.cr, signer=signer, template=CertTemplate())
        assert got.certificate.subject_alt_name_der is None
        der = await desk.request(BodyType.cr, signer=signer, template=named(SUBJECT, *ENB1.names))
        assert (await desk.refused(der))[1] is NOT_AUTHORIZED


async def test_its_own_first_certificate_gives_a_device_its_names(
    desk: Desk, vendor_pki: VendorPKI
) -> None:
    """What client mode vouched for itself is still worth all that is registered."""
    desk.mode = Mode.client
    vendor = cmp_credential(vendor_pki.device(IDENTITY))
    first = await desk.enrol(signer=vendor, template=named(SUBJECT, ENB1.names[0]))
    await desk.confirm(first, signer=vendor)
    renewed = await desk.enrol(BodyType.kur, signer=first.entity, template=CertTemplate())
    await desk.confirm(renewed, signer=first.entity)
    more = await desk.enrol(
        BodyType.cr, signer=renewed.entity, template=named(SUBJECT, *ENB1.names)
    )
    assert more.certificate.subject_alt_name_der == general_names_der(ENB1.names)


async def test_a_name_that_was_another_s_gives_nothing(desk: Desk, vendor_pki: VendorPKI) -> None:
    """Of an end entity that was deleted while its certificate was on hold, and made anew with another subject."""
    desk.mode = Mode.client
    vendor = cmp_credential(vendor_pki.device(IDENTITY))
    device = await desk.enrol(signer=vendor, template=CertTemplate())
    await desk.confirm(device, signer=vendor)
    serial, registry = device.certificate.serial_number, desk.ledger.registry
    await desk.ledger.revoke(Revocation(serial, Reason.certificateHold, "test"), NOW)
    with pytest.raises(ConfigError, match="holds 1 valid"):
        await registry.delete_entity("enb1", "test", NOW)
    # Older releases let it go.
    gone = delete(schema.entities).where(schema.entities.c.name == "enb1")
    await write(desk.ledger._database, lambda connection: connection.execute(gone))
    other = EndEntity("enb1", "CN=other", ("dns:other.example.net",), "", "acme", "SN-000002")
    await registry.add_entity(other, "test", NOW)
    await desk.ledger.revoke(Revocation(serial, Reason.removeFromCRL, "test"), NOW)
    der = await desk.request(BodyType.cr, signer=device.entity, template=CertTemplate())
    assert (await desk.refused(der))[1] is NOT_AUTHORIZED


# --- devices without a subject ------------------------------------------------------------------------------------


async def test_nameless_devices_are_known_by_their_other_names(desk: Desk) -> None:
    """Two of them are two: a key is one's alone, and who is blocked is one of them."""
    key = pki.make_key("p256")
    one = await settled(desk, nameless("dns:one.example.net"), key=key)
    two = await settled(desk, nameless("dns:two.example.net"))
    der = await desk.request(template=nameless("dns:two.example.net"), key=key)
    assert (await desk.refused(der))[1] is PKIFailureInfo.duplicateCertReq
    found = [await desk.ledger.record_of(item.certificate, NOW) for item in (one, two)]
    names = [item.entity for item in found if item is not None]
    assert names == ["dns:one.example.net", "dns:two.example.net"]
    await desk.ledger.registry.set_entity_status(names[0], EntityStatus.blocked, "test", NOW)
    assert (await desk.refused(await desk.request(template=nameless("dns:ONE.example.net"))))[
        1
    ] is NOT_AUTHORIZED
    await settled(desk, nameless("dns:two.example.net"))


async def test_a_device_without_any_name_is_nobody(desk: Desk) -> None:
    """Nothing would tell it from the next one: no end entity comes into being, and nothing is certified."""
    entities = await desk.ledger.registry.entities()
    for template in (CertTemplate(), CertTemplate(subject_der=NULL_DN)):
        der = await desk.request(template=template)
        assert (await desk.refused(der))[1] is PKIFailureInfo.badCertTemplate
    assert await desk.ledger.counts() == {}
    assert await desk.ledger.registry.entities() == entities


async def test_a_renewal_without_name_and_without_oldcertid_is_of_nobody(desk: Desk) -> None:
    """badCertId; with the other names it is the one that has them."""
    one = await settled(desk, nameless("dns:one.example.net"))
    await settled(desk, nameless("dns:two.example.net"))
    for template in (CertTemplate(), CertTemplate(subject_der=NULL_DN), nameless("dns:no.net")):
        der = await desk.request(BodyType.kur, template=template)
        assert (await desk.refused(der))[1] is PKIFailureInfo.badCertId
    new = await desk.enrol(BodyType.kur, template=nameless("dns:one.example.net"))
    assert new.certificate.subject_alt_name_der == one.certificate.subject_alt_name_der
    await desk.confirm(new)
    assert await desk.status(one.certificate) is CertificateStatus.superseded


async def test_a_nameless_device_renews_in_client_mode(desk: Desk) -> None:
    """It is its own end entity there as well."""
    one = await settled(desk, nameless("dns:one.example.net"))
    desk.mode = Mode.client
    for body_type in (BodyType.kur, BodyType.cr):
        new = await desk.enrol(body_type, signer=one.entity, template=CertTemplate())
        assert new.certificate.subject_alt_name_der == one.certificate.subject_alt_name_der


# --- RAs and names ------------------------------------------------------------------------------------------------

BOUND = Role(
    "bound", ALL, ("ne_tls",), ("CN=enb*,O=Nord",), ("dns:*.nord.example.net", "ip:192.0.2.*")
)


@pytest.mark.parametrize(
    "template, allowed",
    [
        (named("CN=enb7,O=Nord"), True),
        (named("CN=enb7,O=Nord", "dns:enb7.nord.example.net", "ip:192.0.2.7"), True),
        (nameless("dns:enb7.nord.example.net"), True),
        (named("CN=enb7,O=Süd"), False),
        (named("CN=enb7,OU=x,O=Nord"), False),
        (named("CN=enb7,O=Nord", "dns:enb7.south.example.net"), False),
        (named("CN=enb7,O=Nord", "dns:*.nord.example.net"), False),
        (named("CN=enb7,O=Nord", "dns:enb7.nord.example.net", "uri:urn:x"), False),
        (nameless("dns:enb7.south.example.net"), False),
    ],
)
async def test_an_ra_is_bound_to_the_names_of_its_role(
    desk: Desk, template: CertTemplate, allowed: bool
) -> None:
    """Subjects and other names alike, and no wildcard."""
    await bind(desk, BOUND)
    der = await desk.request(template=template)
    if allowed:
        assert (await desk.send(der)).body_type is BodyType.ip
        assert await desk.ledger.counts() == {CertificateStatus.issued: 1}
    else:
        assert (await desk.refused(der))[1] is NOT_AUTHORIZED


async def test_an_ra_may_be_bound_more_closely_than_its_role(desk: Desk) -> None:
    """What is asked for has to fit both."""
    await bind(desk, BOUND)
    await desk.ledger.registry.put_authority("ra1", "bound", "test", NOW, subjects=["CN=enb7,*"])
    hear_anew(desk)
    await settled(desk, named("CN=enb7,O=Nord"))
    der = await desk.request(template=named("CN=enb8,O=Nord"))
    assert (await desk.refused(der))[1] is NOT_AUTHORIZED


async def test_an_ra_renews_and_revokes_what_it_had_issued(desk: Desk, ra2: pki.Credential) -> None:
    """Another RA's is notAuthorized, by oldCertID, by name and by rr; and what became of it is not told."""
    device = await settled(desk, named("CN=enb7,O=Nord"))
    second = cmp_credential(ra2)

    async def refuse_all() -> None:
        der = await desk.request(
            BodyType.kur, controls=old_cert_id(device), template=CertTemplate(), signer=second
        )
        assert (await desk.refused(der))[1] is NOT_AUTHORIZED
        der = await desk.revocation(device.certificate, signer=second)
        assert (await desk.refused(der))[1] is NOT_AUTHORIZED

    der = await desk.request(BodyType.kur, template=named("CN=enb7,O=Nord"), signer=second)
    assert (await desk.refused(der))[1] is NOT_AUTHORIZED
    await refuse_all()
    desk.mode = Mode.client  # a renewal by the device itself leaves it the RA's
    renewed = await desk.enrol(BodyType.kur, signer=device.entity, template=CertTemplate())
    await desk.confirm(renewed, signer=device.entity)
    desk.mode = Mode.ra
    await desk.send(await desk.revocation(renewed.certificate))
    assert await desk.status(renewed.certificate) is CertificateStatus.revoked
    await desk.send(await desk.revocation(device.certificate))
    await refuse_all()


async def test_a_role_may_say_that_others_devices_are_served(
    desk: Desk, ra2: pki.Credential
) -> None:
    """Where its names fit, and nowhere else."""
    mine = await settled(desk, named("CN=enb7,O=Nord"))
    other = await settled(desk, named("CN=enb7,O=West"))
    await bind(desk, replace(BOUND, others=True), "ra2")
    second = cmp_credential(ra2)
    await desk.enrol(
        BodyType.kur, controls=old_cert_id(mine), template=CertTemplate(), signer=second
    )
    await desk.send(await desk.revocation(mine.certificate, signer=second))
    assert await desk.status(mine.certificate) is CertificateStatus.revoked
    der = await desk.request(
        BodyType.kur, controls=old_cert_id(other), template=CertTemplate(), signer=second
    )
    assert (await desk.refused(der))[1] is NOT_AUTHORIZED
    der = await desk.revocation(other.certificate, signer=second)
    assert (await desk.refused(der))[1] is NOT_AUTHORIZED


@pytest.mark.parametrize("eku", [[], [pki.CMC_RA]], ids=["plain", "cmcRA"])
async def test_what_is_the_pki_s_own_is_no_ra_s_to_renew_or_revoke(
    desk: Desk, operator_pki: OperatorPKI, eku: list[str]
) -> None:
    """Whatever its role names, profiles and others' devices included: an RA's own certificate is not a device's."""
    own = operator_pki.issuing.issue("CN=ra3,O=Example Operator", eku=eku)
    certificate = cmp_certificate(own.certificate)
    await put_into_ledger(desk, certificate)
    role = Role("everything", ALL, ("ne_tls", "ra"), ("*",), ("*",), others=True)
    await bind(desk, role)
    cert_id = CertId(directory_name(certificate.issuer_der), certificate.serial_number)
    controls = (Control(OID.oldCertID, crmf.cert_id_der(cert_id)),)
    der = await desk.request(BodyType.kur, controls=controls, template=CertTemplate())
    assert (await desk.refused(der))[1] is NOT_AUTHORIZED
    assert (await desk.refused(await desk.revocation(certificate)))[1] is NOT_AUTHORIZED
    assert await desk.status(certificate) is CertificateStatus.confirmed


@pytest.mark.parametrize("everything", [False, True])
async def test_what_is_blocked_is_blocked_under_every_name(
    desk: Desk, ra2: pki.Credential, everything: bool
) -> None:
    """Its other names and its keys serve no other subject, whoever asks, whatever its role names; unblocked they do."""
    if everything:
        for name in ("ra1", "ra2"):
            await bind(desk, Role("everything", ALL, ("ne_tls",), ("*",), ("*",)), name)
    key = pki.make_key("p256")
    await settled(desk, named("CN=enb7,O=Nord", "dns:enb7.example.net"), key=key)
    registry = desk.ledger.registry
    await registry.set_entity_status("CN=enb7,O=Nord", EntityStatus.blocked, "test", NOW)
    second = cmp_credential(ra2)
    for signer in (desk.ra, second):
        for template, its_key in (
            (named("CN=enb7,O=Nord"), None),
            (named("CN=enb8,O=Nord", "dns:ENB7.example.net"), None),
            (nameless("dns:enb7.example.net"), None),
            (named("CN=enb8,O=Nord"), key),
        ):
            der = await desk.request(template=template, key=its_key, signer=signer)
            assert (await desk.refused(der))[1] is NOT_AUTHORIZED
    await registry.set_entity_status("CN=enb7,O=Nord", EntityStatus.active, "test", NOW)
    await settled(desk, named("CN=enb8,O=Nord", "dns:enb7.example.net"))


async def test_a_blocked_entity_of_client_mode_is_blocked_with_its_names(desk: Desk) -> None:
    """Those it is registered with, before it ever had a certificate."""
    await desk.ledger.registry.set_entity_status("enb1", EntityStatus.blocked, "test", NOW)
    der = await desk.request(template=named("CN=enb8,O=Nord", ENB1.names[1]))
    assert (await desk.refused(der))[1] is NOT_AUTHORIZED


@pytest.mark.parametrize("reason", [Reason.keyCompromise, Reason.certificateHold])
async def test_an_ra_whose_certificate_was_revoked_is_not_heard(
    desk: Desk, operator_pki: OperatorPKI, reason: Reason
) -> None:
    """Although it is still registered: plain and nested, for every body type; its other certificate is heard."""
    lost = operator_pki.issuing.issue("CN=ra3,O=Example Operator")
    certificate, registry = cmp_certificate(lost.certificate), desk.ledger.registry
    await put_into_ledger(desk, certificate)
    await registry.add_authority_certificate("ra1", certificate.der, "test", NOW)
    hear_anew(desk)
    signer = cmp_credential(lost)
    device = await desk.enrol(template=named("CN=enb7,O=Nord"), signer=signer)
    await desk.confirm(device, signer=signer)
    serial = certificate.serial_number
    await desk.ledger.revoke(Revocation(serial, reason, "test"), NOW)
    hear_anew(desk)
    question = gen_msg_body(BodyType.genm, [InfoTypeAndValue(OID.caCerts)])
    inner = await desk.request(BodyType.kur, template=CertTemplate(), signer=device.entity)
    for der in (
        await desk.request(template=named("CN=enb8,O=Nord"), signer=signer),
        await desk.request(BodyType.kur, template=named("CN=enb7,O=Nord"), signer=signer),
        await desk.revocation(device.certificate, signer=signer),
        await desk.signed(desk.header(), question, signer),
        await desk.nest(inner, signer),
    ):
        assert (await desk.refused(der))[1] is PKIFailureInfo.certRevoked
    await settled(desk, named("CN=enb8,O=Nord"))
    if reason is Reason.certificateHold:
        await desk.ledger.revoke(Revocation(serial, Reason.removeFromCRL, "test"), NOW)
        hear_anew(desk)
        await desk.enrol(template=named("CN=enb9,O=Nord"), signer=signer)


async def put_into_ledger(desk: Desk, certificate: Certificate) -> None:
    """Have the ledger know a certificate of an RA, as `ca ra issue` does."""
    operation = Operation(
        requester="operator:test",
        transaction_id=certificate.serial_number.to_bytes(20, "big"),
        request_digest=bytes(32),
        body_type=BodyType.cr,
        cert_req_id=0,
        response_nonce=b"",
        confirm_by=None,
        expires_at=NOW + timedelta(minutes=5),
        serial_number=certificate.serial_number,
        answer=certificate.der,
    )
    intent = Intent(
        certificate.subject_der,
        "ab",
        "ra",
        sha256(certificate.spki_der).digest(),
        entity=NO_ENTITY,
        enrolls=False,
        own=True,
    )
    assert await desk.ledger.reserve(operation, intent, NOW) is None
    await desk.ledger.store(operation, certificate, NOW)


# --- the PKI's own ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "purpose", [OID.ocspSigning, OID.anyExtendedKeyUsage, OID.cmcArchive, OID.cmcRA, OID.cmKGA]
)
async def test_a_purpose_of_the_pki_makes_nobody_a_device(
    desk: Desk, operator_pki: OperatorPKI, purpose: str
) -> None:
    """A signer with it is served as a device neither in client mode nor nested in RA mode."""
    signer = cmp_credential(
        operator_pki.issuing.issue("CN=OCSP,O=Example Operator", eku=(purpose,))
    )
    for body_type in (BodyType.cr, BodyType.kur):
        inner = await desk.request(body_type, signer=signer, template=CertTemplate())
        desk.mode = Mode.client
        assert (await desk.refused(inner))[1] in (NOT_AUTHORIZED, PKIFailureInfo.signerNotTrusted)
        desk.mode = Mode.ra
        assert (await desk.refused(await desk.nest(inner)))[1] in (
            NOT_AUTHORIZED,
            PKIFailureInfo.signerNotTrusted,
        )
    assert await desk.ledger.counts() == {}


async def test_a_vendor_certificate_of_such_a_purpose_is_no_device_s(
    desk: Desk, vendor_pki: VendorPKI
) -> None:
    """Although its identity is registered: in client mode, and nested by an RA."""
    signer = cmp_credential(vendor_pki.sub.issue(f"CN={IDENTITY}", eku=(OID.ocspSigning,)))
    inner = await desk.request(signer=signer, template=CertTemplate())
    desk.mode = Mode.client
    assert (await desk.refused(inner))[1] is NOT_AUTHORIZED
    desk.mode = Mode.ra
    assert (await desk.refused(await desk.nest(inner)))[1] is NOT_AUTHORIZED


@pytest.mark.parametrize("purpose", [OID.ocspSigning, OID.anyExtendedKeyUsage, OID.cmcArchive])
@pytest.mark.parametrize("mode", list(Mode))
async def test_a_purpose_of_the_pki_is_not_given(
    desk: Desk, vendor_pki: VendorPKI, mode: Mode, purpose: str
) -> None:
    """badCertTemplate, rather than a certificate without it."""
    desk.mode = mode
    signer = cmp_credential(vendor_pki.device(IDENTITY)) if mode is Mode.client else desk.ra
    value = asn1.tlv(0x30, asn1.oid_der(purpose))
    template = CertTemplate(
        subject_der=from_rfc4514(SUBJECT if mode is Mode.client else "CN=enb7"),
        extensions=(Extension(OID.extKeyUsage, False, value),),
    )
    der = await desk.request(template=template, signer=signer)
    assert (await desk.refused(der))[1] in (
        PKIFailureInfo.badCertTemplate,
        NOT_AUTHORIZED,
    )
    assert await desk.ledger.counts() == {}


@pytest.mark.parametrize("profile", [RA, OCSP_SIGNER])
async def test_a_profile_of_the_pki_is_not_to_be_had(
    operator_pki: OperatorPKI, tmp_path: Path, profile: Profile
) -> None:
    """Not even by a role that names it, as only the database could."""
    async with open_desk(operator_pki, tmp_path / "ledger.db", profile=profile) as desk:
        assert (await desk.refused(await desk.request()))[1] is NOT_AUTHORIZED
        assert await desk.ledger.counts() == {}


@pytest.mark.parametrize("everything", [False, True])
async def test_names_and_keys_of_the_pki_are_nobodys(
    operator_pki: OperatorPKI, tmp_path: Path, everything: bool
) -> None:
    """The signers', the authorities' and the RAs', of an RA also after it was deleted; whatever an RA's role names."""
    ocsp = operator_pki.issuing.issue("CN=OCSP,O=Example Operator")
    gone = operator_pki.issuing.issue("CN=ra9,O=Example Operator", san=("dns:ra9.example.net",))
    async with open_desk(
        operator_pki,
        tmp_path / "ledger.db",
        signers=(cmp_certificate(ocsp.certificate),),
        others={"ra9": gone},
    ) as desk:
        await desk.ledger.registry.delete_authority("ra9", "test", NOW)
        if everything:
            await bind(desk, Role("everything", ALL, ("ne_ipsec",), ("*",), ("*",)))
        for own in (
            ocsp,
            gone,
            operator_pki.ra,
            operator_pki.cmp_signer,
            operator_pki.issuing,
            operator_pki.root,
        ):
            certificate = cmp_certificate(own.certificate)
            template = CertTemplate(subject_der=certificate.subject_der)
            assert (await desk.refused(await desk.request(template=template)))[1] is NOT_AUTHORIZED
            for spki_der in (certificate.spki_der, compressed(own.private_key)):
                template = replace(named("CN=enb7"), spki_der=spki_der)
                der = await vouched(desk, template)
                assert (await desk.refused(der))[1] is PKIFailureInfo.badCertTemplate
        for template in (
            named("CN=enb7", "dns:ra9.example.net"),
            CertTemplate(
                subject_der=from_rfc4514("CN=enb7"),
                extensions=(
                    Extension(
                        OID.subjectAltName,
                        False,
                        asn1.tlv(
                            0x30, directory_name(cmp_certificate(ocsp.certificate).subject_der)
                        ),
                    ),
                ),
            ),
        ):
            assert (await desk.refused(await desk.request(template=template)))[1] is NOT_AUTHORIZED
        assert await desk.ledger.counts() == {}


async def vouched(desk: Desk, template: CertTemplate) -> bytes:
    """An ir by the RA for a key that it says the device has."""
    message = crmf.cert_req_msg_der(crmf.cert_request_der(template), crmf.RA_VERIFIED_POPO_DER)
    return await desk.signed(desk.header(), body(BodyType.ir, asn1.tlv(0x30, message)))


def compressed(key: pki.PrivateKey) -> bytes:
    """SubjectPublicKeyInfo of an EC key with its point compressed."""
    plain = asn1.decode(structures.SubjectPublicKeyInfo, public(key))
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return asn1.tlv(0x30, asn1.raw(plain.algorithm), asn1.tlv(0x03, b"\x00" + point))


# --- spellings ----------------------------------------------------------------------------------------------------


async def test_a_key_is_one_key_in_every_spelling(desk: Desk) -> None:
    """A compressed point is duplicateCertReq as the uncompressed one is."""
    key = pki.make_key("p256")
    await settled(desk, named("CN=enb7"), key=key)
    for spki_der in (public(key), compressed(key)):
        der = await vouched(desk, replace(named("CN=enb8"), spki_der=spki_der))
        assert (await desk.refused(der))[1] is PKIFailureInfo.duplicateCertReq


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_renewal_certifies_the_old_certificate_s_own_names(desk: Desk, mode: Mode) -> None:
    """Octet by octet, however the request spells them: case, the Kelvin sign, the long s, a name twice."""
    old = await settled(desk, named("CN=kiosk,O=X", "dns:kiosk.example.net"))
    signer = None
    if mode is Mode.client:
        desk.mode, signer = mode, old.entity
    for spelled in ("CN=KIOSK,O=x", "CN=\u212aiosk,O=X", "CN=kio\u017fk,O=X"):
        asked = named(spelled, "dns:kiosk.example.net", "dns:kiosk.example.net")
        for body_type in (BodyType.kur, BodyType.cr) if signer else (BodyType.kur,):
            new = await desk.enrol(body_type, template=asked, signer=signer)
            assert new.certificate.subject_der == old.certificate.subject_der
            assert new.certificate.subject_alt_name_der == old.certificate.subject_alt_name_der


async def test_a_device_gets_the_registered_spelling_of_its_subject(
    desk: Desk, vendor_pki: VendorPKI
) -> None:
    """With its vendor certificate too."""
    desk.mode = Mode.client
    first = await desk.enrol(
        signer=cmp_credential(vendor_pki.device(IDENTITY)), template=named(SUBJECT.upper())
    )
    assert first.certificate.subject_der == from_rfc4514(SUBJECT)


@pytest.mark.parametrize("subject", [f"CN=SN-000009,CN={IDENTITY}", f"CN={IDENTITY}+CN=SN-000009"])
async def test_two_identities_in_a_vendor_certificate_are_none(
    desk: Desk, vendor_pki: VendorPKI, subject: str
) -> None:
    """notAuthorized: the first must not count, nor the last."""
    desk.mode = Mode.client
    twice = cmp_credential(vendor_pki.sub.issue(subject))
    der = await desk.request(signer=twice, template=CertTemplate())
    assert (await desk.refused(der))[1] is NOT_AUTHORIZED


# --- the order of judgement ---------------------------------------------------------------------------------------


async def test_names_are_judged_before_what_became_of_a_certificate(desk: Desk) -> None:
    """A renewal of a revoked certificate under another name is told of the name."""
    device = await settled(desk, named("CN=enb7"))
    await desk.ledger.revoke(
        Revocation(device.certificate.serial_number, Reason.keyCompromise, "test"), NOW
    )
    for template, failure in (
        (named("CN=enb8"), PKIFailureInfo.badCertTemplate),
        (named("CN=enb7", "dns:x.net"), PKIFailureInfo.badCertTemplate),
        (named("CN=enb7"), PKIFailureInfo.certRevoked),
    ):
        der = await desk.request(BodyType.kur, template=template, controls=old_cert_id(device))
        assert (await desk.refused(der))[1] is failure


async def test_a_certificate_that_the_ledger_does_not_know_is_nobodys(
    desk: Desk, operator_pki: OperatorPKI
) -> None:
    """Although the issuing CA signed it: in client mode, nested, by oldCertID and by rr."""
    unknown = operator_pki.device("CN=enb7")
    signer = cmp_credential(unknown)
    question = gen_msg_body(BodyType.genm, [InfoTypeAndValue(OID.caCerts)])
    messages = [
        await desk.request(body_type, signer=signer, template=CertTemplate())
        for body_type in (BodyType.cr, BodyType.kur)
    ]
    messages.append(await desk.signed(desk.header(), question, signer))
    messages.append(await desk.revocation(cmp_certificate(unknown.certificate), signer=signer))
    for message in messages:
        desk.mode = Mode.client
        assert (await desk.refused(message))[1] is PKIFailureInfo.signerNotTrusted
        desk.mode = Mode.ra
        assert (await desk.refused(await desk.nest(message)))[1] is PKIFailureInfo.signerNotTrusted
    certificate = cmp_certificate(unknown.certificate)
    cert_id = CertId(directory_name(certificate.issuer_der), certificate.serial_number)
    der = await desk.request(
        BodyType.kur,
        template=named("CN=enb7"),
        controls=(Control(OID.oldCertID, crmf.cert_id_der(cert_id)),),
    )
    assert (await desk.refused(der))[1] is PKIFailureInfo.badCertId
    der = await desk.revocation(certificate)
    assert (await desk.refused(der))[1] is PKIFailureInfo.badCertId
    assert await desk.ledger.counts() == {}


async def test_what_the_root_signed_is_no_vendor_certificate(
    desk: Desk, operator_pki: OperatorPKI
) -> None:
    """An RA that nests a message cannot vouch for it: it is of this PKI, which knows nothing of it."""
    stranger = cmp_credential(operator_pki.root.issue("CN=enb7"))
    for body_type in (BodyType.ir, BodyType.cr):
        inner = await desk.request(body_type, signer=stranger, template=named("CN=enb7"))
        assert (await desk.refused(await desk.nest(inner)))[1] is PKIFailureInfo.signerNotTrusted
