"""genm through the gateway: answered by the RA or by the CA, as the endpoint is configured (RFC 9483 4.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ra_gateway.app.general_messages import information
from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.bodies import PKIStatusInfo, error_body, gen_msg_body, gen_msg_content
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.crmf import CertTemplate
from ra_gateway.cmp.messages import InfoTypeAndValue, PKIMessage, body
from ra_gateway.cmp.names import directory_name, from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.config.tables import GenmConfig
from ra_gateway.errors import PKIFailureInfo, UpstreamUnavailable
from ra_gateway.ra.general_messages import INFO_TYPES, Information
from ra_gateway.ra.settings import Informing
from tests.support import requests
from tests.support.answers import fail_names, status_of
from tests.support.asserts import assert_answers, assert_refused
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.crls import make_crl
from tests.support.harness import Answer, MakeWorld, World
from tests.support.pki import Credential, OperatorPKI, VendorPKI, make_operator_pki

TAKEN = frozenset({BodyType.ir, BodyType.kur, BodyType.genm})
UNKNOWN = "1.3.6.1.5.5.7.4.99"
NULL = b"\x05\x00"


@pytest.fixture
def make_world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> MakeWorld:
    """Worlds that differ in how questions are answered."""

    def make(information: Information | None = None, **endpoint: Any) -> World:
        return World.make(
            vendor_pki,
            operator_pki,
            endpoint={
                "body_types": TAKEN,
                "information": information or Information(),
                **endpoint,
            },
        )

    return make


def informing(way: Informing, operator: OperatorPKI, **fields: Any) -> Information:
    """Every question of RFC 9483 goes the same way."""
    issuing = cmp_certificate(operator.issuing.certificate)
    ways = dict.fromkeys(INFO_TYPES.values(), way)
    return Information(**{"ways": ways, "ca_certificates": (issuing.der,), **fields})


async def genm(
    world: World, credential: Credential, *items: InfoTypeAndValue, **header: Any
) -> bytes:
    body_der = gen_msg_body(BodyType.genm, items)
    return await requests.message(world, cmp_credential(credential), body_der, **header)


async def ask(
    world: World, info_type: str, value_der: bytes | None = None
) -> tuple[InfoTypeAndValue, PKIMessage]:
    """Send one question of a device with an operator certificate, and return the one answer."""
    question = InfoTypeAndValue(info_type, value_der)
    der = await genm(world, world.operator.device(), question)
    answer = await world.ask(der)
    assert answer.body_type is BodyType.genp, world.events[-1].detail
    assert_answers(world, PKIMessage.from_der(der), answer)
    transaction_id = PKIMessage.from_der(der).header.transaction_id or b""
    assert await world.store.find(transaction_id) == []
    assert world.events[-1].outcome == "informed"
    (told,) = gen_msg_content(answer.body_content)
    return told, answer


# --- answered here --------------------------------------------------------------------------------------------


@pytest.mark.requirement(133)
async def test_ca_certificates_are_told(make_world: MakeWorld, operator_pki: OperatorPKI) -> None:
    """The operator's, without roots; without a value where none are configured."""
    world = make_world(informing(Informing.local, operator_pki))
    issuing = cmp_certificate(operator_pki.issuing.certificate)
    told, _ = await ask(world, OID.caCerts)
    assert told == InfoTypeAndValue(OID.caCerts, asn1.tlv(0x30, issuing.der))
    world = make_world(informing(Informing.local, operator_pki, ca_certificates=()))
    told, _ = await ask(world, OID.caCerts)
    assert told == InfoTypeAndValue(OID.caCerts)
    assert world.ca.received == []


@pytest.mark.requirement(134, 135)
async def test_nothing_is_known_of_roots_and_templates(
    make_world: MakeWorld, operator_pki: OperatorPKI
) -> None:
    """rootCaKeyUpdate and certReqTemplate without a value."""
    world = make_world(informing(Informing.local, operator_pki))
    root = cmp_certificate(operator_pki.root.certificate)
    assert (await ask(world, OID.rootCaCert, root.der))[0] == InfoTypeAndValue(OID.rootCaKeyUpdate)
    assert (await ask(world, OID.certReqTemplate))[0] == InfoTypeAndValue(OID.certReqTemplate)
    assert world.ca.received == []


@pytest.mark.requirement(138)
@pytest.mark.parametrize("info_type", [OID.crlStatusList, UNKNOWN])
async def test_what_the_ra_cannot_answer(
    make_world: MakeWorld, operator_pki: OperatorPKI, info_type: str
) -> None:
    """badRequest."""
    world = make_world(informing(Informing.local, operator_pki, others=Informing.deny))
    der = await genm(world, world.operator.device(), InfoTypeAndValue(info_type))
    await assert_refused(world, der, "badRequest", rule="R138")


