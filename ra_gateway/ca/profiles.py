"""Certificate profiles as data: those of TS 33.310 6.1, and those an operator derives from them.

A profile decides, the template of a request only suggests (`tbs.plan_tbs`). Where a clause of TS 33.310
leaves something open, or its text could not be checked, the built-in profile allows it; an operator who
knows the network better derives a stricter one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.certificates import KEY_USAGES, KeyUsage
from ra_gateway.cmp.codes import PRIVILEGED_PURPOSES
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import ConfigError, Problem

CLOCK_SKEW: Final = timedelta(minutes=5)
"""notBefore lies this much back, for base stations whose clock is behind; as far as messageTime may be off."""

PURPOSES: Final = MappingProxyType(
    {
        "serverAuth": OID.serverAuth,
        "clientAuth": OID.clientAuth,
        "ipsecIKE": OID.ipsecIKE,
        "iKEIntermediate": OID.iKEIntermediate,
        "OCSPSigning": OID.ocspSigning,
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
        longest_validity_days: How far configuration may extend that.
        key_kinds: Out of `ALL_KEY_KINDS`.
        required_subject: Attributes the subject must have: names out of `ATTRIBUTES`, or dotted.
        allowed_subject: Those it may have; empty allows all.
        san: Kinds out of `SAN_TAGS` that SubjectAltName may hold; empty allows no SubjectAltName.
        san_max: Most names in it. A base station has a few addresses and names, not dozens.
        san_critical: Marks it critical even if there is a subject, against the SHOULD of RFC 5280 4.2.1.6.
        crl_urls: Where the CRL is; empty leaves the extension out.
        delta_crl_url: Where the delta CRL is (FreshestCRL); "" leaves it out, as it does the next two.
        ocsp_url: Of the OCSP responder.
        ca_issuers_url: Of the issuing CA's certificate.
        ocsp_no_check: Tells clients not to ask for the status of this one (RFC 6960 4.2.2.2.1).
        certificate_policies: Dotted.
        nf_types: Whether NFTypes (RFC 9310) may be asked for.
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
    required_subject: tuple[str, ...] = ()
    allowed_subject: frozenset[str] = frozenset()
    san: frozenset[str] = frozenset(SAN_TAGS)
    san_required: bool = False
    san_max: int = 16
    san_critical: bool = False
    crl_urls: tuple[str, ...] = ()
    delta_crl_url: str = ""
    ocsp_url: str = ""
    ca_issuers_url: str = ""
    ocsp_no_check: bool = False
    certificate_policies: tuple[str, ...] = ()
    nf_types: bool = False

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
    required_subject=("C", "O"),
    allowed_subject=frozenset({"C", "O", "OU", "CN"}),
    san=frozenset({"dns", "ip", "uri"}),
    san_required=True,
    san_critical=True,
    nf_types=True,
)
"""Network functions of the 5G core (TS 33.310 6.1.3c)."""

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
"""The RA's signer (RFC 9483 4.9: cmcRA marks the delegation)."""

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


# --- profiles of the operator's own -----------------------------------------------------------------------------


def derive(base: Profile, name: str, /, **changes: object) -> Profile:
    """Return a profile that is like another but for some fields, as a table `[ca.profiles.NAME]` gives them.

    Args:
        name: Letters, digits, `_`, `-` and `.`; none of the built-in ones.
        changes: Values as TOML has them:
            validity_days           integer, from 1 to what the base allows (3650; nf: 1095)
            key_usage               list of names out of `END_ENTITY_KEY_USAGES`, with digitalSignature; what only RSA
                                    or only EC keys can have is given to those alone
            extended_key_usage      list of names out of `PURPOSES` or dotted OIDs: given if none is asked for
            allowed_extended_key_usage  the same: those that may be asked for; by default extended_key_usage
            key_kinds               list out of `ALL_KEY_KINDS`
            required_subject        list of names out of `ATTRIBUTES` or dotted OIDs
            allowed_subject         the same; empty allows all
            san                     list out of `SAN_TAGS`: email, dns, dn, uri, ip; empty: no SubjectAltName
            san_required            boolean
            san_max                 integer, from 1 to 100
            crl_urls                list of http or ldap URLs, `{issuer}` in them as `Profile` says
            delta_crl_url           http or ldap URL, "" for none
            ocsp_url, ca_issuers_url  http URL, "" for none
            certificate_policies    list of dotted OIDs

    Raises:
        ConfigError: Whatever is wrong with these, all of it at once.
    """
    where = f"ca.profiles.{name}"
    problems = _name_problems(where, name)
    fields: dict[str, object] = {}
    for key, value in changes.items():
        reader = _READERS.get(key)
        if reader is None:
            problems.append(
                Problem(
                    f"{where}.{key}",
                    "is no field of a profile",
                    f"Take it out, or choose among base, {', '.join(_READERS)}",
                )
            )
            continue
        try:
            fields.update(reader(base, value))
        except _WrongValue as error:
            problems.append(Problem(f"{where}.{key}", error.what, error.todo))
    if problems:
        raise ConfigError(problems)
    if "purposes" in fields and "allowed_purposes" not in fields:
        fields["allowed_purposes"] = frozenset(_strings(fields["purposes"]))
    # The fields were read by type above, each by the reader that makes it.
    derived = replace(base, name=name, **fields)  # type: ignore[arg-type]
    problems = list(_contradictions(where, derived))
    if problems:
        raise ConfigError(problems)
    return derived


