"""Extensions that no end entity's certificate can have: badCertTemplate wherever they are asked for (RFC 5280 4.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from ra_gateway.ca.authorization import Mode
from ra_gateway.cmp import asn1
from ra_gateway.cmp.certificates import KEY_USAGES
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.crmf import CertTemplate, Extension
from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential
from ra_gateway.errors import PKIFailureInfo
from tests.support import pki, requests
from tests.support.asserts import assert_served
from tests.support.credentials import cmp_credential
from tests.support.desk import SUBJECT, Desk, open_client, open_desk
from tests.support.harness import MakeWorld, World


def constraints(value_hex: str, *, critical: bool = True) -> Extension:
    return Extension(OID.basicConstraints, critical, bytes.fromhex(value_hex))


def usage(*bits: int) -> Extension:
    return Extension(OID.keyUsage, True, asn1.encode(asn1.named_bits(list(bits))))


def purposes(*dotted: str) -> Extension:
    return Extension(OID.extKeyUsage, False, asn1.tlv(0x30, *map(asn1.oid_der, dotted)))


NOT_CA, A_CA = constraints("3000"), constraints("30030101ff")
KEY_CERT_SIGN, CRL_SIGN = 5, 6

IMPOSSIBLE = {
    "cA FALSE and pathLen 5": ([constraints("3003020105")], "cA FALSE and a pathLenConstraint"),
    "cA FALSE and pathLen 0": (
        [constraints("3003020100", critical=False)],
        "cA FALSE and a pathLenConstraint",
    ),
    "negative pathLen": ([constraints("30060101ff0201ff")], "negative pathLenConstraint"),
    "basicConstraints that are none": ([constraints("0500")], "basicConstraints"),
    "keyCertSign with cA FALSE": ([NOT_CA, usage(0, KEY_CERT_SIGN)], "beside basicConstraints"),
    "keyCertSign before cA FALSE": ([usage(KEY_CERT_SIGN), NOT_CA], "beside basicConstraints"),
    "keyUsage with no bits": ([usage()], "keyUsage without a usage"),
    "keyUsage of zeros": (
        [Extension(OID.keyUsage, True, bytes.fromhex("03020000"))],
        "keyUsage",
    ),
    "keyUsage that is none": ([Extension(OID.keyUsage, True, b"\x05\x00")], "keyUsage"),
    "empty extKeyUsage": ([purposes()], "extKeyUsage without a purpose"),
    "a purpose twice": ([purposes(OID.ipsecIKE, OID.ipsecIKE)], "twice"),
    "extKeyUsage twice": ([purposes(OID.ipsecIKE), purposes(OID.ipsecIKE)], "twice"),
    "subjectAltName without names": (
        [Extension(OID.subjectAltName, False, b"\x30\x00")],
        "subjectAltName",
    ),
    "nameConstraints": ([Extension(OID.nameConstraints, True, b"\x30\x00")], "CAs only"),
    "policyConstraints": ([Extension(OID.policyConstraints, True, b"\x30\x00")], "CAs only"),
    "inhibitAnyPolicy": ([Extension(OID.inhibitAnyPolicy, True, b"\x02\x01\x00")], "CAs only"),
    "critical subjectKeyIdentifier": (
        [Extension(OID.subjectKeyIdentifier, True, b"\x04\x14" + bytes(20))],
        "is critical",
    ),
}

POWERS = {
    "cA TRUE": [A_CA],
    "cA TRUE and pathLen 0": [constraints("30060101ff020100")],
    "cA TRUE and keyCertSign": [A_CA, usage(KEY_CERT_SIGN)],
    "keyCertSign and nothing said of cA": [usage(0, KEY_CERT_SIGN)],
    "cRLSign with cA FALSE": [NOT_CA, usage(CRL_SIGN)],
}
"""What a CA's certificate can have, and no device may ask for."""

HARMLESS = {
    "cA FALSE": [NOT_CA],
    "cA FALSE, not critical": [constraints("3000", critical=False)],
    "keyUsage that is not critical": [Extension(OID.keyUsage, False, usage(0).value)],
    "critical extKeyUsage": [
        Extension(OID.extKeyUsage, True, purposes(OID.ipsecIKE).value),
    ],
}


@pytest.fixture
def key() -> Any:
    return pki.make_key("p256")


@pytest.fixture
def device(world: World) -> Credential:
    return cmp_credential(world.device())


# --- through the gateway ------------------------------------------------------------------------------------------


@pytest.mark.requirement(63, 112)
@pytest.mark.parametrize("case", IMPOSSIBLE)
async def test_the_gateway_refuses_what_no_certificate_can_have(
    world: World, device: Credential, key: Any, case: str
) -> None:
    """badCertTemplate in ip; the log names the extension and the clause; no CA hears of it."""
    extensions, why = IMPOSSIBLE[case]
    asked = requests.template(key, extensions=extensions)
    der = await requests.request(world, device, key, asked)
    await requests.assert_refused_in_body(world, der, "badCertTemplate", rule="", detail=why)
    assert world.events[-1].rule.startswith("RFC 5280 4.2")
    assert world.ca.received == []