@pytest.mark.requirement(138)
@pytest.mark.parametrize("info_type", [*INFO_TYPES.values(), UNKNOWN])
async def test_what_is_denied(
    make_world: MakeWorld, operator_pki: OperatorPKI, info_type: str
) -> None:
    """badRequest, and nobody is asked."""
    world = make_world(informing(Informing.deny, operator_pki, others=Informing.deny))
    der = await genm(world, world.operator.device(), InfoTypeAndValue(info_type))
    await assert_refused(world, der, "badRequest", rule="R138")


async def test_each_question_goes_its_own_way(
    make_world: MakeWorld, operator_pki: OperatorPKI
) -> None:
    """One is answered here, another by the CA, a third by nobody."""
    ways = {OID.caCerts: Informing.local, OID.rootCaCert: Informing.deny}
    world = make_world(Information(ways))
    await ask(world, OID.caCerts)
    assert world.ca.received == []
    await ask(world, OID.certReqTemplate)
    assert len(world.ca.received) == 1
    der = await genm(world, world.operator.device(), InfoTypeAndValue(OID.rootCaCert))
    await assert_refused(world, der, "badRequest", rule="R138")


# --- answered by the CA ---------------------------------------------------------------------------------------


def _tells(*items: InfoTypeAndValue) -> Callable[[Answer], None]:
    def script(answer: Answer) -> None:
        answer.body_der = gen_msg_body(BodyType.genp, items)

    return script


@pytest.mark.requirement(73, 74, 88)
@pytest.mark.parametrize(
    "asked, told",
    [
        (OID.caCerts, OID.caCerts),
        (OID.rootCaCert, OID.rootCaKeyUpdate),
        (OID.certReqTemplate, OID.certReqTemplate),
        (OID.crlStatusList, OID.crls),
        (UNKNOWN, UNKNOWN),
        (UNKNOWN, OID.unsupportedOIDs),
    ],
)
async def test_a_question_is_forwarded_and_its_answer_relayed(
    make_world: MakeWorld, asked: str, told: str
) -> None:
    """Under the RA's protection both ways, the bodies as they came; nothing is stored."""
    world = make_world()
    expected = InfoTypeAndValue(told, asn1.tlv(0x30, asn1.encode(1)))
    world.ca.script = _tells(expected)
    found, answer = await ask(world, asked)
    assert found == expected
    (up,) = world.ca.messages
    assert gen_msg_content(up.body_content) == (InfoTypeAndValue(asked),)
    assert up.header.sender_name_der == (cmp_certificate(world.operator.ra.certificate).subject_der)
    assert answer.header.recip_nonce == up.header.sender_nonce


async def test_a_device_asks_with_its_vendor_certificate_too(make_world: MakeWorld) -> None:
    """What is told is public; a base station may need it before it enrols."""
    world = make_world()
    der = await genm(world, world.device(), InfoTypeAndValue(OID.caCerts))
    assert (await world.ask(der)).body_type is BodyType.genp
    assert world.events[-1].domain == "acme"


async def test_a_repeat_is_answered_again(make_world: MakeWorld) -> None:
    """Nothing is stored, so that nothing is replayed; asking twice harms nobody."""
    world = make_world()
    der = await genm(world, world.operator.device(), InfoTypeAndValue(OID.caCerts))
    for _ in range(2):
        assert (await world.ask(der)).body_type is BodyType.genp
    assert len(world.ca.received) == 2


@pytest.mark.requirement(89)
async def test_a_refusal_of_the_question_is_relayed(make_world: MakeWorld) -> None:
    """A protected error that is about the question is the CA's answer to it."""
    world = make_world()
    info = PKIStatusInfo(PKIStatus.rejection, ("unknown",), (PKIFailureInfo.badRequest,))

    def script(answer: Answer) -> None:
        answer.body_der = error_body(info)

    world.ca.script = script
    answer = await world.ask(await genm(world, world.operator.device(), InfoTypeAndValue(UNKNOWN)))
    assert (answer.body_type, status_of(answer)) == (BodyType.error, info)
    assert (world.events[-1].outcome, world.events[-1].rule) == ("refused", "R89")


def _error(*fail_info: PKIFailureInfo, protected: bool = True) -> Callable[[Answer], None]:
    def script(answer: Answer) -> None:
        answer.body_der = error_body(PKIStatusInfo(PKIStatus.rejection, (), fail_info))
        answer.protected = protected

    return script


