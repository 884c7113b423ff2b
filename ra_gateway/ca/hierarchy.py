"""The CA's own hierarchy: certificates of the root, of issuing CAs, and of their signers.

What is issued on request is another matter (`issuer`, `profiles`).

A CA's certificate is put together from octets: another CA's names and extensions go on as they are.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ra_gateway.ca.derivation import require_crl_url
from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.profiles import CMP_SIGNER, KGA_SIGNER, OCSP_SIGNER, Profile
from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import default_algorithm, key_family, signing_arguments
from ra_gateway.cmp.certificates import Certificate, KeyUsage, key_identifier
from ra_gateway.cmp.crl import distribution_point_urls
from ra_gateway.cmp.crmf import CertTemplate, Extension
from ra_gateway.cmp.names import from_rfc4514, general_names_der
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.x520 import subject_faults, subject_text_faults
from ra_gateway.errors import CMPError, ConfigError
from ra_gateway.keys import KEY_KINDS, spki_der

ROOT_DAYS: Final = 20 * 365
ISSUING_DAYS: Final = 10 * 365
SIGNER_DAYS: Final = 3 * 365
"""Of the CMP signer and the RA: changed with two certificates in use at once, hence more often."""

OCSP_DAYS: Final = 365
"""Of the OCSP signer: with id-pkix-ocsp-nocheck nobody can revoke it (RFC 6960 4.2.2.2.1: keep it short)."""

SIGNERS: Final = MappingProxyType(
    {
        "cmp": replace(CMP_SIGNER, validity_days=SIGNER_DAYS),
        "ocsp": replace(OCSP_SIGNER, validity_days=OCSP_DAYS),
    }
)
"""File name to profile of the CA's own signers."""

KGA: Final = "kga"
OPTIONAL_SIGNERS: Final = MappingProxyType({KGA: replace(KGA_SIGNER, validity_days=SIGNER_DAYS)})
"""Those that not every CA has: the key generation authority, for a CA that makes devices' keys."""

_OWN: Final = (
    OID.basicConstraints,
    OID.keyUsage,
    OID.subjectKeyIdentifier,
    OID.authorityKeyIdentifier,
)
_KINDS: Final = MappingProxyType({"secp256r1": "p256", "secp384r1": "p384", "secp521r1": "p521"})
_SERIAL_BITS: Final = 126

Extensions = dict[str, tuple[bool, bytes]]
"""As of `Certificate.extensions`."""


@contextmanager
def as_config_error(path: str) -> Iterator[None]:
    """Raise a refusal as a ConfigError: at the command line there is no peer that would get it."""
    try:
        yield
    except CMPError as error:
        raise ConfigError.of(
            path, f"the certificate cannot be made: {error.detail}", "Remove the cause and repeat"
        ) from error


def require_kind(kind: str) -> str:
    """Return a kind of private key.

    Raises:
        ConfigError: There is no such kind.
    """
    if kind not in KEY_KINDS:
        raise ConfigError.of(
            "key_kind", f"{kind!r} is no kind of key", f"Choose one of {', '.join(KEY_KINDS)}"
        )
    return kind


def kind_of(certificate: Certificate) -> str:
    """Return the kind of a certified key, out of `ra_gateway.keys.KEY_KINDS`.

    Raises:
        ConfigError: It is of none of these kinds.
    """
    key = certificate.public_key
    family = key_family(key).replace("-", "")
    if isinstance(key, ec.EllipticCurvePublicKey):
        family = _KINDS.get(key.curve.name, key.curve.name)
    elif isinstance(key, rsa.RSAPublicKey):
        family = f"rsa{key.key_size}"
    return require_kind(family)


def issued_by(certificate: Certificate, issuer: Certificate) -> bool:
    """Tell whether a certificate names an issuer and was signed with its key."""
    try:
        certificate.verify_issued_by(issuer)
    except (InvalidSignature, CMPError):
        return False
    return certificate.issuer_der == issuer.subject_der


# --- Names ------------------------------------------------------------------------------------------------------


def ca_subject(organization: str, role: str) -> bytes:
    """Return the DER of the name of a CA that is founded, or of one of its signers.

    Raises:
        ConfigError: The organisation's name is empty or too long for a subject.
    """
    try:
        name = x509.Name(
            [
                x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, organization),
                x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{organization} {role}"),
            ]
        )
    except ValueError as error:
        raise ConfigError.of(
            "name", f"no subject can be made of {organization!r}", "Give 1 to 50 characters"
        ) from error
    subject_der = name.public_bytes()
    for fault in subject_faults(subject_der):
        raise ConfigError.of(
            "name", f"no subject can be made of {organization!r}: {fault}", "Give it another name"
        )
    return subject_der


