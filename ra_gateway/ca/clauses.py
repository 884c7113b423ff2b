"""What clause 6 of TS 33.310 asks of subject, key and names of a certificate, as far as its profile says so.

Read from octets, twice: of what a request asks for, which is refused with the sentence found here, and of what is
about to be signed (`conformance`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import rsa

from ra_gateway.ca.extensions import MAX_NF_TYPE
from ra_gateway.ca.profiles import NF_TYPE_NAMES, SAN_TAGS, Profile, SubjectForm
from ra_gateway.ca.weak_keys import weakness
from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import load_public_key, public_key_kind, signature_algorithm
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.hosts import is_fqdn, uri_hosts
from ra_gateway.cmp.names import attributes
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.remembering import remembered
from ra_gateway.errors import MalformedMessage, TemplateRefused


class Fault(NamedTuple):
    """Something that a clause does not allow.

    Args:
        field: Of the certificate.
        rule: Number of the requirement.
        text: One sentence without its full stop: what is wrong, and the clause.
    """

    field: str
    rule: str
    text: str


def faults(
    profile: Profile,
    issuer: Certificate,
    *,
    subject_der: bytes,
    spki_der: bytes,
    purposes: Sequence[str],
    san_der: bytes | None,
    nf_types_der: bytes | None,
) -> Iterator[Fault]:
    """Yield what the clause behind a profile does not allow of a certificate, the gravest first.

    Args:
        issuer: The issuing CA's certificate.
        purposes: Dotted, as granted.
        san_der, nf_types_der: Values of these extensions.

    Raises:
        MalformedMessage: One of the octet strings does not parse.
    """
    subject = read_subject(subject_der)
    names = () if san_der is None else read_general_names(san_der)
    yield from _of_key(profile, issuer, spki_der)
    yield from _of_subject_form(profile, subject)
    yield from _of_domain(profile, subject, names)
    yield from _of_names(profile, purposes, names)
    yield from _of_nf_types(profile, nf_types_der)
    if profile.subject_form is SubjectForm.network_function:
        yield from _of_home(profile, subject, names)


# --- the key ----------------------------------------------------------------------------------------------------

_STRENGTHS: Final = MappingProxyType(
    {
        "P-256": 128,
        "P-384": 192,
        "P-521": 256,
        "ed25519": 128,
        "ed448": 224,
        "ml-dsa-44": 128,
        "ml-dsa-65": 192,
        "ml-dsa-87": 256,
    }
)
_RSA_STRENGTHS: Final = ((15_360, 256), (7680, 192), (6144, 176), (4096, 152), (3072, 128))
"""Of NIST SP 800-57 part 1, table 2, and SP 800-56B rev. 2, table 4 for what lies between."""


def strength_bits(spki_der: bytes) -> int:
    """Return the security strength of a key that signs, in bits as NIST counts them; 0 for one that cannot sign.

    Raises:
        MalformedMessage, AlgorithmRefused: As `public_key_kind`.
    """
    kind = public_key_kind(spki_der)
    if kind.rsa_bits:
        return next((bits for size, bits in _RSA_STRENGTHS if kind.rsa_bits >= size), 112)
    return _STRENGTHS.get(kind.name, 0)


def require_key(spki_der: bytes, issuer: Certificate) -> None:
    """Refuse another CA's key that `issuer` may not certify.

    Raises:
        TemplateRefused: It is too long or too strong, or RSA with a small exponent (TS 33.310 6.1.1).
    """
    for fault in _of_key(Profile("CA"), issuer, spki_der):
        raise TemplateRefused(fault.text, rule=fault.rule)


def _of_key(profile: Profile, issuer: Certificate, spki_der: bytes) -> Iterator[Fault]:
    kind = public_key_kind(spki_der)
    if kind.rsa_bits > profile.max_rsa_bits:
        yield Fault(
            "public key",
            "T5",
            f"publicKey is {kind.name}; {profile.name} takes {profile.max_rsa_bits} bits at most",
        )
    elif kind.rsa_bits and (wrong := _wrong_exponent(profile, spki_der)):
        yield Fault("public key", "T6", f"publicKey is {kind.name} {wrong} (TS 33.310 6.1.1)")
    elif wrong := weakness(spki_der):
        yield Fault("public key", "R61", f"publicKey is {kind.name} {wrong}")
    if not profile.stronger_keys and strength_bits(spki_der) > strength_bits(issuer.spki_der):
        signing = public_key_kind(issuer.spki_der).name
        yield Fault(
            "public key",
            "T7",
            f"publicKey is {kind.name}, and the issuing CA's {signing} is weaker than that (TS 33.310 6.1.1)",
        )


def _wrong_exponent(profile: Profile, spki_der: bytes) -> str:
    key = load_public_key(spki_der)
    assert isinstance(key, rsa.RSAPublicKey)
    exponent = key.public_numbers().e
    if exponent < profile.min_rsa_exponent:
        return f"with the exponent {exponent}; the least is {profile.min_rsa_exponent}"
    return ""


LAST_OF_2030: Final = datetime.fromisoformat("2030-12-31T23:59:59Z")
_LEAST_RSA_BITS_LATER: Final = 3072


def outlives_2030(certificate: Certificate) -> str:
    """Return what a certificate has that it should not have after 2030, "" for nothing (TS 33.310 6.1.1).

    Raises:
        MalformedMessage, AlgorithmRefused: Its key or algorithm is none that is known.
    """
    if certificate.not_after <= LAST_OF_2030:
        return ""
    bits = public_key_kind(certificate.spki_der).rsa_bits
    found = [f"an RSA key of {bits} bits"] if 0 < bits < _LEAST_RSA_BITS_LATER else []
    if signature_algorithm(certificate.algorithm_der).name.startswith("rsa-pkcs1"):
        found.append("a signature by PKCS #1 v1.5")
    return " and ".join(found)


# --- the subject ------------------------------------------------------------------------------------------------

_UTF8_STRING: Final = 0x0C

_LETTERS: Final = MappingProxyType(
    {
        OID.countryName: "C",
        OID.organizationName: "O",
        OID.organizationalUnitName: "U",
        OID.commonName: "N",
        OID.domainComponent: "D",
        OID.userId: "I",
        OID.unstructuredName: "S",
        OID.unstructuredAddress: "A",
        OID.emailAddress: "E",
    }
)
_FORMS: Final = MappingProxyType(
    {
        SubjectForm.ts_33310: (
            re.compile(r"C?ON|D{2,}U?N|NU?D{2,}"),
            "(C), O, CN or DC, DC, (OU), CN, in this order (TS 33.310 6.1.1)",
        ),
        SubjectForm.network_function: (
            re.compile(r"COU?N?"),
            "C, O, in this order (TS 33.310 6.1.3c.3)",
        ),
    }
)
_HOME_DOMAIN: Final = re.compile(
    r"5gc\.(nid[0-9a-f]{11}\.)?mnc[0-9]{3}\.mcc[0-9]{3}\.3gppnetwork\.org", re.IGNORECASE
)
"""TS 23.003 28.2, and 28.2.1 for networks that are not public."""


class Attribute(NamedTuple):
    """An attribute of a subject.

    Args:
        letter: C, O, U (OU), N (CN), D (DC), I (UID), S (unstructuredName), A (unstructuredAddress), E (emailAddress);
            "x" for others.
        alone: Whether it is the only one of its RDN.
        tag: Of its value.
    """

    letter: str
    alone: bool
    tag: int
    text: str


@remembered(entries=256, max_octets=1024)
def read_subject(name_der: bytes) -> tuple[Attribute, ...]:
    """Return the attributes of a Name, in order."""
    shapes = []
    for rdn in asn1.parts(name_der, asn1.MAX_ELEMENTS, "Name", tag=0x30):
        elements = asn1.parts(rdn, asn1.MAX_ELEMENTS, "RDN", least=1, tag=0x31)
        for element in elements:
            _, value = asn1.parts(element, 2, "AttributeTypeAndValue", least=2, tag=0x30)
            shapes.append((len(elements) == 1, value[0]))
    return tuple(
        Attribute(_LETTERS.get(oid, "x"), alone, tag, text)
        for (alone, tag), (oid, text) in zip(shapes, attributes(name_der), strict=True)
    )


def _of_subject_form(profile: Profile, subject: Sequence[Attribute]) -> Iterator[Fault]:
    if profile.subject_form is SubjectForm.any:
        return
    form, words = _FORMS[profile.subject_form]
    if form.fullmatch("".join(item.letter if item.alone else "+" for item in subject)) is None:
        yield Fault("subject", "T8", f"the subject is not of the form {words}")
        return
    for item in subject:
        if item.letter in "ON" and item.tag != _UTF8_STRING:
            name = "O" if item.letter == "O" else "CN"
            yield Fault("subject", "T8", f"{name} is no UTF8String (TS 33.310 6.1.1)")
    if profile.subject_form is SubjectForm.network_function:
        home = next(item.text for item in subject if item.letter == "O")
        if _HOME_DOMAIN.fullmatch(home) is None:
            yield Fault(
                "subject",
                "T16",
                "O is no home domain like 5gc.mnc001.mcc262.3gppnetwork.org (TS 33.310 6.1.3c.3)",
            )


def host_of(subject_der: bytes) -> str:
    """Return the one CN of a subject if it is an FQDN, else ""."""
    names = [item.text for item in read_subject(subject_der) if item.letter == "N"]
    return names[0] if len(names) == 1 and is_fqdn(names[0]) else ""


# --- the domain -------------------------------------------------------------------------------------------------

_OF_HOSTS: Final = re.compile(r"[.:@/*\u3002]")
"""What names of hosts, addresses and URIs have, in NFKC; U+3002 is a dot too (RFC 3490 3.1)."""


def _of_domain(
    profile: Profile, subject: Sequence[Attribute], names: Sequence[tuple[int, bytes]]
) -> Iterator[Fault]:
    """Find names that are not the operator's own to give (TS 33.310 6.1)."""
    if not (profile.domains or profile.organisations):
        return
    own = {_folded(item) for item in profile.organisations}
    all_names = [subject, *(read_subject(der) for tag, der in names if tag == SAN_TAGS["dn"])]
    for name in all_names:
        for item in name:
            is_domain = profile.subject_form is SubjectForm.network_function
            if item.letter == "O" and own and not is_domain and _folded(item.text) not in own:
                yield Fault("subject", "T1", "O is none of the operator's own (TS 33.310 6.1)")
    if not profile.domains:
        return
    for field, host in _hosts(profile, all_names, names):
        if field in _TEXTS and not is_fqdn(host):
            text = f"{field} reads like a host, and is no FQDN in a domain of the operator (TS 33.310 6.1)"
            yield Fault(field, "T1", text)
        elif not any(_lies_in(host, domain) for domain in profile.domains):
            yield Fault(field, "T1", f"{field} lies in no domain of the operator (TS 33.310 6.1)")
    for name in all_names:
        if _reads_both_ways(name, profile.domains):
            text = (
                "DC, read from its end, lies in no domain of the operator (TS 33.310 6.1, RFC 2247)"
            )
            yield Fault("DC", "T1", text)


