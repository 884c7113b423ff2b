"""ASN.1, certificates and what is in them as text for people: what `ra-gateway show` prints of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import ObjectIdentifier
from rich.text import Text
from rich.tree import Tree

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import key_family, load_public_key, signature_algorithm
from ra_gateway.cmp.certificates import KEY_USAGES, Certificate
from ra_gateway.cmp.names import general_names, readable, readable_text
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import CMPError, printable

_MAX_HEX_OCTETS: Final = 48
_MAX_DEPTH: Final = 24
"""Of ASN.1 in a dump; the deepest a CMP message gets is some 15."""

_MAX_DUMPED: Final = 10_000
"""Elements of one dump, each of which costs some kB; a message with a hundred certificates has fewer."""

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

SECRETS: Final = frozenset({"regToken", "authenticator", "pkiArchiveOptions", "revPassphrase"})
"""What these OIDs announce is not shown."""

_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


# --- text -----------------------------------------------------------------------------------------------------

_whole: ContextVar[bool] = ContextVar("whole", default=False)


@contextmanager
def in_full() -> Iterator[None]:
    """Shorten nothing meanwhile, however long it is."""
    before = _whole.set(True)
    try:
        yield
    finally:
        _whole.reset(before)


class Branch(Tree):
    """A name, its value and its members: a tree that rich prints, and that programs read.

    Args:
        name: As the standards spell it, or an index such as [0].
        value: "" for none.
        label: What is printed; by default name and value.
    """

    def __init__(self, name: str, value: str, label: Text | None = None) -> None:
        self.name = name
        self.value = printable(value, len(value)) if _whole.get() else printable(value)
        label = label or Text.assemble((name, "cyan"), f": {self.value}" if value else "")
        super().__init__(label)


def add_line(tree: Tree, label: str, text: str) -> Branch:
    """Add a label and its text; return the new branch."""
    branch = Branch(label, text)
    tree.children.append(branch)
    return branch


def add_note(tree: Tree, text: str) -> None:
    """Add a remark that is no part of what is shown."""
    shown = Text(f"note: {printable(text)}", "italic yellow")
    tree.children.append(Branch("note", text, shown))


def lines_of(tree: Tree, *, ascii_only: bool = False) -> Iterator[Text]:
    """Yield a tree line by line, each as long as it is: rich itself cuts lines that are longer than the terminal."""
    fork, end, bar = ("+-- ", "`-- ", "|   ") if ascii_only else ("├── ", "└── ", "│   ")
    # The label's first line, its further ones, and what is before those of the members.
    waiting: list[tuple[Tree, str, str, str]] = [(tree, "", "", "")]
    while waiting:
        branch, first, further, below = waiting.pop()
        label = branch.label if isinstance(branch.label, Text) else Text(str(branch.label))
        for number, part in enumerate(label.split("\n", allow_blank=True)):
            yield Text(further if number else first).append_text(part)
        for number, child in reversed(list(enumerate(branch.children, 1))):
            guide, under = (end, "    ") if number == len(branch.children) else (fork, bar)
            waiting.append((child, below + guide, below + under, below + under))


def as_json(tree: Tree) -> dict[str, Any]:
    """Return a tree of branches as `show --json` prints it: its name, and its value and members where it has some."""
    assert isinstance(tree, Branch)
    found: dict[str, Any] = {"name": tree.name}
    if tree.value:
        found["value"] = tree.value
    if tree.children:
        found["members"] = list(map(as_json, tree.children))
    return found


def hex_text(octets: bytes) -> str:
    """Return octets in hexadecimal, of long ones the beginning and the length."""
    if len(octets) <= _MAX_HEX_OCTETS or _whole.get():
        return octets.hex() or "(empty)"
    return f"{octets[:_MAX_HEX_OCTETS].hex()}… ({len(octets)} octets)"


def time_text(moment: datetime) -> str:
    """Return a moment to the second, UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def quoted(text: str) -> str:
    """Return a text in quotes, control characters escaped."""
    return f'"{printable(text)}"'


