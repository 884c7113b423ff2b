"""RAs that are known by their names: whose certificates those are, and who else may not have one."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from ra_gateway.cmp.bodies import cert_rep_message, rev_req_body
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.crmf import CertId, Control, cert_id_der
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import directory_name, from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.errors import SignerNotTrusted
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.ports import InventoryEntry
from ra_gateway.ra.registration import RARights, RegisteredName
from ra_gateway.ra.settings import InventoryUse, SubjectRule
from ra_gateway.ra.signer_status import SignerStatus
from tests.support import mac, requests
from tests.support.answers import fail_names, status_of
from tests.support.asserts import assert_refused, assert_served
from tests.support.chain import ALL_TYPES, local_ra, nest, registered
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.harness import Answer, World, changed, make_gateway
from tests.support.pki import Credential, OperatorPKI, VendorPKI, make_key, other_operator

SUBJECT = "CN=occm.core.example.net,O=Example Operator"
RESPELT = "CN=OCCM.core.example.net,O=example  operator"
SAN = "dns:occm.core.example.net"
FUNCTIONS = RARights(
    IdentityRules(
        allowed_subjects=("CN=*.nf.example.net",), allowed_sans=("dns:*.nf.example.net",)
    ),
    revoke_on_behalf=True,
)
"""What the RA asks for: certificates of network functions."""


OCCM = RegisteredName(from_rfc4514(SUBJECT), (SAN,), rights=FUNCTIONS)


def occm(operator: OperatorPKI, subject: str = SUBJECT, **options: Any) -> Credential:
    """The operator certificate of the RA."""
    options.setdefault("san", [SAN])
    return operator.issuing.issue(subject, "p256", **options)


@pytest.fixture
def world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> World:
    return make(vendor_pki, operator_pki)


def make(vendor: VendorPKI, operator: OperatorPKI, *names: RegisteredName, **options: Any) -> World:
    endpoint = {
        "body_types": ALL_TYPES,
        "registration_authorities": registered(operator, names=names or (OCCM,)),
        **options.pop("endpoint", {}),
    }
    return World.make(vendor, operator, endpoint=endpoint, **options)


async def asked_by(
    world: World, signer: Credential, subject: str | None, san: tuple[str, ...] = (), **options: Any
) -> bytes:
    key = options.pop("new_key", None) or make_key("p256")
    asked = requests.template(key, subject, san)
    return await requests.request(world, cmp_credential(signer), key, asked, **options)


def issued_in(operator: OperatorPKI, key: Any, answer: Any) -> Credential:
    (response,) = cert_rep_message(answer.body_content).responses
    certificate = x509.load_der_x509_certificate(response.certificate_der or b"")
    return Credential(certificate, key, (operator.issuing.certificate, operator.root.certificate))


# --- the RA ---------------------------------------------------------------------------------------------------


@pytest.mark.requirement(123)
async def test_an_ra_renews_its_identity_and_goes_on(
    world: World, operator_pki: OperatorPKI
) -> None:
    """ir and kur for others under its first certificate; its own kur; the same under the next one, without an edit."""
    signer = occm(operator_pki)
    function = cmp_certificate(operator_pki.device("smf-1.nf.example.net").certificate)
    old = Control(
        OID.oldCertID,
        cert_id_der(CertId(directory_name(function.issuer_der), function.serial_number)),
    )
    for generation in range(3):
        subject = f"CN=amf-{generation}.nf.example.net"
        answer = await assert_served(world, await asked_by(world, signer, subject))
        done = await world.ask(await requests.confirmation(world, signer, answer))
        assert done.body_type is BodyType.pkiconf
        update = await asked_by(
            world, signer, "CN=smf-1.nf.example.net", body_type=BodyType.kur, controls=[old]
        )
        await assert_served(world, update)
        key = make_key("p256")
        body_type = BodyType.kur if generation else BodyType.ir
        own = await asked_by(
            world,
            signer,
            RESPELT if generation else SUBJECT,
            (SAN,),
            new_key=key,
            body_type=body_type,
        )
        answer = await assert_served(world, own)
        done = await world.ask(await requests.confirmation(world, signer, answer))
        assert done.body_type is BodyType.pkiconf
        signer = issued_in(operator_pki, key, answer)


@pytest.mark.requirement(35, 123)
@pytest.mark.parametrize("by_name", [False, True])
async def test_an_ra_that_was_taken_out_confirms_nothing_that_it_began(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, by_name: bool
) -> None:
    """Its request is nobody's then; where it is still registered, its certConf is taken."""
    signer = occm(operator_pki) if by_name else local_ra(operator_pki)
    known = registered(operator_pki, names=(OCCM,)) if by_name else registered(operator_pki, signer)
    world = make(vendor_pki, operator_pki, endpoint={"registration_authorities": known})
    subject = "CN=amf-1.nf.example.net"
    answer = await assert_served(world, await asked_by(world, signer, subject))
    confirming = await requests.confirmation(world, signer, answer)
    others = registered(operator_pki, local_ra(operator_pki, "Other"))
    endpoint = changed(world.endpoint, registration_authorities=others)
    later = replace(world, endpoint=endpoint, gateway=world.second_gateway(endpoint))
    await assert_refused(later, confirming, "badRequest", rule="R11")
    assert (await world.ask(confirming)).body_type is BodyType.pkiconf