def _name_problems(where: str, name: str) -> list[Problem]:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) is None:
        return [
            Problem(
                where,
                "is no name for a profile",
                "Use up to 64 letters, digits, dots, hyphens and underscores, "
                "a letter or digit first",
            )
        ]
    if name in PROFILES:
        return [
            Problem(where, "is the name of a built-in profile", "Give the derived one another name")
        ]
    return []


def _contradictions(where: str, profile: Profile) -> Iterable[Problem]:
    """Yield what the fields of a profile, each of them right by itself, say against each other."""
    ungranted = sorted(set(profile.purposes) - profile.allowed_purposes)
    if ungranted:
        yield Problem(
            f"{where}.allowed_extended_key_usage",
            f"lacks {_listed(ungranted)}, which extended_key_usage gives",
            "List there what is given unasked as well",
        )
    if profile.allowed_subject:
        missing = set(profile.required_attributes) - profile.allowed_attributes
        if missing:
            yield Problem(
                f"{where}.allowed_subject",
                f"lacks {_listed(profile.required_attributes[oid] for oid in missing)}, "
                "which required_subject demands",
                "List there what is required as well, or leave it empty to allow all",
            )
    if profile.san_required and not profile.san:
        yield Problem(
            f"{where}.san",
            "is empty, but a SubjectAltName is required",
            'List kinds of names, such as ["dns", "ip"], or set san_required to false',
        )
    if profile.delta_crl_url and not profile.crl_urls:
        yield Problem(
            f"{where}.delta_crl_url",
            "is set without crl_urls, and a delta CRL is of no use without the full one",
            "Set crl_urls too, or take delta_crl_url out",
        )


class _WrongValue(Exception):
    """A value of a profile's field that cannot be used."""

    def __init__(self, what: str, todo: str) -> None:
        self.what = what
        self.todo = todo


def _validity_days(base: Profile, value: object) -> dict[str, object]:
    longest = base.longest_validity_days
    return {"validity_days": _number(value, longest, f"as {base.name} allows")}


def _key_usage(base: Profile, value: object) -> dict[str, object]:
    names = _strings(value)
    _require_known("key usage of an end entity", names, END_ENTITY_KEY_USAGES)
    bits = frozenset(map(KEY_USAGES.index, names))
    if KeyUsage.digitalSignature not in bits:
        raise _WrongValue(
            "lacks digitalSignature, which enrolment, IKE and TLS all need",
            "Add digitalSignature",
        )
    return {
        "key_usage": bits & ANY_KEY_USAGES,
        "rsa_key_usage": bits & RSA_KEY_USAGES,
        "ec_key_usage": bits & EC_KEY_USAGES,
    }


def _purposes(base: Profile, value: object) -> tuple[str, ...]:
    dotted = tuple(PURPOSES.get(name, name) for name in _strings(value))
    _require_oids("extended key usage", dotted, PURPOSES)
    privileged = PRIVILEGED_PURPOSES.intersection(dotted) - base.allowed_purposes
    if privileged:
        raise _WrongValue(
            f"holds {_listed(privileged)}, which lets a key speak for the PKI itself",
            "Derive from ra, cmp_signer or ocsp_signer, if that is meant, or take it out",
        )
    return dotted


def _key_kinds(base: Profile, value: object) -> dict[str, object]:
    names = _strings(value)
    if not names:
        raise _WrongValue("is empty", f"Choose among {_listed(ALL_KEY_KINDS)}")
    _require_known("kind of key", names, ALL_KEY_KINDS)
    return {"key_kinds": frozenset(names)}


