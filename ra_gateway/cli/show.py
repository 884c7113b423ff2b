"""Any CMP message as text for people: what `ra-gateway show` prints.

The structure is decoded by pyasn1-modules, which nobody here wrote, so that a fault of our own codec does not
hide itself. Its CMP is that of RFC 4210 (2005): what came later is shown by our decoder or as a dump of the
ASN.1, and the text says so. Everything shown comes from strangers: control characters are escaped. Secrets
and private keys, encrypted ones too, are named but not shown.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any, Final

from pyasn1.codec.der.encoder import encode as der_encode
from pyasn1.type import base, char, namedtype, tag, univ, useful
from pyasn1_modules import rfc2314, rfc2459, rfc4210, rfc4211
from rich.text import Text
from rich.tree import Tree

from ra_gateway.cli.structures import (
    OID_NAMES,
    UNDECODABLE,
    add_certificate,
    add_dump,
    add_extension,
    add_line,
    add_note,
    algorithm_text,
    decoded,
    general_name_text,
    hex_text,
    name_text,
    oid_text,
    public_key_text,
    quoted,
    time_text,
)
from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import PKIStatusInfo, cert_confirm_content, cert_rep_message
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIHeader
from ra_gateway.errors import CMPError, GatewayError, printable

_MAX_NESTING: Final = 3
"""Messages in messages: a nested, a batch, and one to spare."""

_BODY_TITLES: Final = {
    BodyType.ir: "initialization request",
    BodyType.ip: "initialization response",
    BodyType.cr: "certification request",
    BodyType.cp: "certification response",
    BodyType.p10cr: "PKCS #10 certification request",
    BodyType.popdecc: "proof-of-possession challenge",
    BodyType.popdecr: "proof-of-possession response",
    BodyType.kur: "key update request",
    BodyType.kup: "key update response",
    BodyType.krr: "key recovery request",
    BodyType.krp: "key recovery response",
    BodyType.rr: "revocation request",
    BodyType.rp: "revocation response",
    BodyType.ccr: "cross-certification request",
    BodyType.ccp: "cross-certification response",
    BodyType.ckuann: "CA key update announcement",
    BodyType.cann: "certificate announcement",
    BodyType.rann: "revocation announcement",
    BodyType.crlann: "CRL announcement",
    BodyType.pkiconf: "confirmation",
    BodyType.nested: "nested message",
    BodyType.genm: "general message",
    BodyType.genp: "general response",
    BodyType.error: "error message",
    BodyType.certConf: "certificate confirmation",
    BodyType.pollReq: "polling request",
    BodyType.pollRep: "polling response",
}

_SECRETS: Final = frozenset({"regToken", "authenticator", "pkiArchiveOptions", "revPassphrase"})


class CannotShow(GatewayError):
    """The input is no CMP message; the text says what was found and what to give instead."""


# --- reading --------------------------------------------------------------------------------------------------

_PEM_BEGIN: Final = re.compile(rb"-----BEGIN ([^-\r\n]{0,64})-----")
_HEX: Final = re.compile(rb"(?:0x)?(?:[0-9a-fA-F]{2}[\s:]*)+")
_TEXT: Final = bytes(range(0x20, 0x7F)) + b"\t\r\n\f\v"


def read_message(data: bytes) -> bytes:
    """Return the DER in a file's content, which is DER, a PEM-like block, base64 or hex.

    Args:
        data: Whatever the file has; hex may have blanks, line ends and colons.

    Raises:
        CannotShow: It is empty, a private key, or none of these forms.
    """
    if not data.strip():
        raise CannotShow("The file is empty. Give a CMP message in DER, base64 or hex.")
    if data.translate(None, _TEXT):
        return data
    if b"PRIVATE KEY-----" in data:
        raise CannotShow("The file has a private key, which is not shown. Give a CMP message.")
    text = _first_block(data).strip()
    if _HEX.fullmatch(text):
        return bytes.fromhex(re.sub(rb"^0x|[\s:]", b"", text).decode("ascii"))
    try:
        return base64.b64decode(re.sub(rb"\s", b"", text), validate=True)
    except binascii.Error as error:
        raise CannotShow(
            "The file is text, but neither PEM nor base64 nor hex. "
            "Give a CMP message in DER, base64 or hex."
        ) from error


def _first_block(data: bytes) -> bytes:
    """Return what is between the first BEGIN and the END of its label, or all where there is no such block."""
    begin = _PEM_BEGIN.search(data)
    if begin is None:
        return data
    end = data.find(b"-----END %b-----" % begin[1], begin.end())
    return data if end < 0 else data[begin.end() : end]


class _Frame(univ.Sequence):  # type: ignore[misc]
    """PKIMessage with its parts unread, so that one that pyasn1 cannot read does not spoil the others."""

    componentType = namedtype.NamedTypes(
        namedtype.NamedType("header", univ.Any()),
        namedtype.NamedType("body", univ.Any()),
        namedtype.OptionalNamedType(
            "protection",
            univ.BitString().subtype(
                explicitTag=tag.Tag(tag.tagClassContext, tag.tagFormatConstructed, 0)
            ),
        ),
        namedtype.OptionalNamedType(
            "extraCerts",
            univ.SequenceOf(componentType=univ.Any()).subtype(
                explicitTag=tag.Tag(tag.tagClassContext, tag.tagFormatConstructed, 1)
            ),
        ),
    )


class _Certificates(univ.SequenceOf):  # type: ignore[misc]
    componentType = rfc2459.Certificate()


class _Texts(univ.SequenceOf):  # type: ignore[misc]
    componentType = char.UTF8String()


# NestedMessageContent of rfc4210 is a trick to have recursion; the members are shown one by one here.
class _Messages(univ.SequenceOf):  # type: ignore[misc]
    componentType = univ.Any()


# The CRMF that pyasn1's rfc4210 brings is RFC 2511's, where GeneralName is a stub: it can read neither
# poposkInput nor CertId. RFC 4211's takes its place.
class _CertIds(univ.SequenceOf):  # type: ignore[misc]
    componentType = rfc4211.CertId()


class _RevRepContent(univ.Sequence):  # type: ignore[misc]
    componentType = namedtype.NamedTypes(
        rfc4210.RevRepContent.componentType[0],
        namedtype.OptionalNamedType(
            "revCerts",
            _CertIds().subtype(
                explicitTag=tag.Tag(tag.tagClassContext, tag.tagFormatConstructed, 0)
            ),
        ),
        rfc4210.RevRepContent.componentType[2],
    )


class _RevAnnContent(univ.Sequence):  # type: ignore[misc]
    componentType = namedtype.NamedTypes(
        *(
            namedtype.NamedType("certId", rfc4211.CertId()) if item.name == "certId" else item
            for item in rfc4210.RevAnnContent.componentType.namedTypes
        )
    )


_BODY_SPECS: Final[dict[BodyType, Any]] = {
    **dict.fromkeys(
        (BodyType.ir, BodyType.cr, BodyType.kur, BodyType.krr, BodyType.ccr),
        rfc4211.CertReqMessages(),
    ),
    **dict.fromkeys(
        (BodyType.ip, BodyType.cp, BodyType.kup, BodyType.ccp), rfc4210.CertRepMessage()
    ),
    BodyType.p10cr: rfc2314.CertificationRequest(),
    BodyType.popdecc: rfc4210.POPODecKeyChallContent(),
    BodyType.popdecr: rfc4210.POPODecKeyRespContent(),
    BodyType.krp: rfc4210.KeyRecRepContent(),
    BodyType.rr: rfc4210.RevReqContent(),
    BodyType.rp: _RevRepContent(),
    BodyType.ckuann: rfc4210.CAKeyUpdAnnContent(),
    BodyType.cann: rfc4210.CertAnnContent(),
    BodyType.rann: _RevAnnContent(),
    BodyType.crlann: rfc4210.CRLAnnContent(),
    BodyType.pkiconf: rfc4210.PKIConfirmContent(),
    BodyType.nested: _Messages(),
    BodyType.genm: rfc4210.GenMsgContent(),
    BodyType.genp: rfc4210.GenRepContent(),
    BodyType.error: rfc4210.ErrorMsgContent(),
    BodyType.certConf: rfc4210.CertConfirmContent(),
    BodyType.pollReq: rfc4210.PollReqContent(),
    BodyType.pollRep: rfc4210.PollRepContent(),
}


# --- the message ----------------------------------------------------------------------------------------------


def describe(der: bytes) -> Tree:
    """Return a CMP message as a tree to be printed by rich.

    Args:
        der: One complete PKIMessage; `read_message` gets it from a file.

    Raises:
        CannotShow: It is not a PKIMessage at all; parts of one that cannot be read are dumped instead.
    """
    return _message(der, 0)


def _message(der: bytes, nesting: int) -> Tree:
    frame = decoded(der, _Frame())
    if frame is None:
        raise CannotShow(
            f"These {len(der)} octets are not one complete PKIMessage in DER. "
            "Give the content of a CMP request or answer, without HTTP headers."
        )
    body_der = bytes(frame["body"])
    number = body_der[0] & 0x1F
    if body_der[0] & 0xE0 != 0xA0 or number > max(BodyType):
        raise CannotShow(
            f"The octets are a SEQUENCE, but its second member (tag {body_der[0]:02x}) is not the body "
            "of a PKIMessage. Give a CMP request or answer."
        )
    body_type = BodyType(number)
    tree = Tree(
        Text.assemble(
            ("PKIMessage ", "bold"),
            (body_type.name, "bold green"),
            f" ({_BODY_TITLES[body_type]}), {len(der)} octets",
        )
    )
    _header(tree, bytes(frame["header"]))
    _body(tree, body_type, body_der, nesting)
    if frame["protection"].hasValue():
        add_line(tree, "protection", _bits(frame["protection"]))
    else:
        add_line(tree, "protection", "none")
    if frame["extraCerts"].hasValue():
        branch = add_line(tree, "extraCerts", f"{len(frame['extraCerts'])} certificates")
        for index, item in enumerate(frame["extraCerts"]):
            add_certificate(branch, f"[{index}]", bytes(item))
    return tree


def _header(tree: Tree, der: bytes) -> None:
    header = decoded(der, rfc4210.PKIHeader())
    branch = add_line(tree, "header", f"{len(der)} octets")
    if header is not None and _shown(branch, lambda: _members(branch, header)):
        return
    try:
        own = PKIHeader.from_der(der)
    except CMPError:
        add_note(branch, "the header does not conform to RFC 9810; this is a dump of its ASN.1")
        add_dump(branch, "header", der)
        return
    add_note(branch, "pyasn1 cannot read this header; shown by the gateway's own decoder")
    add_line(branch, "pvno", str(own.pvno))
    add_line(branch, "sender", general_name_text(own.sender_der))
    add_line(branch, "recipient", general_name_text(own.recipient_der))
    if own.message_time is not None:
        add_line(branch, "messageTime", time_text(own.message_time))
    if own.protection_alg_der is not None:
        add_line(branch, "protectionAlg", algorithm_text(own.protection_alg_der))
    for label, octets in (
        ("senderKID", own.sender_kid),
        ("recipKID", own.recip_kid),
        ("transactionID", own.transaction_id),
        ("senderNonce", own.sender_nonce),
        ("recipNonce", own.recip_nonce),
    ):
        if octets is not None:
            add_line(branch, label, hex_text(octets))
    for text in own.free_text:
        add_line(branch, "freeText", quoted(text))
    for item in own.general_info:
        _typed_value(branch, "generalInfo", item.info_type, item.value_der)


def _body(tree: Tree, body_type: BodyType, der: bytes, nesting: int) -> None:
    content = asn1.inner(der)
    branch = add_line(tree, "body", f"{body_type.name} [{int(body_type)}], {len(der)} octets")
    value = decoded(content, _BODY_SPECS[body_type])
    if value is not None and _shown(branch, lambda: _content_of(branch, body_type, value, nesting)):
        return
    own = _OWN_BODIES.get(body_type)
    try:
        if own is not None:
            own(branch, content)
            return
    except CMPError:
        pass  # neither decoder reads it: the dump below is what remains
    add_note(
        branch,
        "pyasn1 (RFC 4210, 2005) cannot read this body: it is newer syntax, or wrong; "
        "this is a dump of its ASN.1",
    )
    add_dump(branch, "content", content)


def _content_of(tree: Tree, body_type: BodyType, value: Any, nesting: int) -> None:
    if body_type is BodyType.nested:
        _nested(tree, [bytes(item) for item in value], nesting)
    elif isinstance(value, univ.SequenceOf):
        for index, item in enumerate(value):
            _show(tree, f"[{index}]", item)
    elif isinstance(value, univ.Sequence) and not _kinds(value) & _SHOWN_AS.keys():
        _members(tree, value)
    else:
        _show(tree, "content", value)


def _shown(tree: Tree, show: Callable[[], None]) -> bool:
    """Run a function that adds to a tree; undo it where pyasn1 stumbles over what it has decoded itself."""
    before = len(tree.children)
    try:
        show()
    except UNDECODABLE:
        del tree.children[before:]
        return False
    return True


def _nested(tree: Tree, messages: list[bytes], nesting: int) -> None:
    for index, der in enumerate(messages):
        if nesting < _MAX_NESTING:
            try:
                tree.add(_message(der, nesting + 1))
                continue
            except CannotShow:
                add_note(tree, f"[{index}] is not a PKIMessage; this is a dump of its ASN.1")
        add_dump(tree, f"[{index}]", der)


# --- bodies that pyasn1 cannot read ---------------------------------------------------------------------------


def _own_cert_conf(tree: Tree, content: bytes) -> None:
    statuses = cert_confirm_content(content)
    add_note(tree, "hashAlg is newer than pyasn1's RFC 4210; shown by the gateway's own decoder")
    for index, status in enumerate(statuses):
        branch = add_line(tree, f"[{index}]", "CertStatus")
        add_line(branch, "certHash", hex_text(status.cert_hash))
        add_line(branch, "certReqId", str(status.cert_req_id))
        if status.status_info is not None:
            _own_status(branch, "statusInfo", status.status_info)
        if status.hash_alg is not None:
            add_line(branch, "hashAlg", algorithm_text(asn1.encode(status.hash_alg)))


def _own_cert_rep(tree: Tree, content: bytes) -> None:
    message = cert_rep_message(content)
    add_note(
        tree,
        "pyasn1 (RFC 4210, 2005) cannot read this answer: EncryptedKey is newer, or a certificate is "
        "unusual; shown by the gateway's own decoder",
    )
    for index, der in enumerate(message.ca_pubs):
        add_certificate(tree, f"caPubs[{index}]", der)
    for index, response in enumerate(message.responses):
        branch = add_line(tree, f"response[{index}]", "CertResponse")
        add_line(branch, "certReqId", str(response.cert_req_id))
        _own_status(branch, "status", response.status_info)
        if response.certificate_der is not None:
            add_certificate(branch, "certificate", response.certificate_der)
        if response.encrypted:
            add_line(branch, "encrypted certificate or private key", "not shown")


def _own_status(tree: Tree, label: str, info: PKIStatusInfo) -> None:
    branch = add_line(tree, label, info.status.name)
    for text in info.status_string:
        add_line(branch, "statusString", quoted(text))
    if info.fail_info:
        add_line(branch, "failInfo", ", ".join(bit.name for bit in info.fail_info))


_OWN_BODIES: Final[dict[BodyType, Callable[[Tree, bytes], None]]] = {
    BodyType.certConf: _own_cert_conf,
    **dict.fromkeys((BodyType.ip, BodyType.cp, BodyType.kup, BodyType.ccp), _own_cert_rep),
}


# --- values of pyasn1 -----------------------------------------------------------------------------------------


def _kinds(value: Any) -> set[str]:
    """Return the names of a value's classes: pyasn1-modules has each X.509 type several times."""
    return {kind.__name__ for kind in type(value).__mro__}