def parse_subject(subject: str) -> bytes:
    """Return the DER of a name from its RFC 4514 form.

    Raises:
        ConfigError: It is none, or one that cannot be certified.
    """
    try:
        subject_der = from_rfc4514(subject)
    except ValueError as error:
        raise ConfigError.of(
            "subject", f"{subject!r} is no name: {error}", "Write it like CN=ra1,O=Operator"
        ) from error
    for fault in subject_text_faults(subject):
        raise ConfigError.of(
            "subject", f"{subject!r} cannot be certified: {fault}", "Write another value there"
        )
    return subject_der


def signer_subject(issuing: Certificate, role: str) -> bytes:
    """Return the DER of the name of an issuing CA's signer: "X Issuing CA G2" has "X CMP" and "X OCSP"."""
    return _renamed(
        issuing,
        lambda text: f"{re.sub(r'( Issuing)?( CA)?( G[0-9]+)?$', '', text) or text} {role.upper()}",
    )


def successor_subject(issuing: Certificate, generation: int) -> bytes:
    """Return the DER of the name of an issuing CA's successor, "X Issuing CA G2" for example.

    A name of its own: were it the same, a CRL signed with one key would seem to cover the certificates that
    were signed with the other.
    """
    return _renamed(issuing, lambda text: f"{re.sub(r' G[0-9]+$', '', text)} G{generation}")


def _renamed(certificate: Certificate, change: Callable[[str], str]) -> bytes:
    rdns = list(x509.load_der_x509_certificate(certificate.der).subject.rdns)
    oid = x509.NameOID.COMMON_NAME
    for index in range(len(rdns) - 1, -1, -1):
        found = rdns[index].get_attributes_for_oid(oid)
        if found:
            rest = [item for item in rdns[index] if item is not found[0]]
            rdns[index] = _rdn([_common_name(change(str(found[0].value))), *rest])
            break
    else:
        rdns.append(_rdn([_common_name(change("CA"))]))
    return x509.Name(rdns).public_bytes()


def _rdn(attributes: list[x509.NameAttribute[Any]]) -> x509.RelativeDistinguishedName:
    return x509.RelativeDistinguishedName(attributes)


def _common_name(text: str) -> x509.NameAttribute[str]:
    try:
        return x509.NameAttribute(x509.NameOID.COMMON_NAME, text)
    except ValueError as error:
        raise ConfigError.of("subject", f"{text!r} is too long a CN", "Give a subject") from error


# --- Certificates of CAs ----------------------------------------------------------------------------------------


def ca_extensions(path_length: int | None, model: Certificate | None = None) -> Extensions:
    """Return the extensions of a CA certificate, but for the key identifiers (TS 33.310 6.1.4).

    Args:
        path_length: How many CAs may follow; None leaves it open.
        model: Certificate whose remaining extensions (policies, constraints, where CRLs are) are taken over.
    """
    usage = asn1.named_bits([KeyUsage.keyCertSign, KeyUsage.cRLSign])
    constraints = structures.BasicConstraints(ca=True, path_len_constraint=path_length)
    extensions = {
        OID.basicConstraints: (True, asn1.encode(constraints)),
        OID.keyUsage: (True, asn1.encode(usage)),
    }
    if model is not None:
        extensions |= {oid: value for oid, value in model.extensions.items() if oid not in _OWN}
    return extensions


