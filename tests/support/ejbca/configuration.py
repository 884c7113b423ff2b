"""What an administrator sets in EJBCA: aliases, profiles, certification authorities and roles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import attributes, rfc4514
from tests.support.pki import Authority, certificate_der

EMPTY: Final = "EMPTY"
ENDUSER: Final = "ENDUSER"
KEY_ID: Final = "KeyId"
PROFILE_DEFAULT: Final = "ProfileDefault"

NAME_ATTRIBUTES: Final = {
    "CN": "2.5.4.3",
    "SN": "2.5.4.5",
    "O": "2.5.4.10",
    "OU": "2.5.4.11",
    "UID": "0.9.2342.19200300.100.1.1",
}
"""Names that EJBCA has for attributes of a subject; SN is the serialNumber."""


def ca_id(name_der: bytes) -> int:
    """Return the number by which EJBCA knows a CA: a 32-bit hash of its normalised name."""
    number = 0
    for character in " ".join(rfc4514(name_der).casefold().split()):
        number = (31 * number + ord(character)) & 0xFFFFFFFF
    return number - (1 << 32) if number & 0x80000000 else number


@dataclass(frozen=True, slots=True)
class Alias:
    """One CMP alias; fields are spelled as its keys, with underscores for dots.

    Args:
        operationmode: "ra"; anything else is client mode.
        authenticationmodule: Modules in the order in which they are tried, between semicolons.
        authenticationparameters: One for each module. Of EndEntityCertificate in RA mode the name of the CA that
            issued the RA's certificate; of HMAC the shared secret; of DnPartPwd the attribute; else "-".
        responseprotection: "signature" or "pbe".
        defaultca: Subject DN of the CA that signs pkiConf when the recipient is no known CA.
        extractusernamecomponent: Attribute that is the username in client mode; "DN" matches the whole name.
        vendorcaids, response_capubsca, response_extracertsca: Numbers of CAs, see `ca_id`.
        racertificatepath: The certificates in that directory.
        ra_namegenerationparameters: Of scheme DN a fallback list such as "UID;SN;CN"; of FIXED the name.
        ra_namegenerationprefix, ra_namegenerationpostfix: "${RANDOM}" stands for ten random characters.
    """

    operationmode: str = "client"
    authenticationmodule: str = "RegTokenPwd;HMAC"
    authenticationparameters: str = "-;-"
    responseprotection: str = "signature"
    defaultca: str = ""
    extractusernamecomponent: str = "DN"
    vendorcertificatemode: bool = False
    vendorcaids: tuple[int, ...] = ()
    allowraverifypopo: bool = False
    allowautomatickeyupdate: bool = False
    allowupdatewithsamekey: bool = True
    response_capubsissuingca: bool = True
    response_capubsca: tuple[int, ...] = ()
    response_extracertsca: tuple[int, ...] = ()
    ra_caname: str = "ManagementCA"
    ra_certificateprofile: str = ENDUSER
    ra_endentityprofile: str = EMPTY
    ra_namegenerationscheme: str = "DN"
    ra_namegenerationparameters: str = "CN"
    ra_namegenerationprefix: str = ""
    ra_namegenerationpostfix: str = ""
    ra_allowcustomcertserno: bool = False
    racertificatepath: tuple[Certificate, ...] = ()
    ra_endentitycertificate_omitverifications: bool = False

    @property
    def ra_mode(self) -> bool:
        """Whether the alias is in RA mode."""
        return self.operationmode == "ra"

    @property
    def modules(self) -> list[str]:
        """Names of the authentication modules, in order."""
        return self.authenticationmodule.split(";")

    @property
    def parameters(self) -> list[str]:
        """Parameters of the modules, in their order."""
        return self.authenticationparameters.split(";")


@dataclass(frozen=True, slots=True)
class CertificateProfile:
    """What of a template counts in certificates of one kind.

    Args:
        allow_...: Whether the template may set this.
        available_cas: Names of the CAs that may issue by it, None for any.
        key_usage: Where the template does not set it.
    """

    allow_validity_override: bool = False
    allow_key_usage_override: bool = False
    allow_extension_override: bool = False
    allow_custom_serial_number: bool = False
    available_cas: frozenset[str] | None = None
    key_usage: tuple[str, ...] = ("digitalSignature",)
    validity_days: int = 730


@dataclass(frozen=True, slots=True)
class EndEntityProfile:
    """What the names of an end entity must be.

    Args:
        number: By which access rules name the profile.
        fields: Names of fields ("DNSNAME", "IPADDRESS", "CN") to how many there must be; the others are free.
        default_ca, default_certificate_profile: For aliases that say ProfileDefault.
    """

    number: int
    fields: Mapping[str, int] = field(default_factory=dict)
    default_ca: str = ""
    default_certificate_profile: str = ENDUSER

    def violation(self, subject_der: bytes, san: tuple[str, ...]) -> str:
        """Return what is wrong with an end entity's names, "" if nothing is."""
        kinds = [name.partition(":")[0] for name in san]
        types = [oid for oid, _ in attributes(subject_der)]
        for name, expected in self.fields.items():
            kind = {"DNSNAME": "dns", "IPADDRESS": "ip"}.get(name)
            found = kinds.count(kind) if kind else types.count(NAME_ATTRIBUTES[name])
            if found != expected:
                return f"wrong number of {name} fields: {found} instead of {expected}"
        return ""


@dataclass(frozen=True, slots=True)
class Role:
    """Administrators with equal rights.

    Args:
        rules: Resources such as "/ca/4711"; each stands for all below it too, and "/" for everything.
        members: Common names, each with the name of the CA that issued the certificate.
    """

    rules: frozenset[str]
    members: frozenset[tuple[str, str]] = frozenset()

    def allows(self, *resources: str) -> bool:
        """Tell whether the role has the right to all of these resources."""
        return all(
            any(
                resource == rule or resource.startswith(f"{rule.rstrip('/')}/")
                for rule in self.rules
            )
            for resource in resources
        )


ALWAYS_ALLOWED: Final = Role(frozenset({"/"}))
"""Who acts where no administrator was authenticated."""

NOBODY: Final = Role(frozenset())
"""Who acts where somebody was authenticated who is no administrator."""


def enrol_resources(ca_number: int, profile_number: int) -> tuple[str, ...]:
    """Return the rights that an RA needs to have a certificate issued."""
    if profile_number == 1:
        return ("/",)  # the profile EMPTY
    return (
        f"/ca/{ca_number}",
        "/ca_functionality/create_certificate",
        "/ra_functionality/create_end_entity",
        "/ra_functionality/edit_end_entity",
        f"/endentityprofilesrules/{profile_number}/create_end_entity",
        f"/endentityprofilesrules/{profile_number}/edit_end_entity",
    )


REVOKE_RESOURCE: Final = "/ra_functionality/revoke_end_entity"


@dataclass(frozen=True, slots=True)
class CA:
    """A certification authority that EJBCA runs, or whose certificate it merely has (a vendor's).

    Args:
        approvals: Whether another administrator has to approve of what is asked.
    """

    authority: Authority
    approvals: bool = False

    @property
    def certificate(self) -> Certificate:
        """The CA's certificate."""
        return Certificate.from_der(self.authority.der)

    @property
    def number(self) -> int:
        """By which EJBCA knows it."""
        return ca_id(self.certificate.subject_der)

    @property
    def chain(self) -> tuple[bytes, ...]:
        """DER of the CA's certificate and its issuers', the root's last."""
        return (self.authority.der, *map(certificate_der, self.authority.chain))