def _attributes(value: object) -> tuple[str, ...]:
    names = _strings(value)
    _require_oids("attribute", [ATTRIBUTES.get(name, name) for name in names], ATTRIBUTES)
    return names


def _san(base: Profile, value: object) -> dict[str, object]:
    names = _strings(value)
    _require_known("kind of name", names, SAN_TAGS)
    return {"san": frozenset(names)}


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _WrongValue(f"is {value!r}, not a boolean", "Write true or false")
    return value


def _policies(value: object) -> tuple[str, ...]:
    dotted = _strings(value)
    _require_oids("certificate policy", dotted, {})
    return dotted


MAX_SAN_NAMES: Final = 100
"""Most that `san_max` may allow: certificates with more names no longer fit into IKE messages anyway."""

_READERS: Final[Mapping[str, Callable[[Profile, object], dict[str, object]]]] = MappingProxyType(
    {
        "validity_days": _validity_days,
        "key_usage": _key_usage,
        "extended_key_usage": lambda base, value: {"purposes": _purposes(base, value)},
        "allowed_extended_key_usage": lambda base, value: {
            "allowed_purposes": frozenset(_purposes(base, value))
        },
        "key_kinds": _key_kinds,
        "required_subject": lambda _, value: {"required_subject": _attributes(value)},
        "allowed_subject": lambda _, value: {"allowed_subject": frozenset(_attributes(value))},
        "san": _san,
        "san_required": lambda _, value: {"san_required": _flag(value)},
        "san_max": lambda _, value: {"san_max": _number(value, MAX_SAN_NAMES)},
        "crl_urls": lambda _, value: {
            "crl_urls": tuple(_url(url, ("http", "ldap")) for url in _strings(value))
        },
        "delta_crl_url": lambda _, value: {"delta_crl_url": _url_or_none(value, ("http", "ldap"))},
        "ocsp_url": lambda _, value: {"ocsp_url": _url_or_none(value, ("http",))},
        "ca_issuers_url": lambda _, value: {"ca_issuers_url": _url_or_none(value, ("http",))},
        "certificate_policies": lambda _, value: {"certificate_policies": _policies(value)},
    }
)
"""Fields of a table `[ca.profiles.NAME]`, besides `base`, and what makes fields of a Profile of their values."""


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise _WrongValue(f"is {value!r}, not a list of strings", 'Write it like ["one", "two"]')
    twice = {item for item in value if value.count(item) > 1}
    if twice:
        raise _WrongValue(f"names {_listed(twice)} twice", "Name each once")
    return tuple(value)


def _number(value: object, most: int, why: str = "") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise _WrongValue(
            f"is {value!r}, not a whole number from 1 to {most}{why and ', ' + why}",
            "Give a number in that range",
        )
    return value


def _url_or_none(value: object, schemes: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise _WrongValue(f"is {value!r}, not a string", "Write a URL in quotes")
    return value and _url(value, schemes)


def _url(text: str, schemes: tuple[str, ...]) -> str:
    # No https: whoever checks the certificate of that server would first need what is behind this URL.
    filled = text.replace("{issuer}", "00")
    try:
        parts = urlsplit(filled)
        good = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if (
        not good
        or re.fullmatch(r"[\x21-\x7e]+", filled) is None
        or re.search(r'[<>"{}|\\^`]', filled)
    ):
        raise _WrongValue(
            f"holds {text!r}, which is no URL that can stand there",
            f"Give a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)} and a "
            "host, in ASCII, without blanks; {issuer} is the only placeholder",
        )
    return text


def _require_known(what: str, names: Collection[str], known: Collection[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise _WrongValue(
            f"holds {_listed(unknown)}, which is no {what}", f"Choose among {_listed(known)}"
        )


def _require_oids(what: str, dotted: Iterable[str], names: Collection[str]) -> None:
    wrong = [oid for oid in dotted if not _is_oid(oid)]
    if wrong:
        known = f"Choose among {_listed(names)}, or write" if names else "Write"
        raise _WrongValue(
            f"holds {_listed(wrong)}, which is no {what}", f"{known} a dotted OID such as 1.2.3.4"
        )


def _is_oid(text: str) -> bool:
    if re.fullmatch(r"[0-2](\.(0|[1-9][0-9]{0,17}))+", text) is None:
        return False
    try:
        asn1.oid_der(text)
    except ValueError:
        return False
    return True


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