def _show(tree: Tree, label: str, value: Any) -> None:
    """Add a value, in its own way where its type has one, else member by member."""
    kinds = _kinds(value)
    shown = next((show for kind, show in _SHOWN_AS.items() if kind in kinds), None)
    if shown is not None:
        shown(tree, label, value)
    elif isinstance(value, univ.Choice):
        _show(tree, f"{label} {value.getName()}", value.getComponent())
    elif isinstance(value, univ.Sequence | univ.Set):
        _members(add_line(tree, label, _type_name(value)), value)
    elif isinstance(value, univ.SequenceOf | univ.SetOf):
        branch = add_line(tree, label, "")
        for index, item in enumerate(value):
            _show(branch, f"[{index}]", item)
    elif isinstance(value, univ.Any):
        add_dump(tree, label, bytes(value))
    else:
        add_line(tree, label, _plain(value))


def _members(tree: Tree, value: Any) -> None:
    for name, member in value.items():
        if isinstance(member, base.Asn1Item) and member.hasValue():
            _show(tree, str(name), member)


def _type_name(value: Any) -> str:
    name = type(value).__name__
    return "" if name in ("Sequence", "Set", "CertReq") or name.startswith("_") else name


def _plain(value: Any) -> str:
    if isinstance(value, univ.Null):  # for pyasn1 it is an OctetString, too
        return "NULL"
    if isinstance(value, univ.Boolean):
        return str(bool(value)).upper()
    if isinstance(value, univ.Integer):
        return _integer(value)
    if isinstance(value, univ.BitString):
        return _bits(value)
    if isinstance(value, useful.GeneralizedTime | useful.UTCTime):
        return _asn1_time(value)
    if isinstance(value, char.AbstractCharacterString):
        return quoted(str(value))
    if isinstance(value, univ.OctetString):
        return hex_text(bytes(value))
    if isinstance(value, univ.ObjectIdentifier):
        return oid_text(str(value))
    return printable(value.prettyPrint())


