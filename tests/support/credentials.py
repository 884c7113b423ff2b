"""Certificates and credentials of the test PKIs as the product sees them."""

from __future__ import annotations

from typing import Any

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.protection import Credential as CMPCredential
from ra_gateway.keys import KeySigner
from tests.support.pki import Credential, certificate_der


def cmp_certificate(certificate: Any) -> Certificate:
    """Our view of a certificate of `cryptography`."""
    return Certificate.from_der(certificate_der(certificate))


def cmp_credential(credential: Credential) -> CMPCredential:
    """A test PKI's credential as the product's: chain without the root."""
    chain = tuple(cmp_certificate(item) for item in credential.chain if item.subject != item.issuer)
    return CMPCredential(
        cmp_certificate(credential.certificate), chain, KeySigner(credential.private_key)
    )
