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
from tests.support.harness import Answer, World, cmp_credential, fail_names

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