def _integer(value: Any) -> str:
    number = int(value)
    name = {n: text for text, n in value.namedValues.items()}.get(number)
    if name is not None:
        return f"{name} ({number})"
    return str(number) if abs(number) < 1 << 32 else f"0x{number:x}"


def _bits(value: Any) -> str:
    octets = value.asOctets()
    unused = -len(value) % 8
    return hex_text(octets) + (f", {unused} unused bits" if unused else "")


def _asn1_time(value: Any) -> str:
    try:
        return time_text(value.asDateTime)
    except UNDECODABLE:
        return quoted(str(value))


def _own_der(value: Any) -> bytes:
    """Return the DER of a value under its type's own tag, without the tag of the member it is in."""
    der: bytes = der_encode(value)
    if isinstance(value, univ.Choice):
        return der
    if len(value.tagSet) > 1:
        return asn1.inner(der)
    return b"\x30" + der[1:] if der[0] & 0xC0 == 0x80 else der


def _show_certificate(tree: Tree, label: str, value: Any) -> None:
    add_certificate(tree, label, _own_der(value))


def _show_crl(tree: Tree, label: str, value: Any) -> None:
    tbs = value["tbsCertList"]
    branch = add_line(tree, label, "CertificateList")
    _show(branch, "issuer", tbs["issuer"])
    _show(branch, "thisUpdate", tbs["thisUpdate"])
    if tbs["nextUpdate"].hasValue():
        _show(branch, "nextUpdate", tbs["nextUpdate"])
    revoked = tbs["revokedCertificates"]
    add_line(branch, "revoked", str(len(revoked) if revoked.hasValue() else 0))
    _show(branch, "signatureAlgorithm", value["signatureAlgorithm"])