@pytest.mark.requirement(123)
async def test_a_message_is_an_ra_s_where_it_brings_a_certificate_of_its_names(
    world: World, operator_pki: OperatorPKI
) -> None:
    """For the others no path to the operator's root is looked for, which a stranger would be the one to cause."""
    relays = world.endpoint.registration_authorities
    assert relays is not None
    for signer, is_its_own in ((occm(operator_pki), True), (world.device(), False)):
        message = PKIMessage.from_der(await asked_by(world, signer, "CN=amf-1.nf.example.net"))
        assert relays.protects(message, world.endpoint.rules) is is_its_own


@pytest.mark.requirement(128)
async def test_an_ra_that_is_known_by_name_nests(world: World, operator_pki: OperatorPKI) -> None:
    """One message or several, as every other RA."""
    inner = await asked_by(world, world.device(), "CN=enb-1.ran.example.net")
    answer = await world.ask(await nest(world, occm(operator_pki), inner))
    assert (answer.body_type, world.events[-1].outcome) == (BodyType.ip, "issued")
    stranger = operator_pki.device("enb-1.ran.example.net")
    await assert_refused(world, await nest(world, stranger, inner), "notAuthorized", rule="R123")


@pytest.mark.requirement(67, 130)
async def test_its_rights_are_its_own(world: World, operator_pki: OperatorPKI) -> None:
    """Other names than it may ask for, raVerified and others' revocation where it may not."""
    signer = occm(operator_pki)
    for subject, san in [
        ("CN=enb-1.ran.example.net", ()),
        ("CN=amf.nf.example.net", ("dns:amf.ran.example.net",)),
        (SUBJECT, ("dns:amf.ran.example.net",)),
    ]:
        der = await asked_by(world, signer, subject, san)
        await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")
    shown = cmp_certificate(operator_pki.device("enb-1.ran.example.net").certificate)
    credential = cmp_credential(signer)
    der = await requests.message(
        world,
        credential,
        rev_req_body(requests.details(shown)),
        extra_certs=(*credential.certificates, shown.der),
    )
    await assert_refused(world, der, "notAuthorized", rule="R67", body_type=BodyType.rp)


