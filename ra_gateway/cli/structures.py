"""ASN.1, certificates and what is in them as text for people: what `ra-gateway show` prints of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pyasn1.codec.der.decoder import decode as der_decode
from pyasn1.error import PyAsn1Error
from pyasn1.type import univ
from rich.text import Text
from rich.tree import Tree

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import key_family, load_public_key, signature_algorithm
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import general_names, rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import CMPError, MalformedMessage, printable

_MAX_HEX_OCTETS: Final = 48
_MAX_DEPTH: Final = 24
"""Of ASN.1 in a dump; the deepest a CMP message gets is some 15."""

# What pyasn1 is known to raise on input that is not of the type it is told to expect.
UNDECODABLE: Final = (
    PyAsn1Error,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)

OID_NAMES: Final = {
    **{value: name for name, value in vars(OID).items() if not name.startswith("_")},
    OID.regInfoCertReq: "certReq",
    OID.rsassaPSS: "rsassa-pss",
    OID.ecPublicKey: "id-ecPublicKey",
    OID.secp256r1: "P-256",
    OID.secp384r1: "P-384",
    OID.secp521r1: "P-521",
    OID.hmacSHA1: "hmac-sha1",
    OID.passwordBasedMac: "PasswordBasedMac",
    OID.pbmac1: "PBMAC1",
    OID.dhBasedMac: "DHBasedMac",
    OID.kemBasedMac: "KemBasedMac",
}

_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_KEY_USAGES: Final = (
    "digitalSignature",
    "nonRepudiation",
    "keyEncipherment",
    "dataEncipherment",
    "keyAgreement",
    "keyCertSign",
    "cRLSign",
    "encipherOnly",
    "decipherOnly",
)


# --- text -----------------------------------------------------------------------------------------------------


def _line(label: str, text: str) -> Text:
    return Text.assemble((label, "cyan"), f": {printable(text)}" if text else "")


def add_line(tree: Tree, label: str, text: str) -> Tree:
    """Add a label and its text; return the new branch."""
    return tree.add(_line(label, text))


def add_note(tree: Tree, text: str) -> None:
    """Add a remark that is no part of what is shown."""
    tree.add(Text(f"note: {printable(text)}", "italic yellow"))


def hex_text(octets: bytes) -> str:
    """Return octets in hexadecimal, of long ones the beginning and the length."""
    if len(octets) <= _MAX_HEX_OCTETS:
        return octets.hex() or "(empty)"
    return f"{octets[:_MAX_HEX_OCTETS].hex()}… ({len(octets)} octets)"


def time_text(moment: datetime) -> str:
    """Return a moment to the second, UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def quoted(text: str) -> str:
    """Return a text in quotes, control characters escaped."""
    return f'"{printable(text)}"'


# --- what has a structure of its own -------------------------------------------------------------------------


def add_extension(tree: Tree, label: str, dotted: str, critical: bool, value: bytes) -> None:
    """Add an extension: what a well-known one says, a dump of others."""
    title = f"{oid_text(dotted)}{', critical' if critical else ''}"
    text = _extension_text(OID_NAMES.get(dotted, ""), value)
    if text is not None:
        add_line(tree, label, f"{title}: {text}")
    else:
        add_dump(add_line(tree, label, title), "value", value)


def _extension_text(name: str, value: bytes) -> str | None:
    """Return what a well-known extension says, None if it is another one or malformed."""
    try:
        if name == "subjectAltName":
            return printable(", ".join(general_names(value)))
        if name == "keyUsage":
            bits = asn1.set_bits(asn1.decode(asn1.BitString, value))
            return ", ".join(_KEY_USAGES[bit] for bit in bits if bit < len(_KEY_USAGES))
        if name == "extKeyUsage":
            return ", ".join(
                oid_text(oid.dotted_string) for oid in asn1.unbox(structures.OIDsBox, value).oids
            )
        if name == "basicConstraints":
            constraints = asn1.decode(structures.BasicConstraints, value)
            length = constraints.path_len_constraint
            return ("CA" if constraints.ca else "not a CA") + (
                "" if length is None else f", at most {length} CAs below"
            )
        if name == "subjectKeyIdentifier":
            return asn1.decode(bytes, value).hex()
    except CMPError:
        return None
    return None


def add_certificate(tree: Tree, label: str, der: bytes) -> None:
    """Add a summary of a certificate; one that cannot be read is dumped."""
    try:
        certificate = Certificate.from_der(der)
        branch = Tree(_line(label, certificate.subject or "(empty subject)"))
        add_line(branch, "issuer", certificate.issuer)
        add_line(branch, "serialNumber", f"0x{certificate.serial_number:x}")
        add_line(
            branch,
            "validity",
            f"{time_text(certificate.not_before)} to {time_text(certificate.not_after)}",
        )
        add_line(branch, "publicKey", public_key_text(certificate.spki_der))
        for oid in (OID.subjectAltName, OID.keyUsage, OID.extKeyUsage, OID.basicConstraints):
            if oid in certificate.extensions:
                _, value = certificate.extensions[oid]
                text = _extension_text(OID_NAMES[oid], value)
                add_line(branch, OID_NAMES[oid], hex_text(value) if text is None else text)
        add_line(branch, "signed with", algorithm_text(certificate.algorithm_der))
        add_line(branch, "SHA-256", certificate.fingerprint.hex())
    except CMPError as error:
        branch = add_line(tree, label, "not a certificate that can be read")
        add_note(branch, error.detail)
        add_dump(branch, "content", der)
    else:
        tree.children.append(branch)