def hidden_text(der: bytes) -> str:
    """Return how long a secret is."""
    return f"{len(der)} octets, not shown"


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
            return printable(readable_text(", ".join(general_names(value))))
        if name == "keyUsage":
            bits = asn1.set_bits(asn1.decode(asn1.BitString, value))
            return ", ".join(KEY_USAGES[bit] for bit in bits if bit < len(KEY_USAGES))
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
        branch = Branch(label, certificate.subject or "(empty subject)")
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
        if _whole.get():
            add_line(branch, "DER", der.hex())
    except CMPError as error:
        branch = add_line(tree, label, "not a certificate that can be read")
        add_note(branch, f"{error.detail}; this is a dump of its ASN.1")
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
    """Return a Name, as in RFC 4514, or a GeneralName; hex if it cannot be read."""
    try:
        if der[0] == 0x30:
            return printable(readable(der)) or "NULL-DN"
        text = readable_text(general_names(asn1.tlv(0x30, der))[0])
    except CMPError:
        return hex_text(der)
    kind, _, value = text.partition(":")
    return (printable(value) or "NULL-DN") if kind == "dn" else printable(text)


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


def add_dump(tree: Tree, label: str, der: bytes) -> None:
    """Add octets as ASN.1 without knowing their type; what is not DER, and what is too much, as hex."""
    _add_dump(tree, label, der, 0, iter(range(_MAX_DUMPED)))


def _add_dump(tree: Tree, label: str, der: bytes, depth: int, left: Iterator[int]) -> None:
    try:
        found = elements(der)
    except CMPError:
        found = []
    if not found or depth > _MAX_DEPTH:
        add_line(tree, label, hex_text(der))
        return
    at = 0
    for tag, content, whole in found:
        if next(left, None) is None:
            add_line(tree, label, f"the rest is not taken apart: {hex_text(der[at:])}")
            return
        at += len(whole)
        title = _title(tag)
        if tag & 0x20 and content:
            _add_dump(add_line(tree, label, title), "·", content, depth + 1, left)
            continue
        text = hex_text(content) if content else ""
        if tag in _TEXT_TAGS:
            text = quoted(content.decode("utf-8", "replace"))
        elif tag in (0x02, 0x0A) and len(content) <= 4:
            text = str(int.from_bytes(content, "big", signed=True))
        elif tag == 0x06:
            with suppress(CMPError):
                text = oid_text(asn1.decode(ObjectIdentifier, whole).dotted_string)
        add_line(tree, label, f"{title} {text}".rstrip())


def _title(tag: int) -> str:
    number = tag & 0x1F
    if tag < 0x40:
        return _UNIVERSAL.get(number, f"UNIVERSAL {number}")
    return f"[{_CLASSES[tag >> 6]}{number}]"


def add_cut_dump(tree: Tree, label: str, octets: bytes) -> None:
    """Add what there is of ASN.1 that is cut off."""
    found, rest = beginning(octets)
    for item in found:
        add_dump(tree, label, item.der)
    while rest and (content := content_of(rest)) and rest[0] & 0x20:
        tree, label = add_line(tree, label, f"{_title(rest[0])}, cut off"), "·"
        found, rest = beginning(content)
        for item in found:
            add_dump(tree, label, item.der)
    if rest:
        add_line(tree, label, f"{hex_text(rest)}, cut off")


class Element(NamedTuple):
    """One element: its tag octet, its content, and all of it."""

    tag: int
    content: bytes
    der: bytes


def elements(der: bytes) -> list[Element]:
    """Return the elements of which octets consist; unlike the codec it takes lengths that are not the shortest.

    Raises:
        MalformedMessage: Not a sequence of elements with one-octet tags.
    """
    found: list[Element] = []
    begin = 0
    for tag, start, end in asn1.spans(der, 0, len(der), len(der), "sequence of elements"):
        found.append(Element(tag, der[start:end], der[begin:end]))
        begin = end
    return found


def beginning(der: bytes) -> tuple[list[Element], bytes]:
    """Return the elements with which octets begin, and what there is of one that is not whole."""
    found = []
    while len(der) > 1 and der[0] & 0x1F != 0x1F:
        start, end = _extent(der)
        if end > len(der):
            break
        found.append(Element(der[0], der[start:end], der[:end]))
        der = der[end:]
    return found, der


def content_of(der: bytes) -> bytes:
    """Return what there is of the content of the element with which octets begin."""
    return der[_extent(der)[0] :] if len(der) > 1 else b""


def _extent(der: bytes) -> tuple[int, int]:
    """Return where the content of an element begins, and ends by what it says."""
    size = der[1] & 0x7F if der[1] & 0x80 else 0
    length = int.from_bytes(der[2 : 2 + size], "big") if size else der[1] & 0x7F
    return 2 + size, 2 + size + length