_TEXTS: Final = MappingProxyType(
    {"CN": "N", "UID": "I", "unstructuredName": "S", "unstructuredAddress": "A"}
)
"""Attributes whose texts may be names of hosts, and their letters."""
_FIELDS: Final = MappingProxyType({letter: field for field, letter in _TEXTS.items()})


def _reads_both_ways(name: Sequence[Attribute], domains: Iterable[str]) -> bool:
    """Tell whether the components of a domain that stand last in a name make another domain, as RFC 2247 reads them.

    DC=com,DC=evil,DC=example,DC=net is com.evil.example.net in the order of the octets, and a host of evil.com for
    whoever reads it from the end. One of the domains itself, in that order, is nobody else's name.
    """
    labels = [item.text.lower() for item in name if item.letter == "D"]
    listed = {domain.lower() for domain in domains}
    if not labels or name[-1].letter != "D" or ".".join(labels) in listed:
        return False
    return not any(_lies_in(".".join(labels[::-1]), domain) for domain in listed)


def _hosts(
    profile: Profile,
    all_names: Sequence[Sequence[Attribute]],
    names: Sequence[tuple[int, bytes]],
) -> Iterator[tuple[str, str]]:
    for name in all_names:
        for item in name:
            field = _FIELDS.get(item.letter)
            is_address = item.letter == "A" and _ADDRESS.fullmatch(item.text)
            plain = unicodedata.normalize("NFKC", item.text)
            if field and not is_address and _OF_HOSTS.search(plain):
                yield field, item.text
            if item.letter == "E":
                yield "emailAddress", item.text.rpartition("@")[2]
            if item.letter == "O" and profile.subject_form is SubjectForm.network_function:
                yield "O", item.text
        labels = [item.text for item in name if item.letter == "D"]
        if labels:
            in_order = labels if name[-1].letter == "D" else labels[::-1]
            yield "DC", ".".join(in_order)
    for tag, octets in names:
        text = octets.decode("ascii", "replace")
        if tag == SAN_TAGS["dns"]:
            yield "SubjectAltName dns", text
        elif tag == SAN_TAGS["email"]:
            yield "SubjectAltName email", text.rpartition("@")[2]
        elif tag == SAN_TAGS["uri"]:
            for host in _hosts_of_uri(text):
                yield "SubjectAltName uri", host


