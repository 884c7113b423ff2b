"""Any CMP message as text for people: what `ra-gateway show` prints.

It walks what our own codec decodes. What that refuses, and with `--oracle` everything, is shown as pyasn1-modules reads
it, else as a dump of the ASN.1, and the text says so. Everything shown comes from strangers: control characters are
escaped. Secrets and private keys, encrypted ones too, are named but not shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, Final

from cryptography.x509 import ObjectIdentifier, load_der_x509_crl
from rich.text import Text
from rich.tree import Tree

from ra_gateway.cli.asn1_text import (
    OID_NAMES,
    SECRETS,
    Branch,
    Element,
    add_certificate,
    add_cut_dump,
    add_dump,
    add_extension,
    add_line,
    add_note,
    algorithm_text,
    as_json,
    beginning,
    content_of,
    elements,
    hex_text,
    hidden_text,
    in_full,
    name_text,
    oid_text,
    public_key_text,
    quoted,
    time_text,
)
from ra_gateway.cli.asn1_types import BODIES, VALUES
from ra_gateway.cli.captures import (
    BODY_TAGS,
    CannotShow,
    read_message,
    read_messages,
    sequence_at,
)
from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import CMPError, PKIFailureInfo

__all__ = ["CannotShow", "cut_off", "describe", "described", "read_message", "read_messages"]

_MAX_NESTING: Final = 3
"""Messages in messages: a nested, a batch, and one to spare."""

_BODY_TITLES: Final = """\
initialization request, initialization response, certification request, certification response,
PKCS #10 certification request, proof-of-possession challenge, proof-of-possession response,
key update request, key update response, key recovery request, key recovery response,
revocation request, revocation response, cross-certification request,
cross-certification response, CA key update announcement, certificate announcement,
revocation announcement, CRL announcement, confirmation, nested message, general message,
general response, error message, certificate confirmation, polling request, polling response\
""".replace("\n", " ").split(", ")
"""In the order of BodyType."""


# --- the message ----------------------------------------------------------------------------------------------


def describe(der: bytes, *, oracle: bool = False) -> Branch:
    """Return a CMP message as a tree to be printed by rich; also what is taken for one, and what there is of one.

    Args:
        der: A PKIMessage, whole or cut off; or a certificate, a PKCS #10 or a CRL. `read_messages` gets it from a file.
        oracle: Header and body as pyasn1-modules reads them, which nobody here wrote.

    Raises:
        CannotShow: It is none of these; parts that cannot be read are dumped instead.
    """
    try:
        return _message(der, 0, oracle)
    except CannotShow:
        found = _something_else(der) or _beginning(der, oracle)
        if found is None:
            raise
        return found


def described(der: bytes, *, oracle: bool = False) -> dict[str, Any]:
    """Return a CMP message for programs: nothing but secrets is shortened, and certificates come along in DER.

    Args:
        der, oracle: As of `describe`.

    Raises:
        CannotShow: As `describe`.
    """
    with in_full():
        return as_json(describe(der, oracle=oracle))


def cut_off(der: bytes) -> str:
    """Return how much of a message there is, if that is not all of it; else ""."""
    _, end = sequence_at(der, 0)
    if end <= len(der):
        return ""
    return f"The message is cut off: {len(der)} of its {end} octets are there."


def _something_else(der: bytes) -> Branch | None:
    """Return what may be mistaken for a message, None if it is something unknown."""
    tree = Branch("no CMP message", f"{len(der)} octets")
    try:
        request = asn1.decode(structures.CertificationRequest, der)
        asn1.decode(
            structures.CertificationRequestInfo, asn1.raw(request.certification_request_info)
        )
    except CMPError:
        pass
    else:
        _add_as(tree, "PKCS #10", der, structures.CertificationRequest)
        return tree
    try:
        Certificate.from_der(der)
    except CMPError:
        pass
    else:
        add_certificate(tree, "certificate", der)
        return tree
    try:
        load_der_x509_crl(der)
    except ValueError:
        return None
    _add_crl(tree, "CRL", der)
    return tree


def _beginning(der: bytes, oracle: bool) -> Branch | None:
    """Return what there is of a message that is cut off, None if the octets begin none."""
    begin, end = sequence_at(der, 0)
    header, header_end = sequence_at(der, begin) if begin else (0, 0)
    # By pvno and the body's tag: a private key that is cut off is not shown.
    tag = der[header_end : header_end + 1]
    if end <= len(der) or der[header : header + 1] != b"\x02" or (tag and tag not in BODY_TAGS):
        return None
    body_type = BodyType(tag[0] & 0x1F) if tag else None
    title = "" if body_type is None else f"{body_type.name} ({_BODY_TITLES[body_type]}), "
    tree = Branch("PKIMessage", f"{title}cut off: {len(der)} of {end} octets")
    if header_end > len(der):
        add_cut_dump(tree, "header", der[begin:])
        return tree
    branch = add_line(tree, "header", f"{header_end - begin} octets")
    _part(branch, None, der[begin:header_end], 0, oracle)
    found, rest = beginning(der[header_end:])
    for number, item in enumerate(found):
        if number == 0:
            _add_body(tree, item, 0, oracle)
        else:
            _add_behind_body(tree, item)
    if rest[:1] == b"\xa1":
        branch = add_line(tree, "extraCerts", "cut off")
        certificates, rest = beginning(content_of(content_of(rest)))
        for index, certificate in enumerate(certificates):
            add_certificate(branch, f"[{index}]", certificate.der)
        add_cut_dump(branch, f"[{len(certificates)}]", rest)
    elif rest:
        add_cut_dump(tree, "body" if not found else "protection", rest)
    return tree


def _message(der: bytes, nesting: int, oracle: bool) -> Branch:
    try:
        (outer,) = elements(der)
        header, body, *rest = elements(outer.content) if outer.tag == 0x30 else []
    except (CMPError, ValueError):
        raise CannotShow(
            f"These {len(der)} octets are not one complete PKIMessage in DER. "
            "Give the content of a CMP request or answer, without HTTP headers."
        ) from None
    number = body.tag & 0x1F
    if body.tag & 0xE0 != 0xA0 or number > max(BodyType):
        raise CannotShow(
            f"The octets are a SEQUENCE, but its second member (tag {body.tag:02x}) is not the body "
            "of a PKIMessage. Give a CMP request or answer."
        )
    body_type = BodyType(number)
    details = f"({_BODY_TITLES[number]}), {len(der)} octets"
    title = Text.assemble(("PKIMessage ", "bold"), (body_type.name, "bold green"), f" {details}")
    tree = Branch("PKIMessage", f"{body_type.name} {details}", title)
    branch = add_line(tree, "header", f"{len(header.der)} octets")
    _part(branch, None, header.der, nesting, oracle)
    _add_body(tree, body, nesting, oracle)
    if not any(member.tag == 0xA0 for member in rest):
        add_line(tree, "protection", "none")
    for member in rest:
        _add_behind_body(tree, member)
    return tree


def _add_body(tree: Tree, body: Element, nesting: int, oracle: bool) -> None:
    body_type = BodyType(body.tag & 0x1F)
    text = f"{body_type.name} [{body_type.value}], {len(body.der)} octets"
    _part(add_line(tree, "body", text), body_type, body.der, nesting, oracle)


def _add_behind_body(tree: Tree, member: Element) -> None:
    if member.tag == 0xA0:
        _add_as(tree, "protection", member.content, asn1.BitString)
    elif member.tag == 0xA1 and (certificates := _items(member.content)) is not None:
        branch = add_line(tree, "extraCerts", f"{len(certificates)} certificates")
        for index, certificate in enumerate(certificates):
            add_certificate(branch, f"[{index}]", certificate)
    else:
        add_dump(tree, "extraCerts" if member.tag == 0xA1 else "unexpected", member.der)


def _part(tree: Tree, body_type: BodyType | None, der: bytes, nesting: int, oracle: bool) -> None:
    """Add header (`body_type` is None) or body: by our decoder, else by the other one, else as a dump."""
    content = der if body_type is None else asn1.inner(der)
    if body_type is BodyType.nested and (messages := _items(content)) is not None:
        _nested(tree, messages, nesting, oracle)
        return
    if oracle and _second_reading(tree, body_type, der):
        return
    try:
        value = _decode(structures.PKIHeader if body_type is None else BODIES[body_type], content)
    except CMPError as error:
        add_note(tree, f"the gateway's decoder refuses this: {error.detail}")
        if not _second_reading(tree, body_type, der):
            add_note(tree, "neither decoder can read this; this is a dump of its ASN.1")
            add_dump(tree, "content", content)
        return
    if not is_dataclass(value):
        _add(tree, "content", value, "certificate")
        return
    _add_members(tree, value)
    for item in value.general_info or () if isinstance(value, structures.PKIHeader) else ():
        if item.info_type.dotted_string == OID.origPKIMessage and item.info_value:
            _nested(tree, _items(asn1.raw(item.info_value)) or [], nesting, oracle)


def _second_reading(tree: Tree, body_type: BodyType | None, der: bytes) -> bool:
    from ra_gateway.cli.second_decoder import second_reading  # takes long to import

    text = second_reading(body_type, der)
    if text is not None:
        add_note(tree, "shown as pyasn1-modules (RFC 4210, 2005) reads it")
        tree.children.append(_text_branch(text))
    return text is not None


def _text_branch(text: str) -> Branch:
    branch = Branch("text", "", Text(text))
    branch.value = text
    return branch


def _items(der: bytes) -> list[bytes] | None:
    """Return the elements of a SEQUENCE, None if it is none."""
    try:
        (outer,) = elements(der)
        return [item.der for item in elements(outer.content)] if outer.tag == 0x30 else None
    except (CMPError, ValueError):
        return None


def _nested(tree: Tree, messages: list[bytes], nesting: int, oracle: bool) -> None:
    for index, der in enumerate(messages):
        if nesting < _MAX_NESTING:
            try:
                tree.children.append(_message(der, nesting + 1, oracle))
                continue
            except CannotShow:
                add_note(tree, f"[{index}] is not a PKIMessage; this is a dump of its ASN.1")
        add_dump(tree, f"[{index}]", der)


# --- decoded values -------------------------------------------------------------------------------------------


def _is_box(value: Any) -> bool:
    return type(value).__name__.endswith("Box")


def _decode(declared: Any, der: bytes) -> Any:
    decode = asn1.unbox if declared.__name__.endswith("Box") else asn1.decode
    return decode(declared, der)


def _add_as(tree: Tree, label: str, der: bytes, declared: Any) -> None:
    """Add an element of a declared type; a dump if it is not of it."""
    try:
        value = _decode(declared, der)
    except CMPError as error:
        branch = add_line(tree, label, "")
        add_note(branch, f"{error.detail}; this is a dump of its ASN.1")
        add_dump(branch, "content", der)
    else:
        _add(tree, label, value)


def _add(tree: Tree, label: str, value: Any, member: str = "") -> None:
    """Add a value of the codec, member by member where it has no way of its own to be shown.

    Args:
        member: Of the structure it is in: what kind an element is whose type is not declared.
    """
    if isinstance(value, asn1.Variant):
        _add(tree, f"{label} {value.tag}", value.value, value.tag)
    elif isinstance(value, asn1.TLV):
        _add_element(tree, label, asn1.raw(value), member)
    elif isinstance(value, list | asn1.SetOf):
        _add_items(add_line(tree, label, ""), value, member)
    elif isinstance(value, structures.AlgorithmIdentifier):
        _add_algorithm(tree, label, asn1.encode(value))
    elif isinstance(value, structures.SubjectPublicKeyInfo):
        add_line(tree, label, public_key_text(asn1.encode(value)))
    elif isinstance(value, structures.Extension):
        oid = value.extn_id.dotted_string
        add_extension(tree, label, oid, value.critical, value.extn_value)
    elif isinstance(value, _TYPED_VALUES):
        _add_typed_value(tree, label, *(getattr(value, field.name) for field in fields(value)))
    elif is_dataclass(value):
        empty = all(getattr(value, item.name) is None for item in fields(value))
        name = "" if _is_box(value) else type(value).__name__
        _add_members(add_line(tree, label, f"{name} (empty)" if empty else name), value)
    else:
        add_line(tree, label, _plain(value, member))


def _add_members(tree: Tree, value: Any) -> None:
    for field in fields(value):
        member = getattr(value, field.name)
        if _is_box(value):
            _add_items(tree, member, field.name)
        elif member is not None:
            _add(tree, _rfc_spelling(field.name), member, field.name)


def _add_items(tree: Tree, items: Any, member: str) -> None:
    for index, item in enumerate(items if isinstance(items, list) else items.as_list()):
        _add(tree, f"[{index}]", item, member)


def _rfc_spelling(member: str) -> str:
    first, *words = member.split("_")
    name = first + "".join(word.capitalize() for word in words)
    return _SPELLINGS.get(name, name)


_SPELLINGS: Final = {
    "transactionId": "transactionID",
    "senderKid": "senderKID",
    "recipKid": "recipKID",
    "issuerUid": "issuerUID",
    "subjectUid": "subjectUID",
    "pkiStatusInfo": "pKIStatusInfo",
    "subjectPkInfo": "subjectPKInfo",
}
_NUMBERS: Final[dict[str, dict[int, str]]] = {
    "pvno": {1: "cmp1999", 2: "cmp2000", 3: "cmp2021"},
    "status": {status.value: status.name for status in PKIStatus},
    "version": {0: "v1", 1: "v2", 2: "v3"},
}


def _plain(value: Any, member: str) -> str:
    if isinstance(value, asn1.Null):
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int):
        name = _NUMBERS.get(member, {}).get(value)
        text = str(value) if abs(value) < 1 << 32 else f"0x{value:x}"
        return text if name is None else f"{name} ({text})"
    if isinstance(value, asn1.BitString):
        if member == "fail_info":
            return _fail_info(value)
        unused = value.padding_bits()
        return hex_text(value.as_bytes()) + (f", {unused} unused bits" if unused else "")
    if isinstance(value, asn1.GeneralizedTime | asn1.UTCTime):
        return time_text(asn1.time_of(value))
    if isinstance(value, ObjectIdentifier):
        return oid_text(value.dotted_string)
    return hex_text(value) if isinstance(value, bytes) else quoted(str(value))


def _fail_info(bits: asn1.BitString) -> str:
    names = {bit.value: bit.name for bit in PKIFailureInfo}
    try:
        numbers = asn1.set_bits(bits)
    except CMPError:
        return hex_text(bits.as_bytes())
    return ", ".join(names.get(number, f"bit {number}") for number in numbers) or "no bit set"


def _add_typed_value(tree: Tree, label: str, oid: ObjectIdentifier, value: Any) -> None:
    """Add a control, an InfoTypeAndValue or an attribute: the OID says what the value is."""
    name = OID_NAMES.get(oid.dotted_string, "")
    if value is None:
        add_line(tree, label, f"{oid_text(oid.dotted_string)}, no value")
    elif name in SECRETS:
        text = f"{oid_text(oid.dotted_string)}, {hidden_text(asn1.encode(value))}"
        add_line(tree, label, text)
    else:
        _add(add_line(tree, label, oid_text(oid.dotted_string)), "value", value, name)


def _add_algorithm(tree: Tree, label: str, der: bytes) -> None:
    branch = add_line(tree, label, algorithm_text(der))
    try:
        algorithm = asn1.decode(structures.AlgorithmIdentifier, der)
    except CMPError:
        return  # what it is, is shown by its octets
    if algorithm.algorithm.dotted_string == OID.passwordBasedMac and algorithm.parameters:
        _add_as(branch, "parameters", asn1.raw(algorithm.parameters), structures.PBMParameter)


def _add_crl(tree: Tree, label: str, der: bytes) -> None:
    try:
        crl = load_der_x509_crl(der)
        branch = Branch(label, "CertificateList")
        add_line(branch, "issuer", name_text(crl.issuer.public_bytes()))
        add_line(branch, "thisUpdate", time_text(crl.last_update_utc))
        if crl.next_update_utc is not None:
            add_line(branch, "nextUpdate", time_text(crl.next_update_utc))
        add_line(branch, "revoked", str(len(crl)))
        add_line(branch, "signatureAlgorithm", oid_text(crl.signature_algorithm_oid.dotted_string))
    except ValueError:
        add_dump(tree, label, der)
    else:
        tree.children.append(branch)


def _add_pop_private_key(tree: Tree, label: str, der: bytes) -> None:
    names = ("thisMessage", "subsequentMessage", "dhMAC", "agreeMAC", "encryptedKey")
    number = der[0] & 0x1F
    name = names[number] if number < len(names) else f"[{number}]"
    if name in ("thisMessage", "encryptedKey"):
        add_line(tree, f"{label} {name}", hidden_text(der))
    else:
        add_dump(tree, f"{label} {name}", der)


def _add_auth_info(tree: Tree, label: str, der: bytes) -> None:
    if der[0] == 0xA0:
        add_line(tree, f"{label} sender", name_text(asn1.inner(der)))
    else:
        add_dump(tree, f"{label} publicKeyMAC", der)


def _add_element(tree: Tree, label: str, der: bytes, member: str) -> None:
    """Add an element of undeclared type by the name of the member, or of the OID, whose value it is."""
    if member in VALUES:
        _add_as(tree, label, der, VALUES[member])
    elif member in _TEXTS:
        add_line(tree, label, _TEXTS[member](der))
    else:
        _TREES.get(member, add_dump)(tree, label, der)


_TYPED_VALUES: Final = (
    structures.InfoTypeAndValue,
    structures.AttributeTypeAndValue,
    structures.Attribute,
)
_TEXTS: Final[dict[str, Callable[[bytes], str]]] = {
    **dict.fromkeys(("sender", "recipient", "issuer", "subject"), name_text),
    **dict.fromkeys(("public_key", "subject_pk_info", "protocolEncrKey"), public_key_text),
    **dict.fromkeys(("private_key", "encryptedCert"), hidden_text),
    "origPKIMessage": lambda der: f"{len(der)} octets, below",
}
_TREES: Final[dict[str, Callable[[Tree, str, bytes], None]]] = {
    **dict.fromkeys(
        (
            *("protection_alg", "algorithm_identifier", "signature_algorithm"),
            *("algId", "preferredSymmAlg"),
        ),
        _add_algorithm,
    ),
    **dict.fromkeys(
        (
            *("certificate", "ca_pubs", "ca_certs", "new_sig_cert", "rootCaCert", "caProtEncCert"),
            *("new_with_new", "new_with_old", "old_with_new"),
        ),
        add_certificate,
    ),
    "auth_info": _add_auth_info,
    **dict.fromkeys(("crls", "currentCRL"), _add_crl),
    **dict.fromkeys(("keyEncipherment", "keyAgreement"), _add_pop_private_key),
}
