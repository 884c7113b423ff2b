"""pkilint's word on what the bundled CA makes besides end entities' certificates: its own, cross certificates, CRLs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from ra_gateway.ca.crl import CRLPublisher, CRLSettings
from ra_gateway.ca.cross import RootKey, cross_certify, make_root_crl
from ra_gateway.ca.keys import create_operator_pki
from ra_gateway.ca.profiles import SEG, Profile
from ra_gateway.ca.ra_credential import issue_ra_certificate
from ra_gateway.ca.records import Reason
from ra_gateway.ca.rollover import roll_issuing, roll_root
from ra_gateway.keys import load_certificates
from tests.support.linting import certificate_errors, crl_errors
from tests.support.pki import KeyKind, make_key
from tests.support.status import status_ca

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CRL_URL = "http://pki.example.net/crl/root.crl"


def errors_of(profile: Profile, path: Path) -> list[str]:
    """Return pkilint's errors about each certificate of a file."""
    return [
        finding
        for certificate in load_certificates(path, "test")
        for finding in certificate_errors(profile, certificate.der)
    ]


@pytest.mark.parametrize("kind", ["p256", "rsa3072", "ed25519"])
def test_the_cas_own_certificates(kind: str, tmp_path: Path) -> None:
    """Those that `create` makes, of an RA, of a rollover of both CAs, and for another operator's CA."""
    directory = tmp_path / "ca"
    asyncio.run(create_operator_pki(directory, now=NOW, name="Op", key_kind=kind))
    asyncio.run(issue_ra_certificate(directory, "CN=ra,O=Op", now=NOW, target=tmp_path / "ra"))
    builder = x509.CertificateSigningRequestBuilder()
    named = builder.subject_name(x509.Name.from_rfc4514_string("CN=Op Two SEG CA,O=Op Two"))
    request: Any = named.sign(make_key("p256"), hashes.SHA256())
    cross_certify(
        directory,
        request.public_bytes(Encoding.DER),
        RootKey(),
        now=NOW,
        days=365,
        crl_url=CRL_URL,
        permitted=["op2.example"],
    )
    asyncio.run(roll_issuing(directory, now=NOW))
    roll_root(directory, now=NOW)
    paths = sorted(tmp_path.rglob("*.pem"))
    assert len(paths) > 8
    assert {str(path): errors_of(SEG, path) for path in paths if errors_of(SEG, path)} == {}


@pytest.mark.requirement(129, "T23")
@pytest.mark.parametrize("kind", ["p256", "rsa2048", "ed448"])
async def test_crls(tmp_path: Path, kind: KeyKind) -> None:
    """Without an entry, with entries of each reason, and delta CRLs."""
    settings = CRLSettings(delta_minutes=60, delta_url="http://pki.example.net/{issuer}-delta.crl")
    async with status_ca(tmp_path, NOW, kind) as ca:
        publisher = CRLPublisher([ca.issuing], ca.ledger, ca.clock, settings)
        made = [await publisher.publish(ca.issuing)]
        for reason in Reason:
            if reason is not Reason.removeFromCRL:
                await ca.revoke(await ca.issue(), reason)
        made.append(await publisher.publish(ca.issuing, delta=True))
        made.append(await publisher.publish(ca.issuing))
    assert [crl_errors(item.der) for item in made] == [[], [], []]


@pytest.mark.requirement("T23", "T26")
def test_the_roots_crl(tmp_path: Path) -> None:
    """Empty, and with a certificate that it signed."""
    asyncio.run(create_operator_pki(tmp_path, now=NOW, name="Op"))
    issuing = load_certificates(tmp_path / "issuing.pem", "test")[0]
    for revoke in ({}, {issuing.serial_number: Reason.cACompromise}):
        make_root_crl(tmp_path, RootKey(), now=NOW, days=30, revoke=revoke, first=not revoke)
        assert crl_errors((tmp_path / "root.crl").read_bytes(), "ARL") == []