_ADDRESS: Final = re.compile(r"[0-9.]+|\[.*\]")


def _hosts_of_uri(uri: str) -> Iterator[str]:
    """Yield the hosts of a URI that are no addresses."""
    yield from (host for host in uri_hosts(uri) if not _ADDRESS.fullmatch(host))


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _lies_in(host: str, domain: str) -> bool:
    host, domain = host.lower().rstrip("."), domain.lower()
    return host == domain or host.endswith(f".{domain}")


# --- further names ----------------------------------------------------------------------------------------------

_SEPP_NAME: Final = re.compile(
    r"([a-z0-9-]+\.)*sepp[a-z0-9-]*(\.[a-z0-9-]+)*\.5gc\.mnc[0-9]{3}\.mcc[0-9]{3}\.(3gppnetwork|ipxnetwork)\.org",
    re.IGNORECASE,
)
"""TS 23.003 28.5; a host name may stand before it."""

_INSTANCE: Final = re.compile(
    r"urn:uuid:(?![0-]+$|[f-]+$)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE
)
"""Nil and Max UUID (RFC 9562 5.9, 5.10) name nothing."""


@remembered(entries=256, max_octets=1024)
def read_general_names(general_names_der: bytes) -> tuple[tuple[int, bytes], ...]:
    """Return tags and content octets of GeneralNames; that of a directoryName is the Name in it."""
    return tuple(
        (name[0], asn1.inner(name))
        for name in asn1.parts(general_names_der, asn1.MAX_ELEMENTS, "GeneralNames", tag=0x30)
    )