def _show_algorithm(tree: Tree, label: str, value: Any) -> None:
    branch = add_line(tree, label, algorithm_text(_own_der(value)))
    name = OID_NAMES.get(str(value["algorithm"]), "")
    if name == "PasswordBasedMac" and value["parameters"].hasValue():
        parameters = decoded(bytes(value["parameters"]), rfc4210.PBMParameter())
        if parameters is not None:
            _members(branch, parameters)


def _show_name(tree: Tree, label: str, value: Any) -> None:
    add_line(tree, label, name_text(der_encode(value.getComponent())))


def _show_general_name(tree: Tree, label: str, value: Any) -> None:
    add_line(tree, label, general_name_text(der_encode(value.getComponent())))


def _show_public_key(tree: Tree, label: str, value: Any) -> None:
    add_line(tree, label, public_key_text(_own_der(value)))


def _show_time(tree: Tree, label: str, value: Any) -> None:
    add_line(tree, label, _asn1_time(value.getComponent()))


def _show_extension(tree: Tree, label: str, value: Any) -> None:
    octets = bytes(value["extnValue"])
    critical = value["critical"].hasValue() and bool(value["critical"])
    add_extension(tree, label, str(value["extnID"]), critical, octets)


def _show_typed_value(tree: Tree, label: str, value: Any) -> None:
    kind, member = value.getComponentByPosition(0), value.getComponentByPosition(1)
    given = isinstance(member, base.Asn1Item) and member.hasValue()
    _typed_value(tree, label, str(kind), bytes(member) if given else None)


