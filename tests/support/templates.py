"""Certificate templates as tests of profiles and of the issuer ask for them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from ra_gateway.ca.profiles import OCSP_SIGNER
from ra_gateway.cmp.crmf import CertTemplate
from ra_gateway.cmp.names import from_rfc4514
from tests.support import pki, requests

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
SUBJECT: Final = from_rfc4514("CN=enb1.example.net,O=Example Operator")
SAN: Final = requests.san_extension("dns:enb1.example.net", "ip:192.0.2.1")

EVERY_EXTENSION: Final = replace(
    OCSP_SIGNER,
    crl_urls=("http://a.example.net/{issuer}.crl", "ldap://b.example.net/cn=ca"),
    delta_crl_url="http://a.example.net/d.crl",
    ocsp_url="http://o.example.net/",
    ca_issuers_url="http://a.example.net/{issuer}.cer",
    certificate_policies=("1.2.3.4",),
)
"""A profile with all that a profile adds by itself."""


def spki(kind: pki.KeyKind = "p256") -> bytes:
    """Return the SubjectPublicKeyInfo of a new key."""
    return requests.spki(pki.make_key(kind))


def template(kind: pki.KeyKind = "p256", **changes: Any) -> CertTemplate:
    """Return a template for a new key, with a subject and no extensions."""
    return replace(CertTemplate(subject_der=SUBJECT, spki_der=spki(kind)), **changes)