def _of_names(
    profile: Profile, purposes: Sequence[str], names: Sequence[tuple[int, bytes]]
) -> Iterator[Fault]:
    hosts = [octets.decode("ascii", "replace") for tag, octets in names if tag == SAN_TAGS["dns"]]
    uris = [octets.decode("ascii", "replace") for tag, octets in names if tag == SAN_TAGS["uri"]]
    if profile.server_dns and OID.serverAuth in purposes and not hosts:
        yield Fault(
            "subjectAltName",
            "T18",
            "SubjectAltName has no DNS name, which a TLS server's has to have (TS 33.310 6.1.3c.3)",
        )
    if profile.sepp_names and not (hosts and all(map(_SEPP_NAME.fullmatch, hosts))):
        yield Fault(
            "subjectAltName",
            "T22",
            "SubjectAltName has no, or another, DNS name than that of a SEPP with the operator's code, like "
            "sepp.5gc.mnc001.mcc262.3gppnetwork.org (TS 33.310 6.1.3c.5)",
        )
    if profile.subject_form is SubjectForm.network_function:
        urns = [uri for uri in uris if uri.lower().startswith("urn:")]
        if len(urns) > 1 or not all(map(_INSTANCE.fullmatch, urns)):
            yield Fault(
                "subjectAltName",
                "T20",
                "SubjectAltName has a URN other than one urn:uuid: with the UUID of the instance (TS 33.310 6.1.3c.3)",
            )
    if profile.instance_uri and not any(map(_INSTANCE.fullmatch, uris)):
        yield Fault(
            "subjectAltName",
            "T20",
            "SubjectAltName has no URI urn:uuid: and the UUID of the instance (TS 33.310 6.1.3c.3)",
        )