@pytest.mark.requirement(123)
async def test_who_is_listed_too_has_the_rights_of_the_list(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Besides its own names; those of the name are for its next certificate."""
    listed = occm(operator_pki)
    stations = IdentityRules(allowed_subjects=("CN=*.ran.example.net",))
    authorities = registered(operator_pki, listed, names=(OCCM,), identity=stations)
    world = make(vendor_pki, operator_pki, endpoint={"registration_authorities": authorities})
    await assert_served(world, await asked_by(world, listed, "CN=enb-1.ran.example.net"))
    await assert_served(world, await asked_by(world, listed, SUBJECT, (SAN,)))
    der = await asked_by(world, listed, FUNCTION)
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")
    await assert_served(world, await asked_by(world, occm(operator_pki), FUNCTION))


@pytest.mark.requirement(67, 123, 130)
@pytest.mark.parametrize("first", [True, False], ids=["its row first", "its row last"])
async def test_each_row_has_rights_of_its_own(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, first: bool
) -> None:
    """Of two RAs with one subject, by different CAs of the operator, neither has what the other may."""
    east = operator_pki.root.issue_ca("East CA", path_length=0)
    subject = from_rfc4514("CN=ra.example.net")
    rows = [
        RegisteredName(
            subject,
            issuers=frozenset({cmp_certificate(authority.certificate)}),
            rights=RARights(IdentityRules(allowed_subjects=(pattern,))),
        )
        for authority, pattern in [
            (operator_pki.issuing, "CN=*.west.example.net"),
            (east, "CN=*.east.example.net"),
        ]
    ]
    world = make(vendor_pki, operator_pki, *(rows if first else rows[::-1]))
    west = operator_pki.issuing.issue("CN=ra.example.net", "p256")
    der = await asked_by(world, west, "CN=a.east.example.net")
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")
    await assert_served(world, await asked_by(world, west, "CN=a.west.example.net"))


# --- whose certificate makes an RA ----------------------------------------------------------------------------


FUNCTION = "CN=amf-1.nf.example.net"


def ras_certificates(operator: OperatorPKI, vendor: VendorPKI) -> dict[str, Credential]:
    """What is no certificate of the RA, for one reason each."""
    authority = operator.root.issue_ca(
        SUBJECT, "p256", path_length=0, san=[SAN], key_usage=["digitalSignature", "keyCertSign"]
    )
    return {
        "a CA's": Credential(authority.certificate, authority.private_key, authority.chain),
        "no usages": occm(operator, key_usage=None),
        "another subject": occm(operator, "CN=occm2.core.example.net,O=Example Operator"),
        "one attribute more": occm(operator, f"{SUBJECT},OU=x"),
        "no names": occm(operator, san=[]),
        "another name": occm(operator, san=["dns:occm.ran.example.net"]),
        "a vendor's": vendor.sub.issue(SUBJECT, "p256", san=[SAN]),
        "another operator's": occm(other_operator()),
        "no signatures": occm(operator, key_usage=["keyAgreement"]),
    }


@pytest.mark.requirement(36, 123)
@pytest.mark.parametrize(
    "case",
    [
        "another subject",
        "one attribute more",
        "no names",
        "another name",
        "a vendor's",
        "another operator's",
        "no signatures",
        "a CA's",
        "no usages",
    ],
)
async def test_what_only_looks_like_it_is_no_ra(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, case: str
) -> None:
    """No vendor's, no stranger's, and no other certificate of the operator's."""
    world = make(
        vendor_pki, operator_pki, identity=IdentityRules(allowed_subjects=("CN=*.ran.example.net",))
    )
    signer = ras_certificates(operator_pki, vendor_pki)[case]
    for body_type in (BodyType.ir, BodyType.cr, BodyType.kur):
        answer = await world.ask(await asked_by(world, signer, FUNCTION, body_type=body_type))
        assert status_of(answer).status is PKIStatus.rejection
        assert world.events[-1].domain != "ra:ran"
    assert world.ca.received == []


@pytest.mark.requirement(123)
async def test_the_ca_above_it_may_be_named(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """The same names by another CA under the same root make no RA, and their holder cannot renew them either."""
    core = operator_pki.root.issue_ca("CN=Core CA,O=Example Operator", "p256", path_length=0)
    name = replace(OCCM, issuers=frozenset({cmp_certificate(core.certificate)}))
    world = make(vendor_pki, operator_pki, name)
    good = core.issue(SUBJECT, "p256", san=[SAN])
    await assert_served(world, await asked_by(world, good, FUNCTION))
    other = occm(operator_pki)
    answer = await world.ask(await asked_by(world, other, FUNCTION))
    assert (list(fail_names(answer)), world.events[-1].rule) == (["notAuthorized"], "R123")
    answer = await world.ask(await asked_by(world, other, SUBJECT, (SAN,), body_type=BodyType.kur))
    assert list(fail_names(answer)) == ["notAuthorized"]
    assert len(world.ca.received) == 1


@pytest.mark.requirement(23)
async def test_a_revoked_certificate_of_the_name_is_no_ra(
    world: World, operator_pki: OperatorPKI
) -> None:
    """The CA in this process is asked, and has to have a record of it: nobody has listed the certificate."""
    lost, unknown, good = (occm(operator_pki) for _ in range(3))

    class Issued:
        async def revoked_at(
            self, certificate: Certificate, now: Any, *, listed: bool = False
        ) -> Any:
            assert not listed
            if certificate == cmp_certificate(unknown.certificate):
                raise SignerNotTrusted("no such certificate", rule="R23")
            lost_one = certificate == cmp_certificate(lost.certificate)
            return now - timedelta(days=1) if lost_one else None

        async def confirmed(self, certificate: Certificate, now: Any) -> bool:
            return True

    world.gateway = make_gateway(
        world.endpoint,
        operator_pki,
        world.store,
        world.clock,
        world.events,
        signer_status=SignerStatus(issued=Issued()),
    )
    inner = await asked_by(world, world.device(), "CN=enb-1.ran.example.net")
    for signer in (lost, unknown):
        der = await asked_by(world, signer, FUNCTION)
        await assert_refused(world, der, "signerNotTrusted", rule="R23")
        der = await nest(world, signer, inner)
        await assert_refused(world, der, "signerNotTrusted", rule="R23")
    await assert_served(world, await asked_by(world, good, FUNCTION))


# --- nobody else gets one -------------------------------------------------------------------------------------

NAMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "both": (SUBJECT, (SAN,)),
    "its subject": (SUBJECT, ()),
    "its subject in another spelling": (RESPELT, ()),
    "its other name": ("CN=enb-1.ran.example.net", (SAN,)),
    "its other name in another case": ("CN=enb-1", ("dns:OCCM.Core.example.net",)),
    "its other name among some": ("CN=enb-1", ("dns:enb-1.example.net", SAN)),
    "a commonName that a CA may copy": ("CN=occm.core.example.net", ()),
}


@pytest.mark.requirement(67)
@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr, BodyType.p10cr])
async def test_a_device_does_not_get_its_names(
    world: World, case: str, body_type: BodyType
) -> None:
    """Whatever its vendor's rules allow ("*" here): whoever had them would be that RA."""
    subject, san = NAMES[case]
    if body_type is BodyType.p10cr:
        key = make_key("p256")
        names = [name.removeprefix("dns:") for name in san]
        request = requests.csr(key, subject, *names)
        der = await requests.p10cr(world, world.device(), request)
    else:
        der = await asked_by(world, world.device(), subject, san, body_type=body_type)
    told = BodyType.ip if body_type is BodyType.ir else BodyType.cp
    of_p10cr = -1 if body_type is BodyType.p10cr else 0
    await requests.assert_refused_in_body(
        world, der, "notAuthorized", rule="R67", body_type=told, cert_req_id=of_p10cr
    )
    assert "RA is registered" in world.events[-1].detail