def _show_hidden(tree: Tree, label: str, value: Any) -> None:
    add_line(tree, label, f"{_type_name(value)}, {len(der_encode(value))} octets, not shown")


def _show_pop_private_key(tree: Tree, label: str, value: Any) -> None:
    name, member = value.getName(), value.getComponent()
    if name in ("thisMessage", "encryptedKey"):
        _show_hidden(tree, f"{label} {name}", member)
    else:
        _show(tree, f"{label} {name}", member)


def _show_fail_info(tree: Tree, label: str, value: Any) -> None:
    names = {number: name for name, number in rfc4210.PKIFailureInfo.namedValues.items()}
    bits = [number for number in range(len(value)) if value[number]]
    add_line(tree, label, ", ".join(names.get(bit, f"bit {bit}") for bit in bits) or "no bit set")


_SHOWN_AS: Final[dict[str, Callable[[Tree, str, Any], None]]] = {
    "Certificate": _show_certificate,
    "CertificateList": _show_crl,
    "AlgorithmIdentifier": _show_algorithm,
    "SignatureAlgorithmIdentifier": _show_algorithm,
    "Name": _show_name,
    "GeneralName": _show_general_name,
    "SubjectPublicKeyInfo": _show_public_key,
    "Time": _show_time,
    "Extension": _show_extension,
    "InfoTypeAndValue": _show_typed_value,
    "AttributeTypeAndValue": _show_typed_value,
    "PKIFailureInfo": _show_fail_info,
    "EncryptedValue": _show_hidden,
    "EncryptedKey": _show_hidden,
    "EnvelopedData": _show_hidden,
    "POPOPrivKey": _show_pop_private_key,
}