def _unprotected(answer: Answer) -> None:
    answer.protected = False


def _another_nonce(answer: Answer) -> None:
    answer.header = replace(answer.header, recip_nonce=bytes(16))


def _another_id(answer: Answer) -> None:
    answer.header = replace(answer.header, transaction_id=bytes(16))


def _no_nonce(answer: Answer) -> None:
    answer.header = replace(answer.header, sender_nonce=None)


def _an_ip(answer: Answer) -> None:
    answer.body_der = body(BodyType.ip, asn1.tlv(0x30))


def _garbage(answer: Answer) -> None:
    answer.octets = b"\x30\x00"


@pytest.mark.requirement(83, 84, 85)
@pytest.mark.parametrize(
    "script",
    [
        _unprotected,
        _another_nonce,
        _another_id,
        _no_nonce,
        _an_ip,
        _garbage,
        _tells(),
        _tells(InfoTypeAndValue(OID.crls)),
        _tells(InfoTypeAndValue(OID.caCerts), InfoTypeAndValue(OID.caCerts)),
        _error(PKIFailureInfo.badRequest, protected=False),
        _error(PKIFailureInfo.notAuthorized),
        _error(),
    ],
    ids=[
        "unprotected",
        "nonce",
        "ID",
        "no nonce",
        "ip",
        "garbage",
        "nothing",
        "another",
        "two",
        "unprotected error",
        "about us",
        "about nothing",
    ],
)
async def test_a_broken_answer_is_not_relayed(
    make_world: MakeWorld, script: Callable[[Answer], None]
) -> None:
    """systemFailure: it is the CA's fault, not the device's."""
    world = make_world()
    world.ca.script = script
    answer = await world.ask(
        await genm(world, world.operator.device(), InfoTypeAndValue(OID.caCerts))
    )
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])
    assert world.events[-1].outcome == "failed"
    assert world.events[-1].bug is None


@pytest.mark.requirement(90)
async def test_a_ca_that_does_not_answer(make_world: MakeWorld) -> None:
    """systemUnavail."""
    world = make_world()
    world.ca.failure, world.ca.failures = UpstreamUnavailable("gone", delivered=False), 1
    answer = await world.ask(
        await genm(world, world.operator.device(), InfoTypeAndValue(OID.caCerts))
    )
    assert fail_names(answer) == ["systemUnavail"]


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.requirement(138)
@pytest.mark.parametrize("way", [Informing.forward, Informing.local])
@pytest.mark.parametrize(
    "items",
    [
        (InfoTypeAndValue(OID.caCerts),) * 2,
        (InfoTypeAndValue(OID.caCerts, NULL),),
        (InfoTypeAndValue(OID.certReqTemplate, NULL),),
    ],
    ids=["two", "caCerts with a value", "certReqTemplate with a value"],
)
async def test_one_question_at_a_time(
    make_world: MakeWorld,
    operator_pki: OperatorPKI,
    items: tuple[InfoTypeAndValue, ...],
    way: Informing,
) -> None:
    """badRequest otherwise, whoever would answer."""
    world = make_world(informing(way, operator_pki))
    der = await genm(world, world.operator.device(), *items)
    await assert_refused(world, der, "badRequest", rule="R138")


async def test_a_genm_that_is_none(make_world: MakeWorld) -> None:
    """badDataFormat."""
    world = make_world()
    der = await requests.message(
        world, cmp_credential(world.operator.device()), body(BodyType.genm, b"\x04\x00")
    )
    await assert_refused(world, der, "badDataFormat")


@pytest.mark.requirement(13, 21, 29)
async def test_strangers_are_told_nothing(
    make_world: MakeWorld, operator_pki: OperatorPKI, foreign_vendor_pki: VendorPKI
) -> None:
    """Another vendor's device, an old message."""
    world = make_world(informing(Informing.local, operator_pki))
    question = InfoTypeAndValue(OID.caCerts)
    foreign = await genm(world, foreign_vendor_pki.device(), question)
    await assert_refused(world, foreign, "signerNotTrusted")
    old = await genm(world, world.operator.device(), question)
    world.clock.move(seconds=301)
    await assert_refused(world, old, "badTime")