@pytest.mark.requirement(67)
@pytest.mark.parametrize(
    "subject, san",
    [
        ("CN=OCCM.core.example.net.", ()),
        ("CN=enb-1,UID=occm.core.example.net", ()),
        ("CN=enb-1,1.2.840.113549.1.9.2=occm.core.example.net", ()),
        ("CN=enb-1", ("dn:CN=occm.core.example.net",)),
        ("CN=enb-1", ("uri:https://occm.core.example.net/",)),
    ],
)
async def test_a_device_does_not_get_what_reads_like_its_names(
    world: World, subject: str, san: tuple[str, ...]
) -> None:
    """A reader of its certificate may take the host from anywhere."""
    der = await asked_by(world, world.device(), subject, san)
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")
    assert "RA is registered" in world.events[-1].detail


@pytest.mark.requirement(67)
async def test_no_rule_gives_a_device_its_names(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Neither a template nor the inventory, which go by what a vendor has written."""

    class Inventory:
        async def find(self, domain: str, identity: str) -> InventoryEntry | None:
            return InventoryEntry(SUBJECT, (SAN,))

    rules = [
        IdentityRules(SubjectRule.replace, subject_template=SUBJECT, san_template=(SAN,)),
        IdentityRules(SubjectRule.replace, subject_template="CN=x", san_template=("dns:{cn}",)),
        IdentityRules(SubjectRule.replace, inventory=InventoryUse.required, identity_from="cn"),
    ]
    for identity in rules:
        inventory = Inventory() if identity.inventory is InventoryUse.required else None
        world = make(vendor_pki, operator_pki, identity=identity, inventory=inventory)
        device = world.device("occm.core.example.net")
        der = await asked_by(world, device, "CN=enb-1.ran.example.net")
        await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")


@pytest.mark.requirement(67)
async def test_another_ra_does_not_get_them(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Neither one that is listed and may ask for all names, nor another one that is known by name; nor revoke it."""
    everything = IdentityRules(allowed_subjects=("*",), allowed_sans=("*",))
    named = RegisteredName(
        from_rfc4514("CN=other-ra"), rights=RARights(everything, revoke_on_behalf=True)
    )
    listed = local_ra(operator_pki)
    world = make(
        vendor_pki,
        operator_pki,
        endpoint={
            "registration_authorities": registered(operator_pki, listed, names=(OCCM, named))
        },
    )
    its = cmp_certificate(occm(operator_pki).certificate)
    for signer in (listed, operator_pki.issuing.issue("CN=other-ra", "p256")):
        for body_type in (BodyType.ir, BodyType.kur):
            der = await asked_by(world, signer, SUBJECT, (SAN,), body_type=body_type)
            told = BodyType(body_type + 1)
            await requests.assert_refused_in_body(
                world, der, "notAuthorized", rule="R67", body_type=told
            )
        await assert_served(world, await asked_by(world, signer, "CN=enb-1"))
        credential = cmp_credential(signer)
        der = await requests.message(
            world,
            credential,
            rev_req_body(requests.details(its)),
            extra_certs=(*credential.certificates, its.der),
        )
        await assert_refused(world, der, "notAuthorized", rule="R130", body_type=BodyType.rp)
    # Who does not show it is not asked of the CA: it could be an RA's.
    everyone = cmp_credential(listed)
    der = await requests.message(world, everyone, rev_req_body(requests.details(its)))
    await assert_refused(world, der, "notAuthorized", rule="R130", body_type=BodyType.rp)


@pytest.mark.requirement(67)
async def test_its_names_are_reserved_at_other_endpoints_too(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Where it is not registered itself: a certificate is good at every endpoint."""
    world = World.make(vendor_pki, operator_pki, endpoint={"reserved": (OCCM,)})
    der = await asked_by(world, world.device(), SUBJECT, (SAN,))
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")
    # Nor does who has such a certificate from before become an RA there, or renew it.
    old = occm(operator_pki)
    der = await asked_by(world, old, None, body_type=BodyType.kur)
    await requests.assert_refused_in_body(
        world, der, "notAuthorized", rule="R67", body_type=BodyType.kup
    )


@pytest.mark.requirement(87)
@pytest.mark.parametrize("only_san", [True, False])
async def test_a_ca_that_adds_its_names_is_not_believed(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, only_san: bool
) -> None:
    """The device asked for others; what was issued is not relayed, and known to whoever withdraws it."""
    name = RegisteredName(b"", (SAN,)) if only_san else RegisteredName(from_rfc4514(SUBJECT))
    world = make(vendor_pki, operator_pki, name, upstream={"expected_subject": "any"})

    key = make_key("p256")

    def script(answer: Answer) -> None:
        issued = operator_pki.issuing.sign(SUBJECT, key.public_key(), san=[SAN])
        answer.set_response(certificate_der=cmp_certificate(issued).der)

    world.ca.script = script
    der = await asked_by(world, world.device(), "CN=enb-1.ran.example.net", new_key=key)
    answer = await world.ask(der)
    assert list(fail_names(answer)) == ["systemFailure"]
    assert world.events[-1].rule == "R87"


@pytest.mark.requirement(45, 67)
async def test_a_shared_secret_for_its_subject_begins_it(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """The operator gave that line the name; one for another subject, with its name among others, does not do."""
    csv_path = tmp_path / "secrets.csv"
    rows = [
        "reference,secret,subject,san,single_use,expires",
        f'occm-first,{mac.SECRET},"{SUBJECT}",{SAN},true,',
        f"enb-1-ref,{mac.SECRET},CN=enb-1,{SAN},false,",
    ]
    csv_path.write_text("\n".join(rows) + "\n")
    world = mac.make_world(
        vendor_pki,
        operator_pki,
        csv_path,
        strictness=Strictness.lenient,
        registration_authorities=registered(operator_pki, names=(OCCM,)),
    )
    der = await mac.ir(world, reference="occm-first", subject=SUBJECT, san=(SAN,))
    assert status_of(await world.ask(der)).issued
    der = await mac.ir(world, subject="CN=enb-1", san=(SAN,))
    answer = await world.ask(der)
    assert list(fail_names(answer)) == ["notAuthorized"]
    assert world.events[-1].rule == "R67"
