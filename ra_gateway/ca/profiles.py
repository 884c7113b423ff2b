"""Certificate profiles as data: those of TS 33.310 6.1, and those an operator derives from them.

A profile decides, the template of a request only suggests (`tbs.plan_tbs`). The built-in ones allow what the
clause allows and nothing else; an operator whose devices cannot keep to it derives a looser one (`derivation`),
and one who knows the network better a stricter one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Final

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.certificates import KEY_USAGES, KeyUsage
from ra_gateway.cmp.codes import PRIVILEGED_PURPOSES
from ra_gateway.cmp.oids import OID

CLOCK_SKEW: Final = timedelta(minutes=5)
"""notBefore lies this much back, for base stations whose clock is behind; as far as messageTime may be off."""

PURPOSES: Final = MappingProxyType(
    {
        "serverAuth": OID.serverAuth,
        "clientAuth": OID.clientAuth,
        "ipsecIKE": OID.ipsecIKE,
        "iKEIntermediate": OID.iKEIntermediate,
        "OCSPSigning": OID.ocspSigning,
        "jwt": OID.jwt,
        "cmcCA": OID.cmcCA,
        "cmcRA": OID.cmcRA,
    }
)
"""Extended key usages that have a name in the configuration; every other is written with its dotted OID."""

END_ENTITY_KEY_USAGES: Final = KEY_USAGES[:5]
"""Of KeyUsage, what an end entity may have: none of a CA's."""

ANY_KEY_USAGES: Final = frozenset({0, 1})
RSA_KEY_USAGES: Final = frozenset({2, 3})
"""Those that only RSA keys can have."""
EC_KEY_USAGES: Final = frozenset({4})
"""Those that only EC keys can have: devices that are sent keys need it (RFC 9483 4.1.6.2)."""
KEM_KEY_USAGE: Final = frozenset({2})
"""Of ML-KEM keys: keyEncipherment and nothing else, whatever the profile (RFC 9935 5)."""

SIGNING_KEY_KINDS: Final = frozenset(
    ("p256", "p384", "p521", "rsa", "ed25519", "ed448", "mldsa44", "mldsa65", "mldsa87")
)
EC_KEY_KINDS: Final = frozenset(("p256", "p384", "p521"))
KEM_KEY_KINDS: Final = frozenset(("mlkem768", "mlkem1024"))
"""Those that cannot sign; a profile has to name them."""
ALL_KEY_KINDS: Final = SIGNING_KEY_KINDS | KEM_KEY_KINDS
"""Kinds of subject keys. How long an RSA key must be is the business of the trust domain that asks (R61)."""

ATTRIBUTES: Final = MappingProxyType(
    {
        "CN": OID.commonName,
        "serialNumber": OID.serialNumber,
        "C": OID.countryName,
        "L": OID.localityName,
        "ST": OID.stateOrProvinceName,
        "STREET": OID.streetAddress,
        "O": OID.organizationName,
        "OU": OID.organizationalUnitName,
        "title": OID.title,
        "dnQualifier": OID.dnQualifier,
        "UID": OID.userId,
        "DC": OID.domainComponent,
        "emailAddress": OID.emailAddress,
    }
)
"""Attributes of a subject that have a name in the configuration; every other is written with its dotted OID."""

SAN_TAGS: Final = MappingProxyType(
    {"email": 0x81, "dns": 0x82, "dn": 0xA4, "uri": 0x86, "ip": 0x87}
)
"""Kinds of GeneralName that a certificate may have, and their tags (RFC 5280 4.2.1.6)."""

MAX_VALIDITY_DAYS: Final = 3650
"""Ten years, as long as an issuing CA lives: an end entity's certificate has no use beyond it."""

MIN_RSA_EXPONENT: Final = 65_537
"""TS 33.310 6.1.1."""
MAX_RSA_BITS: Final = 8192
"""Twice what TS 33.310 6.1.1 wants supported; peers verify longer keys slowly or not at all."""