def algorithm_text(der: bytes) -> str:
    """Return the name of an AlgorithmIdentifier, else its OID, else hex."""
    try:
        algorithm = signature_algorithm(der)
    except CMPError:
        pass  # not a signature algorithm we know: its OID is shown
    else:
        salt = f", salt of {algorithm.salt_length} octets"
        return algorithm.name + (salt if algorithm.salt_length is not None else "")
    try:
        return oid_text(asn1.decode(structures.AlgorithmIdentifier, der).algorithm.dotted_string)
    except CMPError:
        return hex_text(der)


def public_key_text(spki_der: bytes) -> str:
    """Return kind and size of a SubjectPublicKeyInfo, hex if it cannot be read."""
    try:
        key = load_public_key(spki_der)
    except CMPError:
        try:
            spki = asn1.decode(structures.SubjectPublicKeyInfo, spki_der)
        except CMPError:
            return hex_text(spki_der)
        octets = spki.subject_public_key.as_bytes()
        kind = algorithm_text(asn1.raw(spki.algorithm))
        return (
            f"{kind}, {hex_text(octets)}" if octets else f"{kind}, empty: the CA is to make the key"
        )
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {_CURVES.get(key.curve.name, key.curve.name)}"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size} bits, exponent {key.public_numbers().e}"
    return key_family(key) or type(key).__name__


def name_text(der: bytes) -> str:
    """Return a Name as in RFC 4514, hex if it cannot be read."""
    try:
        return printable(rfc4514(der)) or "NULL-DN"
    except CMPError:
        return hex_text(der)


def general_name_text(der: bytes) -> str:
    """Return a GeneralName, hex if it cannot be read."""
    try:
        text = general_names(asn1.tlv(0x30, der))[0]
    except CMPError:
        return hex_text(der)
    kind, _, value = text.partition(":")
    if kind == "dn":
        return printable(value) or "NULL-DN"
    return printable(text)


def oid_text(dotted: str) -> str:
    """Return an OID with its name, if it has one."""
    try:
        name = signature_algorithm(asn1.tlv(0x30, asn1.oid_der(dotted))).name
    except (CMPError, ValueError):
        name = OID_NAMES.get(dotted, "")
    return f"{name} ({dotted})" if name else dotted


# --- dump -----------------------------------------------------------------------------------------------------

_UNIVERSAL: Final = {
    0x01: "BOOLEAN",
    0x02: "INTEGER",
    0x03: "BIT STRING",
    0x04: "OCTET STRING",
    0x05: "NULL",
    0x06: "OBJECT IDENTIFIER",
    0x0A: "ENUMERATED",
    0x0C: "UTF8String",
    0x10: "SEQUENCE",
    0x11: "SET",
    0x13: "PrintableString",
    0x16: "IA5String",
    0x17: "UTCTime",
    0x18: "GeneralizedTime",
    0x1E: "BMPString",
}
_CLASSES: Final = ("", "APPLICATION ", "", "PRIVATE ")
_TEXT_TAGS: Final = frozenset({0x0C, 0x13, 0x16, 0x17, 0x18})


def add_dump(tree: Tree, label: str, der: bytes, depth: int = 0) -> None:
    """Add octets as ASN.1 without knowing their type; what is not DER as hex."""
    try:
        spans = asn1.spans(der, 0, len(der), len(der), "dump", strict=True)
    except MalformedMessage:
        spans = []
    if not spans or depth > _MAX_DEPTH:
        add_line(tree, label, hex_text(der))
        return
    for first, start, end in spans:
        content, number = der[start:end], first & 0x1F
        title = (
            _UNIVERSAL.get(number, f"UNIVERSAL {number}")
            if first < 0x40
            else f"[{_CLASSES[first >> 6]}{number}]"
        )
        if first & 0x20 and content:
            add_dump(add_line(tree, label, title), "·", content, depth + 1)
        elif first in _TEXT_TAGS:
            add_line(tree, label, f"{title} {quoted(content.decode('utf-8', 'replace'))}")
        elif first == 0x06 and (oid := decoded(asn1.tlv(6, content), univ.ObjectIdentifier())):
            add_line(tree, label, f"{title} {oid_text(str(oid))}")
        elif first in (0x02, 0x0A) and len(content) <= 4:
            add_line(tree, label, f"{title} {int.from_bytes(content, 'big', signed=True)}")
        else:
            add_line(tree, label, f"{title} {hex_text(content)}".rstrip())


def decoded(der: bytes, spec: Any) -> Any:
    """Return a pyasn1 value, None if the octets are not exactly one of that type."""
    try:
        value, rest = der_decode(der, asn1Spec=spec)
    except UNDECODABLE:
        return None
    return None if rest else value