@pytest.mark.requirement(63)
@pytest.mark.parametrize("case", POWERS)
async def test_the_gateway_refuses_the_powers_of_a_ca(
    world: World, device: Credential, key: Any, case: str
) -> None:
    """notAuthorized: there are such certificates, for others."""
    asked = requests.template(key, extensions=POWERS[case])
    der = await requests.request(world, device, key, asked)
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R63")


@pytest.mark.parametrize("case", HARMLESS)
async def test_the_gateway_passes_on_what_does_no_harm(
    world: World, device: Credential, key: Any, case: str
) -> None:
    """How critical an extension is the CA decides."""
    asked = requests.template(key, extensions=HARMLESS[case])
    await assert_served(world, await requests.request(world, device, key, asked))


@pytest.mark.requirement(63)
async def test_a_renewal_is_read_alike(world: World, key: Any) -> None:
    """badCertTemplate in kup."""
    signer = cmp_credential(world.operator.device())
    asked = requests.template(key, None, extensions=[constraints("3003020105")])
    der = await requests.request(world, signer, key, asked, body_type=BodyType.kur)
    await requests.assert_refused_in_body(
        world, der, "badCertTemplate", rule="RFC 5280 4.2", body_type=BodyType.kup
    )


@pytest.mark.requirement(63)
async def test_a_pkcs10_is_read_alike(make_world: MakeWorld, key: Any) -> None:
    """badCertTemplate in cp."""
    world = make_world(endpoint={"body_types": frozenset({BodyType.ir, BodyType.p10cr})})
    builder = x509.CertificateSigningRequestBuilder(x509.Name.from_rfc4514_string("CN=x"))
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    signs = x509.KeyUsage(*(name == "keyCertSign" for name in KEY_USAGES))
    request = builder.add_extension(signs, True).sign(key, hashes.SHA256())
    der = await requests.p10cr(
        world, cmp_credential(world.device()), request.public_bytes(Encoding.DER)
    )
    await requests.assert_refused_in_body(
        world,
        der,
        "badCertTemplate",
        rule="RFC 5280 4.2",
        body_type=BodyType.cp,
        cert_req_id=-1,
    )


# --- the bundled CA -----------------------------------------------------------------------------------------------


@pytest.fixture(params=list(Mode))
async def desk(
    request: pytest.FixtureRequest,
    operator_pki: pki.OperatorPKI,
    vendor_pki: pki.VendorPKI,
    tmp_path: Path,
) -> AsyncIterator[Desk]:
    """The CA in either mode."""
    path = tmp_path / "ledger.sqlite"
    opened = (
        open_desk(operator_pki, path)
        if request.param is Mode.ra
        else open_client(operator_pki, vendor_pki, path)
    )
    async with opened as desk:
        yield desk


def asking(extensions: Iterable[Extension]) -> CertTemplate:
    return CertTemplate(subject_der=from_rfc4514(SUBJECT), extensions=tuple(extensions))


@pytest.mark.requirement(63, 112)
async def test_the_ca_refuses_what_no_certificate_can_have(desk: Desk) -> None:
    """badCertTemplate in ip, in either mode, and nothing is issued; what a CA may have is notAuthorized."""
    for cases, info in (
        ([extensions for extensions, _ in IMPOSSIBLE.values()], PKIFailureInfo.badCertTemplate),
        (list(POWERS.values()), PKIFailureInfo.notAuthorized),
    ):
        for extensions in cases:
            der = await desk.request(template=asking(extensions))
            assert await desk.refused(der) == (BodyType.ip, info), extensions
    assert await desk.ledger.counts() == {}


async def test_the_ca_says_what_it_left_out(desk: Desk) -> None:
    """An extension that it does not know, critical or not: grantedWithMods, and the device may do without."""
    for critical in (False, True):
        asked = Extension("1.2.3.4", critical, b"\x05\x00")
        enrolment = await desk.enrol(template=asking([asked]))
        assert enrolment.status.status is PKIStatus.grantedWithMods
        assert "1.2.3.4" not in enrolment.certificate.extensions


async def test_the_ca_marks_what_it_issues_itself(desk: Desk) -> None:
    """keyUsage is critical whatever was asked for; "no CA" is not repeated."""
    asked = [*HARMLESS["keyUsage that is not critical"], NOT_CA]
    enrolment = await desk.enrol(template=asking(asked))
    assert enrolment.certificate.extensions[OID.keyUsage][0]
    assert OID.basicConstraints not in enrolment.certificate.extensions