# fmt: off
NF_TYPE_NAMES: Final = frozenset((
    "NRF", "UDM", "AMF", "SMF", "AUSF", "NEF", "PCF", "SMSF", "NSSF", "UDR", "LMF", "GMLC", "5G_EIR", "SEPP",
    "UPF", "N3IWF", "AF", "UDSF", "BSF", "CHF", "NWDAF", "PCSCF", "CBCF", "HSS", "UCMF", "SOR_AF", "SPAF", "MME",
    "SCSAS", "SCEF", "SCP", "NSSAAF", "ICSCF", "SCSCF", "DRA", "IMS_AS", "AANF", "5G_DDNMF", "NSACF", "MFAF",
    "EASDF", "DCCF", "MB_SMF", "TSCTSF", "ADRF", "GBA_BSF", "CEF", "MB_UPF", "NSWOF", "PKMF", "MNPF", "SMS_GMSC",
    "SMS_IWMSC", "MBSF", "MBSTF", "PANF", "IP_SM_GW", "SMS_ROUTER", "DCSF", "MRF", "MRFP", "MF", "SLPKMF", "RH",
    "EIF", "AIOTF",
))
# fmt: on
"""Types of network functions (TS 29.510 6.1.6.3.3); a profile of one's own may name others."""


class SubjectForm(StrEnum):
    """What a subject has to look like."""

    any = "any"
    ts_33310 = "ts33310"
    """TS 33.310 6.1.1: (C,) O, CN; or the components of a DNS domain, (OU,) CN, from either end."""
    network_function = "network_function"
    """TS 33.310 6.1.3c.3: C and the home domain as O; OU and CN may follow."""