# --- values with a type of their own --------------------------------------------------------------------------

_VALUE_SPECS: Final[dict[str, Any]] = {
    "oldCertID": rfc4211.CertId(),
    "pkiPublicationInfo": rfc4211.PKIPublicationInfo(),
    "protocolEncrKey": rfc4211.ProtocolEncrKey(),
    "certReq": rfc4211.CertRequest(),
    "algId": rfc2459.AlgorithmIdentifier(),
    "confirmWaitTime": useful.GeneralizedTime(),
    "certProfile": _Texts(),
    "suppLangTags": _Texts(),
    "caCerts": _Certificates(),
    "rootCaCert": rfc2459.Certificate(),
    "caProtEncCert": rfc2459.Certificate(),
    "preferredSymmAlg": rfc2459.AlgorithmIdentifier(),
    "currentCRL": rfc2459.CertificateList(),
}


def _typed_value(tree: Tree, label: str, dotted: str, der: bytes | None) -> None:
    name = OID_NAMES.get(dotted, dotted)
    if der is None:
        add_line(tree, label, f"{oid_text(dotted)}, no value")
        return
    if name in _SECRETS:
        add_line(tree, label, f"{oid_text(dotted)}, {len(der)} octets, not shown")
        return
    branch = add_line(tree, label, oid_text(dotted))
    if name == "origPKIMessage" and (messages := decoded(der, _Messages())) is not None:
        _nested(branch, [bytes(item) for item in messages], _MAX_NESTING - 1)
        return
    spec = _VALUE_SPECS.get(name)
    value = None if spec is None else decoded(der, spec)
    if value is None:
        add_dump(branch, "value", der)
    else:
        _show(branch, "value", value)