@pytest.mark.requirement(12)
async def test_a_live_transaction_id_is_in_use(make_world: MakeWorld) -> None:
    """A genm under the transactionID of an enrolment is refused; the enrolment goes on."""
    world = make_world()
    device = world.device()
    enrollment = world.enrollment(device)
    answer = await world.post(await enrollment.request())
    transaction_id = PKIMessage.from_der(answer).header.transaction_id
    question = InfoTypeAndValue(OID.caCerts)
    der = await genm(world, device, question, transaction_id=transaction_id)
    assert fail_names(await world.ask(der)) == ["transactionIdInUse"]
    step = await enrollment.receive(answer)
    assert (await world.ask(step.der)).body_type is BodyType.pkiconf  # type: ignore[union-attr]


@pytest.mark.requirement(142)
async def test_the_3gpp_profile_has_no_genm(make_world: MakeWorld) -> None:
    """Refused, unless the endpoint's body_types lists it."""
    world = make_world(body_types=frozenset({BodyType.ir, BodyType.kur}))
    der = await genm(world, world.operator.device(), InfoTypeAndValue(OID.caCerts))
    await assert_refused(world, der, "badRequest", rule="R142")


@pytest.mark.requirement(149)
@pytest.mark.parametrize("label", ["getcacerts", "getrootupdate", "getcertreqtemplate", "getcrls"])
async def test_labels_for_genm(make_world: MakeWorld, label: str) -> None:
    """Each of the four takes genm, and nothing else."""
    world = make_world()
    der = await genm(world, world.operator.device(), InfoTypeAndValue(OID.caCerts))
    assert (await world.ask(der, operation=label)).body_type is BodyType.genp
    ir = await world.enrollment(world.device()).request()
    assert fail_names(await world.ask(ir, operation=label)) == ["badRequest"]


# --- what the operator has put there --------------------------------------------------------------------------


def files(tmp_path: Path, operator: OperatorPKI, **settings: Any) -> Information:
    """What the RA tells by a table of a configuration; every question is answered here."""
    table: dict[str, Any] = {
        name: Informing.local for name in INFO_TYPES if name != "crl_status_list"
    }
    domain = TrustDomain(
        "operator", DomainKind.operator, (cmp_certificate(operator.root.certificate),)
    )
    return information(GenmConfig(**table, **settings), "endpoints.ran.genm", domain)


def pem_file(path: Path, certificate: x509.Certificate) -> Path:
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return path


@pytest.mark.requirement(134)
async def test_the_successor_of_a_root_is_told(
    tmp_path: Path, make_world: MakeWorld, operator_pki: OperatorPKI
) -> None:
    """To who has the old one, or names none; not to who has another."""
    other = make_operator_pki("Example Operator 2")
    old, new = operator_pki.root.certificate, other.root.certificate
    settings = {
        "old_root_path": pem_file(tmp_path / "old.pem", old),
        "new_root_path": pem_file(tmp_path / "new.pem", new),
        "new_with_old_path": pem_file(tmp_path / "cross.pem", operator_pki.issuing.certificate),
    }
    world = make_world(files(tmp_path, operator_pki, **settings))
    cross = cmp_certificate(operator_pki.issuing.certificate).der
    update = asn1.tlv(0x30, cmp_certificate(new).der, asn1.tlv(0xA0, cross))
    for asked in (None, cmp_certificate(old).der):
        told, _ = await ask(world, OID.rootCaCert, asked)
        assert told == InfoTypeAndValue(OID.rootCaKeyUpdate, update)
    told, _ = await ask(world, OID.rootCaCert, cmp_certificate(new).der)
    assert told == InfoTypeAndValue(OID.rootCaKeyUpdate)
    assert world.ca.received == []


@pytest.mark.requirement(135)
async def test_a_template_is_told(
    tmp_path: Path, make_world: MakeWorld, operator_pki: OperatorPKI
) -> None:
    """Subject, kinds of keys, and no key."""
    settings = {"template_subject": "CN=,O=Example", "template_keys": ("p256", "rsa3072")}
    world = make_world(files(tmp_path, operator_pki, **settings))
    told, _ = await ask(world, OID.certReqTemplate)
    content = asn1.decode(structures.CertReqTemplateContent, told.value_der or b"")
    template = CertTemplate.of(content.cert_template)
    common_name, organization = asn1.tlv(0x0C), asn1.tlv(0x0C, b"Example")
    assert template.subject_der == asn1.tlv(
        0x30,
        asn1.tlv(0x31, asn1.tlv(0x30, asn1.oid_der("2.5.4.10"), organization)),
        asn1.tlv(0x31, asn1.tlv(0x30, asn1.oid_der("2.5.4.3"), common_name)),
    )
    assert template.spki_der is None
    assert [
        (control.type.dotted_string, asn1.raw(control.value).hex())
        for control in content.key_spec or ()
    ] == [
        (OID.algId, "301306072a8648ce3d020106082a8648ce3d030107"),
        (OID.rsaKeyLen, "02020c00"),
    ]


