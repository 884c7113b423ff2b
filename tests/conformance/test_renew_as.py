"""Certificates that were issued under a profile which another has replaced since (`ca.renew_as`)."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ra_gateway.ca import profiles
from ra_gateway.ca.authorization import ClientMode, Mode
from ra_gateway.ca.records import CertificateStatus, Role
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import CertTemplate
from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.errors import PKIFailureInfo
from tests.support.desk import (
    ALL,
    ENB1,
    NOW,
    Desk,
    enrolled,
    open_client,
    open_desk,
    vendor_domain,
)
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.profiles import NE_IPSEC, with_crl

OWN = replace(NE_IPSEC, name="own")
STRICT = with_crl(profiles.NE_IPSEC)
SILENT = profiles.NE_IPSEC
"""Without the URL of a CRL, it issues nothing."""
SUBJECT = CertTemplate(subject_der=from_rfc4514("CN=enb1"))


def later(
    operator: OperatorPKI, path: Path, old: profiles.Profile, **options: Any
) -> AbstractAsyncContextManager[Desk]:
    """The same CA with a default profile of its own, and ne_ipsec as it is now."""
    return open_desk(operator, path, profile=OWN, more_profiles=(old,), **options)


@pytest.mark.requirement("T1", "T8")
async def test_an_ra_renews_by_the_profile_that_came_after(
    operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """Its role needs the new one and no other; what it had issued under the old one it may revoke."""
    path = tmp_path / "ledger.sqlite"
    async with open_desk(operator_pki, path) as desk:
        device = await enrolled(desk, template=SUBJECT)
    async with later(operator_pki, path, STRICT) as desk:
        refused = await desk.refused(await desk.request(BodyType.kur, template=SUBJECT))
        assert refused == (BodyType.kup, PKIFailureInfo.badCertTemplate)
    renew_as = {"ne_ipsec": "own"}
    async with later(operator_pki, path, STRICT, renew_as=renew_as) as desk:
        refused = await desk.refused(await desk.request(BodyType.kur, template=SUBJECT))
        assert refused == (BodyType.kup, PKIFailureInfo.notAuthorized)
        await desk.ledger.registry.put_role(Role("ra1", ALL, ("own",)), "test", NOW)
    async with later(operator_pki, path, STRICT, renew_as=renew_as) as desk:
        renewed = await enrolled(desk, body_type=BodyType.kur, template=SUBJECT)
        found = await desk.ledger.certificate(renewed.certificate.serial_number, NOW)
        assert found is not None
        assert found.profile == "own"
        assert (await desk.send(await desk.revocation(device.certificate))).body_type is BodyType.rp
        assert await desk.status(device.certificate) is CertificateStatus.revoked


@pytest.mark.parametrize("body_type", [BodyType.kur, BodyType.cr])
async def test_a_device_renews_by_it_itself(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path, body_type: BodyType
) -> None:
    """In client mode; a device that was registered, or whose RA vouched for it, which signs cr as well."""
    path = tmp_path / "ledger.sqlite"
    if body_type is BodyType.kur:
        entity = replace(ENB1, subject="CN=enb1")
        async with open_client(operator_pki, vendor_pki, path, entity) as desk:
            device = await enrolled(desk, template=SUBJECT)
    else:
        async with open_desk(operator_pki, path) as desk:
            device = await enrolled(desk, template=SUBJECT)
    client = ClientMode({"acme": vendor_domain(vendor_pki)}, "cn")
    for renew_as, failure in (({}, PKIFailureInfo.badCertTemplate), ({"ne_ipsec": "own"}, None)):
        async with later(operator_pki, path, STRICT, renew_as=renew_as, client=client) as desk:
            desk.mode, desk.ra = Mode.client, device.entity
            if failure is not None:
                _, bit = await desk.refused(await desk.request(body_type, template=SUBJECT))
                assert bit is failure
            else:
                got = await desk.enrol(body_type, template=SUBJECT)
                found = await desk.ledger.certificate(got.certificate.serial_number, NOW)
                assert found is not None
                assert found.profile == "own"


@pytest.mark.requirement("T14")
async def test_the_refusal_says_whose_profile_issues_nothing(
    operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """Of a kur that of the old certificate, else that of the role; each with the setting that changes it."""
    path = tmp_path / "ledger.sqlite"
    async with open_desk(operator_pki, path) as desk:
        await enrolled(desk)
    async with later(operator_pki, path, SILENT) as desk:
        for body_type, told in (
            (BodyType.kur, ("certificate to renew was issued under ne_ipsec", "ca.renew_as")),
            (BodyType.ir, ("ra1 (role ra1) asks under ne_ipsec", "ca role add ra1")),
        ):
            with capture_logs() as lines:
                _, bit = await desk.refused(await desk.request(body_type))
            assert bit is PKIFailureInfo.systemFailure
            (detail,) = (line["detail"] for line in lines if "T14" in str(line.values()))
            assert all(text in detail for text in told)