@dataclass(frozen=True)
class Profile:
    """What certificates of one kind hold.

    In URLs, `{issuer}` stands for the key identifier (hexadecimal) of the CA that issues: each has its own CRL.

    Args:
        key_usage: Bits granted to any key; `rsa_key_usage` and `ec_key_usage` are granted to keys of these kinds
            besides. ML-KEM keys have `KEM_KEY_USAGE`.
        purposes: Extended key usages (dotted) given when none is asked for.
        allowed_purposes: Those that may be asked for.
        validity_days: Longest validity, counted from the moment of issue.
        longest_validity_days: How far configuration may extend that; notBefore to notAfter is never longer.
        key_kinds: Out of `ALL_KEY_KINDS`.
        min_rsa_exponent, max_rsa_bits: Of RSA keys.
        stronger_keys: Certifies also keys that are stronger than the issuing CA's.
        subject_form: What the subject looks like.
        domains: DNS domains in which every name lies that has one; empty leaves that open.
        organisations: Those one of which every O is; empty leaves that open.
        required_subject: Attributes the subject must have: names out of `ATTRIBUTES`, or dotted.
        allowed_subject: Those it may have; empty allows all.
        san: Kinds out of `SAN_TAGS` that SubjectAltName may hold; empty allows no SubjectAltName.
        san_required: Whether there has to be one; a CN that is an FQDN makes it where none is asked for.
        san_max: Most names in it. A base station has a few addresses and names, not dozens.
        san_critical: Marks it critical even if there is a subject, against the SHOULD of RFC 5280 4.2.1.6.
        server_dns: Whether a TLS server needs a DNS name, whatever else it has.
        sepp_names: Whether DNS names have to be those of a SEPP, by the operator's code.
        instance_uri: Whether there has to be a URI `urn:uuid:...` that names the instance of a network function.
        crl_urls: Where the CRL is; empty leaves the extension out.
        crl_required: Whether nothing is issued without it.
        delta_crl_url: Where the delta CRL is (FreshestCRL); "" leaves it out, as it does the next two.
        ocsp_url: Of the OCSP responder.
        ca_issuers_url: Of the issuing CA's certificate.
        ocsp_no_check: Tells clients not to ask for the status of this one (RFC 6960 4.2.2.2.1).
        certificate_policies: Dotted.
        nf_types: Names that NFTypes (RFC 9310) may hold; empty leaves the extension out.
        nf_types_required: Whether there has to be one; a profile of one type gives that unasked.
    """

    name: str
    key_usage: frozenset[int] = frozenset({KeyUsage.digitalSignature})
    rsa_key_usage: frozenset[int] = frozenset()
    ec_key_usage: frozenset[int] = frozenset()
    purposes: tuple[str, ...] = ()
    allowed_purposes: frozenset[str] = frozenset()
    validity_days: int = 365
    longest_validity_days: int = MAX_VALIDITY_DAYS
    key_kinds: frozenset[str] = SIGNING_KEY_KINDS
    min_rsa_exponent: int = MIN_RSA_EXPONENT
    max_rsa_bits: int = MAX_RSA_BITS
    stronger_keys: bool = False
    subject_form: SubjectForm = SubjectForm.any
    domains: tuple[str, ...] = ()
    organisations: tuple[str, ...] = ()
    required_subject: tuple[str, ...] = ()
    allowed_subject: frozenset[str] = frozenset()
    san: frozenset[str] = frozenset(SAN_TAGS)
    san_required: bool = False
    san_max: int = 16
    san_critical: bool = False
    server_dns: bool = False
    sepp_names: bool = False
    instance_uri: bool = False
    crl_urls: tuple[str, ...] = ()
    crl_required: bool = False
    delta_crl_url: str = ""
    ocsp_url: str = ""
    ca_issuers_url: str = ""
    ocsp_no_check: bool = False
    certificate_policies: tuple[str, ...] = ()
    nf_types: frozenset[str] = frozenset()
    nf_types_required: bool = False

    def __hash__(self) -> int:
        # Of two dozen fields, the name alone tells almost any two apart; this is asked for with every certificate.
        return hash(self.name)

    @cached_property
    def is_privileged(self) -> bool:
        """Whether it gives purposes that let a key speak for the PKI: never on request, to nobody."""
        return bool(PRIVILEGED_PURPOSES & {*self.purposes, *self.allowed_purposes})

    @cached_property
    def required_attributes(self) -> Mapping[bytes, str]:
        """Content octets of the OIDs of `required_subject`, and their names."""
        return {_attribute(name): name for name in self.required_subject}

    @cached_property
    def allowed_attributes(self) -> frozenset[bytes]:
        """Content octets of the OIDs of `allowed_subject`."""
        return frozenset(map(_attribute, self.allowed_subject))

    @cached_property
    def named_attributes(self) -> frozenset[str]:
        """Dotted OIDs of `required_subject` and `allowed_subject`: what is named may be rarer than those of X.520."""
        named = {*self.required_subject, *self.allowed_subject}
        return frozenset(ATTRIBUTES.get(name, name) for name in named)

    @cached_property
    def san_tags(self) -> frozenset[int]:
        """Tags of the kinds in `san`."""
        return frozenset(SAN_TAGS[kind] for kind in self.san)


def _attribute(name: str) -> bytes:
    return asn1.inner(asn1.oid_der(ATTRIBUTES.get(name, name)))


NE_IPSEC: Final = Profile(
    "ne_ipsec",
    rsa_key_usage=frozenset({KEY_USAGES.index("keyEncipherment")}),
    allowed_purposes=frozenset({OID.ipsecIKE, OID.iKEIntermediate}),
    subject_form=SubjectForm.ts_33310,
    san_required=True,
    crl_required=True,
)
"""Network elements that speak IKE (TS 33.310 6.1.3b)."""

ENODEB_IPSEC: Final = replace(NE_IPSEC, name="enodeb_ipsec")
"""Base stations of LTE: network elements like others (6.1.3b), under a name of their own for roles."""

GNODEB_IPSEC: Final = replace(NE_IPSEC, name="gnodeb_ipsec")
"""Base stations of 5G, as `ENODEB_IPSEC`."""

SEG: Final = replace(NE_IPSEC, name="seg")
"""Security gateways (TS 33.310 6.1.3): IPsec, as network elements."""

NE_TLS: Final = Profile(
    "ne_tls",
    purposes=(OID.serverAuth, OID.clientAuth),
    allowed_purposes=frozenset({OID.serverAuth, OID.clientAuth}),
    subject_form=SubjectForm.ts_33310,
    crl_required=True,
)
"""Network elements that speak TLS, at either end (TS 33.310 6.1.3a)."""