@pytest.mark.requirement(136, 137)
async def test_a_newer_crl_is_told(
    tmp_path: Path, make_world: MakeWorld, operator_pki: OperatorPKI
) -> None:
    """By its issuer's name or its own distribution point; not to who has it already, nor another one."""
    url = "http://pki.example.net/issuing.crl"
    this_update = datetime(2026, 1, 1, tzinfo=UTC)
    point = x509.IssuingDistributionPoint(
        [x509.UniformResourceIdentifier(url)], None, False, False, None, False, False
    )
    crl = make_crl(operator_pki.issuing, this_update=this_update, extensions=[(point, True)])
    path = tmp_path / "issuing.crl"
    path.write_bytes(crl)
    settings = {"crl_status_list": Informing.local, "crl_paths": (path,)}
    world = make_world(files(tmp_path, operator_pki, **settings))
    issuer_der = cmp_certificate(operator_pki.issuing.certificate).subject_der
    by_issuer = asn1.tlv(0xA1, asn1.tlv(0x30, directory_name(issuer_der)))
    by_url = _point(url)
    newest = InfoTypeAndValue(OID.crls, asn1.tlv(0x30, crl))
    nothing = InfoTypeAndValue(OID.crls)
    for source, has, expected in (
        (by_issuer, None, newest),
        (by_url, None, newest),
        (by_issuer, this_update - timedelta(days=1), newest),
        (by_issuer, this_update, nothing),
    ):
        time = b"" if has is None else asn1.encode(asn1.time(has))
        value = asn1.tlv(0x30, asn1.tlv(0x30, source, time))
        assert (await ask(world, OID.crlStatusList, value))[0] == expected
    for source in (
        _point("http://127.0.0.1:1/other.crl"),
        asn1.tlv(0xA1, asn1.tlv(0x30, directory_name(from_rfc4514("CN=Other")))),
    ):
        value = asn1.tlv(0x30, asn1.tlv(0x30, source))
        der = await genm(world, world.operator.device(), InfoTypeAndValue(OID.crlStatusList, value))
        assert fail_names(await world.ask(der)) == ["badRequest"]
        assert "is not among those told here" in (world.events[-1].detail or "")
    path.unlink()
    value = asn1.tlv(0x30, asn1.tlv(0x30, by_issuer))
    der = await genm(world, world.operator.device(), InfoTypeAndValue(OID.crlStatusList, value))
    assert fail_names(await world.ask(der)) == ["systemUnavail"]


@pytest.mark.requirement(136, 137)
@pytest.mark.parametrize("named_by", ["asker", "ra", "nobody"])
async def test_a_crl_that_names_no_distribution_point_is_told(
    named_by: str, tmp_path: Path, make_world: MakeWorld, operator_pki: OperatorPKI
) -> None:
    """It is its issuer's, whose certificates name the point; nobody is told of a CRL that "no update" is there."""
    url = "http://pki.example.net/issuing.crl"
    points = x509.CRLDistributionPoints(
        [x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)]
    )
    asker = operator_pki.device(extensions=[(points, False)] if named_by == "asker" else [])
    own = operator_pki.device("ra2", extensions=[(points, False)] if named_by == "ra" else [])
    paths = []
    for name, authority in (("issuing", operator_pki.issuing), ("root", operator_pki.root)):
        paths.append(tmp_path / f"{name}.crl")
        paths[-1].write_bytes(make_crl(authority, this_update=datetime(2026, 1, 1, tzinfo=UTC)))
    told = information(
        GenmConfig(crl_status_list=Informing.local, crl_paths=tuple(paths)),
        "endpoints.ran.genm",
        TrustDomain("operator", DomainKind.operator, ()),
        lambda: (cmp_certificate(own.certificate),),
    )
    world = make_world(told)
    value = asn1.tlv(0x30, asn1.tlv(0x30, _point(url)))
    der = await genm(world, asker, InfoTypeAndValue(OID.crlStatusList, value))
    answer = await world.ask(der)
    if named_by == "nobody":
        assert fail_names(answer) == ["badRequest"]
        return
    (item,) = gen_msg_content(answer.body_content)
    assert item == InfoTypeAndValue(OID.crls, asn1.tlv(0x30, paths[0].read_bytes()))


def _point(url: str) -> bytes:
    name = asn1.tlv(0x86, url.encode())
    return asn1.tlv(0xA0, asn1.tlv(0xA0, name))