def _of_home(
    profile: Profile, subject: Sequence[Attribute], names: Sequence[tuple[int, bytes]]
) -> Iterator[Fault]:
    """Find hosts of a network function elsewhere than in the home domain that its O says, or those of a SEPP."""
    home = next((item.text.lower() for item in subject if item.letter == "O"), "")
    if not _HOME_DOMAIN.fullmatch(home):
        return  # told with the subject
    homes, rule = [home], "T16"
    if profile.sepp_names:
        homes, rule = [home, home.replace(".3gppnetwork.", ".ipxnetwork.")], "T22"  # TS 23.003 28.5
    all_names = [subject, *(read_subject(der) for tag, der in names if tag == SAN_TAGS["dn"])]
    for field, host in _hosts(profile, all_names, names):
        where = field.partition(" ")[0]
        where = "subjectAltName" if where == "SubjectAltName" else "subject"
        if not _is_host_within(field, host, homes):
            text = f"{field} is not in the home domain that O says, {home} (TS 33.310 6.1.3c)"
            yield Fault(where, rule, text)
        elif not profile.sepp_names and field != "O" and _SEPP_NAME.fullmatch(host.rstrip(".")):
            text = f"{field} is the name of a SEPP, which {profile.name} does not certify (TS 33.310 6.1.3c.5)"
            yield Fault(where, "T22", text)


def _is_host_within(field: str, host: str, domains: Iterable[str]) -> bool:
    """Tell whether a host, of `_hosts`, lies in one of the domains; a text that reads like a host has to be an FQDN."""
    if field in _TEXTS and not is_fqdn(host.rstrip(".")):
        return False
    return any(_lies_in(host, domain) for domain in domains)


def nf_types_value(names: Sequence[str]) -> bytes:
    """Return the value of an NFTypes extension (RFC 9310 3)."""
    return asn1.tlv(0x30, *(asn1.tlv(0x16, name.encode("ascii")) for name in names))


def nf_types_of(certificate: Certificate) -> list[str]:
    """Return the names in the NFTypes extension of a certificate that was issued here; empty without one."""
    found = certificate.extensions.get(OID.nfTypes)
    if found is None:
        return []
    names = asn1.parts(found[1], asn1.MAX_ELEMENTS, "NFTypes")
    return [asn1.inner(name).decode("ascii") for name in names]


def _of_nf_types(profile: Profile, nf_types_der: bytes | None) -> Iterator[Fault]:
    if nf_types_der is None:
        if profile.nf_types_required:
            text = "no nfTypes, which say what the network function is (TS 33.310 6.1.3c.3)"
            yield Fault("NFTypes", "T19", text)
        return
    elements = asn1.parts(nf_types_der, asn1.MAX_ELEMENTS, "NFTypes", tag=0x30)
    if not elements or not all(
        item[0] == 0x16 and 1 <= len(asn1.inner(item)) <= MAX_NF_TYPE and item.isascii()
        for item in elements
    ):
        raise MalformedMessage("NFTypes is no list of names", rule="RFC 9310 3")
    names = [asn1.inner(item).decode("ascii") for item in elements]
    unknown = sorted(set(names) - profile.nf_types)
    if unknown:
        allowed = "the types of TS 29.510 6.1.6.3.3"
        if len(profile.nf_types) < 4:
            allowed = ", ".join(sorted(profile.nf_types))
        elif 0 < len(others := sorted(NF_TYPE_NAMES - profile.nf_types)) < 4:
            allowed += f" but {', '.join(others)}"
        what = ", ".join(unknown)
        yield Fault("NFTypes", "T19", f"nfTypes holds {what}; {profile.name} allows {allowed}")
    if len(set(names)) != len(names):
        yield Fault("NFTypes", "T19", "nfTypes holds a name twice (RFC 9310 3)")