TLS_CLIENT: Final = replace(
    NE_TLS,
    name="tls_client",
    purposes=(OID.clientAuth,),
    allowed_purposes=frozenset({OID.clientAuth}),
)
TLS_SERVER: Final = replace(
    NE_TLS,
    name="tls_server",
    purposes=(OID.serverAuth,),
    allowed_purposes=frozenset({OID.serverAuth}),
)

NF: Final = replace(
    NE_TLS,
    name="nf",
    longest_validity_days=3 * 365,
    subject_form=SubjectForm.network_function,
    required_subject=("C", "O"),
    allowed_subject=frozenset({"C", "O", "OU", "CN"}),
    san=frozenset({"dns", "ip", "uri"}),
    san_required=True,
    san_critical=True,
    server_dns=True,
    nf_types=NF_TYPE_NAMES - {"SCP", "SEPP"},
    nf_types_required=True,
)
"""Network functions of the 5G core (TS 33.310 6.1.3c.3), but for the two that have a clause of their own."""

SCP: Final = replace(NF, name="scp", server_dns=False, nf_types=frozenset({"SCP"}))
"""Service communication proxies (6.1.3c.4): network functions but for the rules on what names there are."""

SEPP: Final = replace(NF, name="sepp", sepp_names=True, nf_types=frozenset({"SEPP"}))
"""Security edge protection proxies (6.1.3c.5), which have the operator's code in their names."""

TOKEN_SIGNING: Final = replace(
    NF,
    name="token_signing",
    purposes=(OID.jwt,),
    allowed_purposes=frozenset({OID.jwt}),
    server_dns=False,
    instance_uri=True,
    nf_types=NF_TYPE_NAMES,
    nf_types_required=False,
)
"""Network functions that sign tokens (6.1.3c of V19.5): id-kp-jwt (RFC 9509), and a URI that names the instance."""

ENCRYPTION: Final = Profile(
    "encryption",
    key_usage=KEM_KEY_USAGE,
    key_kinds=frozenset({"rsa"}) | KEM_KEY_KINDS,
)
"""Keys that things are encrypted for and that sign nothing: possession is proved by decrypting the certificate."""

KGA_SIGNER: Final = Profile(
    "kga_signer", purposes=(OID.cmKGA,), allowed_purposes=frozenset({OID.cmKGA})
)
"""The key generation authority: signs the private keys that the CA makes for others (RFC 9483 4.1.6)."""

RA: Final = Profile("ra", purposes=(OID.cmcRA,), allowed_purposes=frozenset({OID.cmcRA}))
"""The RA's signer (RFC 9483 4.9: cmcRA marks the delegation), for the rest as `SEG` (TS 33.310 9.4.6)."""

CMP_SIGNER: Final = Profile(
    "cmp_signer", purposes=(OID.cmcCA,), allowed_purposes=frozenset({OID.cmcCA})
)
"""The key that protects the CA's own messages (RFC 9810 8.6: not the one that signs certificates)."""

OCSP_SIGNER: Final = Profile(
    "ocsp_signer",
    purposes=(OID.ocspSigning,),
    allowed_purposes=frozenset({OID.ocspSigning}),
    validity_days=30,
    ocsp_no_check=True,
)
"""The delegated OCSP signer; short-lived, since nobody asks whether it was revoked (RFC 6960 4.2.2.2.1)."""

PROFILES: Final = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            NE_IPSEC,
            ENODEB_IPSEC,
            GNODEB_IPSEC,
            SEG,
            NE_TLS,
            TLS_CLIENT,
            TLS_SERVER,
            NF,
            SCP,
            SEPP,
            TOKEN_SIGNING,
            ENCRYPTION,
            RA,
            CMP_SIGNER,
            OCSP_SIGNER,
        )
    }
)
"""The built-in profiles by name."""


def purposes_der(purposes: Iterable[str]) -> bytes:
    """Return the value of an ExtendedKeyUsage extension."""
    return asn1.boxed(structures.OIDsBox(oids=[asn1.oid(dotted) for dotted in purposes]))
