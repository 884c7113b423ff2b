"""Who may what at the gateway: which certificates count as a device's, what they may ask for, and what is relayed."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ra_gateway.cmp import asn1
from ra_gateway.cmp.certificates import ExtensionOID
from ra_gateway.cmp.codes import PRIVILEGED_PURPOSES, BodyType
from ra_gateway.cmp.messages import Extension, cert_req_messages
from ra_gateway.cmp.names import rfc4514
from tests.support import pki, requests
from tests.support.asserts import assert_refused, assert_served
from tests.support.harness import Answer, World, cmp_certificate, cmp_credential, fail_names

SERVER_AUTH = "1.3.6.1.5.5.7.3.1"


@pytest.fixture
def world(vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI) -> World:
    return World.make(vendor_pki, operator_pki)


@pytest.fixture
def key() -> Any:
    return pki.make_key("p256")


def purposes(*dotted: str) -> Extension:
    """An ExtendedKeyUsage to ask for."""
    oids = b"".join(asn1.oid_der(item) for item in dotted)
    return Extension(ExtensionOID.extKeyUsage, False, asn1.tlv(0x30, oids))


# --- privileged purposes ----------------------------------------------------------------------------------------


@pytest.mark.requirement(36)
@pytest.mark.parametrize("purpose", sorted(PRIVILEGED_PURPOSES))
async def test_who_speaks_for_the_pki_is_no_device(world: World, key: Any, purpose: str) -> None:
    """An OCSP signer, and whoever may do anything, open nothing; not beside a usual purpose either."""
    eku = [SERVER_AUTH, purpose]
    factory = cmp_credential(world.device("X-1", eku=eku))
    der = await requests.request(world, factory, key)
    await assert_refused(world, der, "notAuthorized", rule="R36", body_type=BodyType.ip)
    signer = cmp_credential(world.operator.device("x-1", eku=eku))
    for asked, told in ((BodyType.cr, BodyType.cp), (BodyType.kur, BodyType.kup)):
        der = await requests.request(world, signer, key, body_type=asked)
        await assert_refused(world, der, "notAuthorized", rule="R36", body_type=told)


@pytest.mark.requirement(63)
@pytest.mark.parametrize("purpose", sorted(PRIVILEGED_PURPOSES))
async def test_nobody_asks_for_what_speaks_for_the_pki(
    world: World, key: Any, purpose: str
) -> None:
    """Alone or beside a usual purpose; no CA hears of it."""
    for asked in (purposes(purpose), purposes(SERVER_AUTH, purpose)):
        der = await requests.request(
            world, cmp_credential(world.device()), key, requests.template(key, extensions=(asked,))
        )
        await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R63")


def issuing(world: World, **options: Any) -> Any:
    """A script that issues what was asked for, with more in it."""

    def script(answer: Answer) -> None:
        if answer.request.body_type is BodyType.certConf:
            return
        template = cert_req_messages(answer.request.body_content)[0].template
        issued = world.operator.issuing.sign(
            rfc4514(template.subject_der or b""),
            load_der_public_key(template.spki_der or b""),  # type: ignore[arg-type]
            **options,
        )
        answer.set_response(certificate_der=pki.certificate_der(issued))

    return script


@pytest.mark.requirement(87)
@pytest.mark.parametrize(
    "options",
    [
        *({"eku": [SERVER_AUTH, purpose]} for purpose in sorted(PRIVILEGED_PURPOSES)),
        {"key_usage": ["digitalSignature", "keyCertSign"]},
        {"key_usage": ["digitalSignature", "cRLSign"]},
    ],
    ids=str,
)
async def test_what_speaks_for_the_pki_is_not_relayed(
    world: World, key: Any, options: dict[str, Any]
) -> None:
    """Whatever a CA issues: a base station with it would be an OCSP responder, an RA or a CA."""
    world.ca.script = issuing(world, **options)
    device = cmp_credential(world.device())
    answer = await world.ask(await requests.request(world, device, key))
    assert fail_names(answer) == ["systemFailure"]
    assert (world.events[-1].outcome, world.events[-1].rule) == ("failed", "R87")


@pytest.mark.requirement(87)
async def test_a_usual_purpose_is_relayed(world: World, key: Any) -> None:
    """The check is not blind to what a base station needs."""
    world.ca.script = issuing(world, eku=[SERVER_AUTH])
    await assert_served(world, await requests.request(world, cmp_credential(world.device()), key))


# --- who answers for a CA ---------------------------------------------------------------------------------------


def signed_by(credential: pki.Credential) -> Any:
    """A script whose answers another credential protects."""

    def script(answer: Answer) -> None:
        answer.credential = cmp_credential(credential)
        answer.extra_certs = (*answer.credential.certificates, answer.extra_certs[-1])

    return script


async def answered(world: World, key: Any) -> list[str]:
    """failInfo of the answer to an ir."""
    der = await requests.request(world, cmp_credential(world.device()), key)
    return list(fail_names(await world.ask(der)))


@pytest.mark.requirement(84)
async def test_an_ra_does_not_answer_for_the_ca(world: World, key: Any) -> None:
    """cmcRA under the operator's root: another RA's certificate, and the gateway's own."""
    other = world.operator.issuing.issue("CN=Other RA", eku=[pki.CMC_RA])
    for credential in (other, world.operator.ra):
        world.ca.script = signed_by(credential)
        assert await answered(world, key) == ["systemFailure"]
        assert world.events[-1].rule == "R84"
        assert "ca_certificate_paths" in world.events[-1].detail


@pytest.mark.requirement(84)
async def test_another_ca_of_the_operator_does_not_answer_for_the_ca(world: World, key: Any) -> None:
    """A CA certificate below the operator's root that nobody listed; the listed issuing CA may."""
    branch = world.operator.root.issue_ca("CN=Branch CA", key_usage=["digitalSignature"])
    world.ca.script = signed_by(
        pki.Credential(branch.certificate, branch.private_key, (world.operator.root.certificate,))
    )
    assert await answered(world, key) == ["systemFailure"]
    assert world.events[-1].rule == "R84"


@pytest.mark.requirement(84)
@pytest.mark.parametrize("own", [False, True])
async def test_who_stands_in_for_the_ca_is_named(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, key: Any, own: bool
) -> None:
    """An RA that is pinned may answer, but never with the gateway's own certificate."""
    other = operator_pki.issuing.issue("CN=Other RA", eku=[pki.CMC_RA])
    certificate = cmp_certificate(other.certificate)
    mine = (certificate,) if own else ()
    world = World.make(
        vendor_pki, operator_pki, upstream={"pinned": (certificate,), "own": lambda: mine}
    )
    world.ca.script = signed_by(other)
    assert await answered(world, key) == (["systemFailure"] if own else [])


@pytest.mark.requirement(84)
async def test_the_gateways_own_certificate_with_cmc_ca_answers_for_nobody(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, key: Any
) -> None:
    """A reflected message stays one, whatever the certificate says."""
    both = operator_pki.issuing.issue("CN=RA", eku=[pki.CMC_RA, pki.CMC_CA])
    mine = (cmp_certificate(both.certificate),)
    world = World.make(vendor_pki, operator_pki, upstream={"own": lambda: mine})
    world.ca.script = signed_by(both)
    assert await answered(world, key) == ["systemFailure"]
    assert "own certificate" in world.events[-1].detail