def certify_ca(
    subject_der: bytes,
    subject_spki_der: bytes,
    issuer: Certificate | None,
    issuer_key: Any,
    *,
    not_before: datetime,
    not_after: datetime,
    extensions: Extensions,
    subject_key_identifier: bytes | None = None,
) -> Certificate:
    """Make a certificate of a CA.

    Args:
        issuer: None for a self-signed one.
        issuer_key: The issuer's private key.
        not_before, not_after: Aware UTC.
        extensions: Those of `ca_extensions`, or of a certificate that this one follows; key identifiers are made.
        subject_key_identifier: By default made from the key; a key that was certified before keeps its own.

    Raises:
        ServiceFailure: The issuer's key is in an HSM that does not sign.
        AlgorithmRefused: The issuer's key cannot sign.
    """
    own_id = subject_key_identifier or key_identifier(subject_spki_der)
    issuer_id = own_id if issuer is None else _identifier(issuer)
    authority = structures.AuthorityKeyIdentifier(
        key_identifier=issuer_id,
        authority_cert_issuer=None,
        authority_cert_serial_number=None,
    )
    complete = {
        **extensions,
        OID.subjectKeyIdentifier: (False, asn1.encode(own_id)),
        OID.authorityKeyIdentifier: (False, asn1.encode(authority)),
    }
    algorithm = default_algorithm(issuer_key.public_key())
    tbs_der = asn1.encode(
        structures.TBSCertificate(
            version=2,  # v3
            # One bit above the random ones: positive, never zero, always of the same length.
            serial_number=1 << _SERIAL_BITS | secrets.randbits(_SERIAL_BITS),
            signature=asn1.element(algorithm.der),
            issuer=asn1.element(subject_der if issuer is None else issuer.subject_der),
            validity=structures.Validity(
                not_before=asn1.time(not_before), not_after=asn1.time(not_after)
            ),
            subject=asn1.element(subject_der),
            subject_public_key_info=asn1.element(subject_spki_der),
            issuer_unique_id=None,
            subject_unique_id=None,
            extensions=[
                structures.Extension(extn_id=asn1.oid(oid), critical=critical, extn_value=value)
                for oid, (critical, value) in complete.items()
            ],
        )
    )
    signature: bytes = issuer_key.sign(tbs_der, *signing_arguments(algorithm))
    return Certificate.from_der(
        asn1.tlv(0x30, tbs_der, algorithm.der, asn1.tlv(0x03, b"\x00", signature))
    )


def certify_anew(
    certificate: Certificate,
    issuer: Certificate,
    issuer_key: Any,
    not_before: datetime,
    not_after: datetime,
) -> Certificate:
    """Make a certificate of a CA that says what another one of it says, by another issuer or for another time.

    Raises:
        As `certify_ca`.
    """
    return certify_ca(
        certificate.subject_der,
        certificate.spki_der,
        issuer,
        issuer_key,
        not_before=not_before,
        not_after=not_after,
        extensions=certificate.extensions,
        subject_key_identifier=certificate.subject_key_identifier,
    )


def _identifier(certificate: Certificate) -> bytes:
    return certificate.subject_key_identifier or key_identifier(certificate.spki_der)


# --- Certificates of signers ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignerNames:
    """What a signer's certificate says besides its subject (TS 33.310 9.4.6: as a SEG's).

    Args:
        san_der: Value of its SubjectAltName.
        crl_urls: Where the CRL is, as of `Profile`.
    """

    san_der: bytes | None = None
    crl_urls: tuple[str, ...] = ()

    @classmethod
    def made(cls, names: Sequence[str], crl_url: str) -> SignerNames:
        """Return them from text.

        Args:
            names: Like "dns:ra.example.net".
            crl_url: "" for none.

        Raises:
            ConfigError: A name is none, or the URL cannot stand in a certificate.
        """
        try:
            san_der = general_names_der(names) if names else None
        except (ValueError, CMPError) as error:
            raise ConfigError.of(
                "san", f"{', '.join(names)}: {error}", "Write it like dns:ra.example.net"
            ) from error
        return cls(san_der, (require_crl_url(crl_url, "crl_url"),) if crl_url else ())

    @classmethod
    def of(cls, certificate: Certificate) -> SignerNames:
        """Return those of a certificate that is to be followed by another, perhaps of another issuing CA."""
        issuer_id = (certificate.authority_key_identifier or b"").hex()
        urls = distribution_point_urls(certificate)
        if issuer_id:
            urls = tuple(url.replace(issuer_id, "{issuer}") for url in urls)
        return cls(certificate.subject_alt_name_der, tuple(urls))


async def certify_signer(
    issuer: Issuer,
    profile: Profile,
    subject_der: bytes,
    private_key: Any,
    now: datetime,
    names: SignerNames = SignerNames(),
) -> Certificate:
    """Make the certificate of a signer, the CA's own or an RA's, as its profile says.

    Raises:
        ConfigError: The profile cannot grant it, or the issuing CA is not valid or cannot sign.
    """
    extensions = (
        () if names.san_der is None else (Extension(OID.subjectAltName, False, names.san_der),)
    )
    with as_config_error(issuer.certificate.subject):
        template = CertTemplate(
            subject_der=subject_der, spki_der=spki_der(private_key), extensions=extensions
        )
        return await issuer.certify(template, replace(profile, crl_urls=names.crl_urls), now)
