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
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pyasn1.codec.der.decoder import decode as der_decode
from pyasn1.codec.der.encoder import encode as der_encode
from pyasn1.error import PyAsn1Error
from pyasn1.type import base, char, namedtype, tag, univ, useful
from pyasn1_modules import rfc2314, rfc2459, rfc4210, rfc4211
from rich.text import Text
from rich.tree import Tree

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import key_family, load_public_key, signature_algorithm
from ra_gateway.cmp.bodies import PKIStatusInfo, cert_confirm_content, cert_rep_message
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import OID, BodyType
from ra_gateway.cmp.messages import PKIHeader
from ra_gateway.cmp.names import general_names, rfc4514
from ra_gateway.errors import CMPError, GatewayError, printable

_MAX_HEX_OCTETS: Final = 48
_MAX_DEPTH: Final = 24
"""Of ASN.1 in a dump; the deepest a CMP message gets is some 15."""
_MAX_NESTING: Final = 3
"""Messages in messages: a nested, a batch, and one to spare."""

# What pyasn1 is known to raise on input that is not of the type it is told to expect.
_UNDECODABLE: Final = (
    PyAsn1Error,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)

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

_OID_NAMES: Final = {
    **{
        f"1.3.6.1.5.5.7.4.{arc}": name
        for arc, name in {
            1: "caProtEncCert",
            2: "signKeyPairTypes",
            3: "encKeyPairTypes",
            4: "preferredSymmAlg",
            5: "caKeyUpdateInfo",
            6: "currentCRL",
            7: "unsupportedOIDs",
            10: "keyPairParamReq",
            11: "keyPairParamRep",
            12: "revPassphrase",
            13: "implicitConfirm",
            14: "confirmWaitTime",
            15: "origPKIMessage",
            16: "suppLangTags",
            17: "caCerts",
            18: "rootCaKeyUpdate",
            19: "certReqTemplate",
            20: "rootCaCert",
            21: "certProfile",
            22: "crlStatusList",
            23: "crls",
            24: "KemCiphertextInfo",
        }.items()
    },
    **{
        f"1.3.6.1.5.5.7.5.1.{arc}": name
        for arc, name in {
            1: "regToken",
            2: "authenticator",
            3: "pkiPublicationInfo",
            4: "pkiArchiveOptions",
            5: "oldCertID",
            6: "protocolEncrKey",
            7: "altCertTemplate",
            11: "algId",
            12: "rsaKeyLen",
        }.items()
    },
    "1.3.6.1.5.5.7.5.2.1": "utf8Pairs",
    "1.3.6.1.5.5.7.5.2.2": "certReq",
    "1.3.6.1.5.5.7.3.1": "serverAuth",
    "1.3.6.1.5.5.7.3.2": "clientAuth",
    "1.3.6.1.5.5.7.3.5": "ipsecEndSystem",
    "1.3.6.1.5.5.7.3.17": "ipsecIKE",
    "1.3.6.1.5.5.7.3.27": "cmcCA",
    "1.3.6.1.5.5.7.3.28": "cmcRA",
    "1.3.6.1.5.5.7.3.32": "cmKGA",
    "1.3.6.1.5.5.7.1.1": "authorityInfoAccess",
    "2.5.29.14": "subjectKeyIdentifier",
    "2.5.29.15": "keyUsage",
    "2.5.29.17": "subjectAltName",
    "2.5.29.19": "basicConstraints",
    "2.5.29.20": "cRLNumber",
    "2.5.29.21": "reasonCode",
    "2.5.29.30": "nameConstraints",
    "2.5.29.31": "cRLDistributionPoints",
    "2.5.29.32": "certificatePolicies",
    "2.5.29.35": "authorityKeyIdentifier",
    "2.5.29.37": "extKeyUsage",
    "1.2.840.113549.1.9.14": "extensionRequest",
    "1.2.840.113549.1.1.1": "rsaEncryption",
    "1.2.840.113549.1.1.10": "rsassa-pss",
    "1.2.840.10045.2.1": "id-ecPublicKey",
    "1.2.840.10045.3.1.7": "P-256",
    "1.3.132.0.34": "P-384",
    "1.3.132.0.35": "P-521",
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
    "2.16.840.1.101.3.4.2.12": "shake256",
    "1.3.6.1.5.5.8.1.2": "hmac-sha1",
    "1.2.840.113549.2.9": "hmacWithSHA256",
    "1.2.840.113549.1.5.12": "pbkdf2",
    OID.passwordBasedMac: "PasswordBasedMac",
    OID.pbmac1: "PBMAC1",
    OID.dhBasedMac: "DHBasedMac",
    OID.kemBasedMac: "KemBasedMac",
}
_SECRETS: Final = frozenset({"regToken", "authenticator", "pkiArchiveOptions", "revPassphrase"})

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


def _decoded(der: bytes, spec: Any) -> Any:
    """Return a pyasn1 value, None if the octets are not exactly one of that type."""
    try:
        value, rest = der_decode(der, asn1Spec=spec)
    except _UNDECODABLE:
        return None
    return None if rest else value


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
    frame = _decoded(der, _Frame())
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
        _add(tree, "protection", _bits(frame["protection"]))
    else:
        _add(tree, "protection", "none")
    if frame["extraCerts"].hasValue():
        branch = _add(tree, "extraCerts", f"{len(frame['extraCerts'])} certificates")
        for index, item in enumerate(frame["extraCerts"]):
            _certificate(branch, f"[{index}]", bytes(item))
    return tree


def _header(tree: Tree, der: bytes) -> None:
    header = _decoded(der, rfc4210.PKIHeader())
    branch = _add(tree, "header", f"{len(der)} octets")
    if header is not None and _shown(branch, lambda: _members(branch, header)):
        return
    try:
        own = PKIHeader.from_der(der)
    except CMPError:
        _note(branch, "the header does not conform to RFC 9810; this is a dump of its ASN.1")
        _dump(branch, "header", der)
        return
    _note(branch, "pyasn1 cannot read this header; shown by the gateway's own decoder")
    _add(branch, "pvno", str(own.pvno))
    _add(branch, "sender", _general_name(own.sender_der))
    _add(branch, "recipient", _general_name(own.recipient_der))
    if own.message_time is not None:
        _add(branch, "messageTime", _time(own.message_time))
    if own.protection_alg_der is not None:
        _add(branch, "protectionAlg", _algorithm(own.protection_alg_der))
    for label, octets in (
        ("senderKID", own.sender_kid),
        ("recipKID", own.recip_kid),
        ("transactionID", own.transaction_id),
        ("senderNonce", own.sender_nonce),
        ("recipNonce", own.recip_nonce),
    ):
        if octets is not None:
            _add(branch, label, _hex(octets))
    for text in own.free_text:
        _add(branch, "freeText", _quoted(text))
    for item in own.general_info:
        _typed_value(branch, "generalInfo", item.info_type, item.value_der)


def _body(tree: Tree, body_type: BodyType, der: bytes, nesting: int) -> None:
    content = _content(der)
    branch = _add(tree, "body", f"{body_type.name} [{int(body_type)}], {len(der)} octets")
    value = _decoded(content, _BODY_SPECS[body_type])
    if value is not None and _shown(branch, lambda: _content_of(branch, body_type, value, nesting)):
        return
    own = _OWN_BODIES.get(body_type)
    try:
        if own is not None:
            own(branch, content)
            return
    except CMPError:
        pass  # neither decoder reads it: the dump below is what remains
    _note(
        branch,
        "pyasn1 (RFC 4210, 2005) cannot read this body: it is newer syntax, or wrong; "
        "this is a dump of its ASN.1",
    )
    _dump(branch, "content", content)


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
    except _UNDECODABLE:
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
                _note(tree, f"[{index}] is not a PKIMessage; this is a dump of its ASN.1")
        _dump(tree, f"[{index}]", der)


# --- bodies that pyasn1 cannot read ---------------------------------------------------------------------------


def _own_cert_conf(tree: Tree, content: bytes) -> None:
    statuses = cert_confirm_content(content)
    _note(tree, "hashAlg is newer than pyasn1's RFC 4210; shown by the gateway's own decoder")
    for index, status in enumerate(statuses):
        branch = _add(tree, f"[{index}]", "CertStatus")
        _add(branch, "certHash", _hex(status.cert_hash))
        _add(branch, "certReqId", str(status.cert_req_id))
        if status.status_info is not None:
            _own_status(branch, "statusInfo", status.status_info)
        if status.hash_alg is not None:
            _add(branch, "hashAlg", _algorithm(asn1.encode(status.hash_alg)))


def _own_cert_rep(tree: Tree, content: bytes) -> None:
    message = cert_rep_message(content)
    _note(
        tree,
        "pyasn1 (RFC 4210, 2005) cannot read this answer: EncryptedKey is newer, or a certificate is "
        "unusual; shown by the gateway's own decoder",
    )
    for index, der in enumerate(message.ca_pubs):
        _certificate(tree, f"caPubs[{index}]", der)
    for index, response in enumerate(message.responses):
        branch = _add(tree, f"response[{index}]", "CertResponse")
        _add(branch, "certReqId", str(response.cert_req_id))
        _own_status(branch, "status", response.status_info)
        if response.certificate_der is not None:
            _certificate(branch, "certificate", response.certificate_der)
        if response.encrypted:
            _add(branch, "encrypted certificate or private key", "not shown")


def _own_status(tree: Tree, label: str, info: PKIStatusInfo) -> None:
    branch = _add(tree, label, info.status.name)
    for text in info.status_string:
        _add(branch, "statusString", _quoted(text))
    if info.fail_info:
        _add(branch, "failInfo", ", ".join(bit.name for bit in info.fail_info))


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
        _members(_add(tree, label, _type_name(value)), value)
    elif isinstance(value, univ.SequenceOf | univ.SetOf):
        branch = _add(tree, label, "")
        for index, item in enumerate(value):
            _show(branch, f"[{index}]", item)
    elif isinstance(value, univ.Any):
        _dump(tree, label, bytes(value))
    else:
        _add(tree, label, _plain(value))


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
        return _quoted(str(value))
    if isinstance(value, univ.OctetString):
        return _hex(bytes(value))
    if isinstance(value, univ.ObjectIdentifier):
        return _oid(str(value))
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
    return _hex(octets) + (f", {unused} unused bits" if unused else "")


def _asn1_time(value: Any) -> str:
    try:
        return _time(value.asDateTime)
    except _UNDECODABLE:
        return _quoted(str(value))


def _own_der(value: Any) -> bytes:
    """Return the DER of a value under its type's own tag, without the tag of the member it is in."""
    der: bytes = der_encode(value)
    if isinstance(value, univ.Choice):
        return der
    if len(value.tagSet) > 1:
        return _content(der)
    return b"\x30" + der[1:] if der[0] & 0xC0 == 0x80 else der


def _show_certificate(tree: Tree, label: str, value: Any) -> None:
    _certificate(tree, label, _own_der(value))


def _show_crl(tree: Tree, label: str, value: Any) -> None:
    tbs = value["tbsCertList"]
    branch = _add(tree, label, "CertificateList")
    _show(branch, "issuer", tbs["issuer"])
    _show(branch, "thisUpdate", tbs["thisUpdate"])
    if tbs["nextUpdate"].hasValue():
        _show(branch, "nextUpdate", tbs["nextUpdate"])
    revoked = tbs["revokedCertificates"]
    _add(branch, "revoked", str(len(revoked) if revoked.hasValue() else 0))
    _show(branch, "signatureAlgorithm", value["signatureAlgorithm"])


def _show_algorithm(tree: Tree, label: str, value: Any) -> None:
    branch = _add(tree, label, _algorithm(_own_der(value)))
    name = _OID_NAMES.get(str(value["algorithm"]), "")
    if name == "PasswordBasedMac" and value["parameters"].hasValue():
        parameters = _decoded(bytes(value["parameters"]), rfc4210.PBMParameter())
        if parameters is not None:
            _members(branch, parameters)


def _show_name(tree: Tree, label: str, value: Any) -> None:
    _add(tree, label, _name(der_encode(value.getComponent())))


def _show_general_name(tree: Tree, label: str, value: Any) -> None:
    _add(tree, label, _general_name(der_encode(value.getComponent())))


def _show_public_key(tree: Tree, label: str, value: Any) -> None:
    _add(tree, label, _public_key(_own_der(value)))


def _show_time(tree: Tree, label: str, value: Any) -> None:
    _add(tree, label, _asn1_time(value.getComponent()))


def _show_extension(tree: Tree, label: str, value: Any) -> None:
    octets = bytes(value["extnValue"])
    critical = value["critical"].hasValue() and bool(value["critical"])
    _extension(tree, label, str(value["extnID"]), critical, octets)


def _show_typed_value(tree: Tree, label: str, value: Any) -> None:
    kind, member = value.getComponentByPosition(0), value.getComponentByPosition(1)
    given = isinstance(member, base.Asn1Item) and member.hasValue()
    _typed_value(tree, label, str(kind), bytes(member) if given else None)


def _show_hidden(tree: Tree, label: str, value: Any) -> None:
    _add(tree, label, f"{_type_name(value)}, {len(der_encode(value))} octets, not shown")


def _show_pop_private_key(tree: Tree, label: str, value: Any) -> None:
    name, member = value.getName(), value.getComponent()
    if name in ("thisMessage", "encryptedKey"):
        _show_hidden(tree, f"{label} {name}", member)
    else:
        _show(tree, f"{label} {name}", member)


def _show_fail_info(tree: Tree, label: str, value: Any) -> None:
    names = {number: name for name, number in rfc4210.PKIFailureInfo.namedValues.items()}
    bits = [number for number in range(len(value)) if value[number]]
    _add(tree, label, ", ".join(names.get(bit, f"bit {bit}") for bit in bits) or "no bit set")


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
    name = _OID_NAMES.get(dotted, dotted)
    if der is None:
        _add(tree, label, f"{_oid(dotted)}, no value")
        return
    if name in _SECRETS:
        _add(tree, label, f"{_oid(dotted)}, {len(der)} octets, not shown")
        return
    branch = _add(tree, label, _oid(dotted))
    if name == "origPKIMessage" and (messages := _decoded(der, _Messages())) is not None:
        _nested(branch, [bytes(item) for item in messages], _MAX_NESTING - 1)
        return
    spec = _VALUE_SPECS.get(name)
    value = None if spec is None else _decoded(der, spec)
    if value is None:
        _dump(branch, "value", der)
    else:
        _show(branch, "value", value)


def _extension(tree: Tree, label: str, dotted: str, critical: bool, value: bytes) -> None:
    title = f"{_oid(dotted)}{', critical' if critical else ''}"
    text = _extension_text(_OID_NAMES.get(dotted, ""), value)
    if text is not None:
        _add(tree, label, f"{title}: {text}")
    else:
        _dump(_add(tree, label, title), "value", value)


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
                _oid(oid.dotted_string) for oid in asn1.unbox(structures.OIDsBox, value).oids
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


def _certificate(tree: Tree, label: str, der: bytes) -> None:
    """Add a summary of a certificate; one that cannot be read is dumped."""
    try:
        certificate = Certificate.from_der(der)
        branch = Tree(_line(label, certificate.subject or "(empty subject)"))
        _add(branch, "issuer", certificate.issuer)
        _add(branch, "serialNumber", f"0x{certificate.serial_number:x}")
        _add(
            branch,
            "validity",
            f"{_time(certificate.not_before)} to {_time(certificate.not_after)}",
        )
        _add(branch, "publicKey", _public_key(certificate.spki_der))
        for oid in ("2.5.29.17", "2.5.29.15", "2.5.29.37", "2.5.29.19"):
            if oid in certificate.extensions:
                _, value = certificate.extensions[oid]
                text = _extension_text(_OID_NAMES[oid], value)
                _add(branch, _OID_NAMES[oid], _hex(value) if text is None else text)
        _add(branch, "signed with", _algorithm(certificate.algorithm_der))
        _add(branch, "SHA-256", certificate.fingerprint.hex())
    except CMPError as error:
        branch = _add(tree, label, "not a certificate that can be read")
        _note(branch, error.detail)
        _dump(branch, "content", der)
    else:
        tree.children.append(branch)


def _algorithm(der: bytes) -> str:
    try:
        algorithm = signature_algorithm(der)
    except CMPError:
        pass  # not a signature algorithm we know: its OID is shown
    else:
        salt = f", salt of {algorithm.salt_length} octets"
        return algorithm.name + (salt if algorithm.salt_length is not None else "")
    try:
        return _oid(asn1.decode(structures.AlgorithmIdentifier, der).algorithm.dotted_string)
    except CMPError:
        return _hex(der)


def _public_key(spki_der: bytes) -> str:
    try:
        key = load_public_key(spki_der)
    except CMPError:
        try:
            spki = asn1.decode(structures.SubjectPublicKeyInfo, spki_der)
        except CMPError:
            return _hex(spki_der)
        octets = spki.subject_public_key.as_bytes()
        kind = _algorithm(asn1.raw(spki.algorithm))
        return f"{kind}, {_hex(octets)}" if octets else f"{kind}, empty: the CA is to make the key"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {_CURVES.get(key.curve.name, key.curve.name)}"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size} bits, exponent {key.public_numbers().e}"
    return key_family(key) or type(key).__name__


def _name(der: bytes) -> str:
    try:
        return printable(rfc4514(der)) or "NULL-DN"
    except CMPError:
        return _hex(der)


def _general_name(der: bytes) -> str:
    try:
        text = general_names(asn1.tlv(0x30, der))[0]
    except CMPError:
        return _hex(der)
    kind, _, value = text.partition(":")
    if kind == "dn":
        return printable(value) or "NULL-DN"
    return printable(text)


def _oid(dotted: str) -> str:
    name = _OID_NAMES.get(dotted)
    if name is None:
        try:
            name = signature_algorithm(asn1.tlv(0x30, asn1.oid_der(dotted))).name
        except (CMPError, ValueError):
            return dotted
    return f"{name} ({dotted})"


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


def _dump(tree: Tree, label: str, der: bytes, depth: int = 0) -> None:
    """Add octets as ASN.1 without knowing their type; what is not DER as hex."""
    try:
        elements = list(_elements(der))
    except ValueError:
        elements = []
    if not elements or depth > _MAX_DEPTH:
        _add(tree, label, _hex(der))
        return
    for first, content in elements:
        number = first & 0x1F
        title = (
            _UNIVERSAL.get(number, f"UNIVERSAL {number}")
            if first < 0x40
            else f"[{_CLASSES[first >> 6]}{number}]"
        )
        if first & 0x20 and content:
            _dump(_add(tree, label, title), "·", content, depth + 1)
        elif first in _TEXT_TAGS:
            _add(tree, label, f"{title} {_quoted(content.decode('utf-8', 'replace'))}")
        elif first == 0x06 and (oid := _decoded(asn1.tlv(6, content), univ.ObjectIdentifier())):
            _add(tree, label, f"{title} {_oid(str(oid))}")
        elif first in (0x02, 0x0A) and len(content) <= 4:
            _add(tree, label, f"{title} {int.from_bytes(content, 'big', signed=True)}")
        else:
            _add(tree, label, f"{title} {_hex(content)}".rstrip())


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (first tag octet, content) of each element.

    Raises:
        ValueError: Not a sequence of DER elements with one-octet tags.
    """
    at = 0
    while at < len(der):
        if at + 2 > len(der) or der[at] & 0x1F == 0x1F:
            raise ValueError("not an element")
        first, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            if not 1 <= size <= 4 or at + size > len(der):
                raise ValueError("not a length")
            length, at = int.from_bytes(der[at : at + size], "big"), at + size
        if at + length > len(der):
            raise ValueError("cut off")
        yield first, der[at : at + length]
        at += length


def _content(der: bytes) -> bytes:
    return next(_elements(der))[1]


# --- text -----------------------------------------------------------------------------------------------------


def _line(label: str, text: str) -> Text:
    return Text.assemble((label, "cyan"), f": {printable(text)}" if text else "")


def _add(tree: Tree, label: str, text: str) -> Tree:
    return tree.add(_line(label, text))


def _note(tree: Tree, text: str) -> None:
    tree.add(Text(f"note: {printable(text)}", "italic yellow"))


def _hex(octets: bytes) -> str:
    if len(octets) <= _MAX_HEX_OCTETS:
        return octets.hex() or "(empty)"
    return f"{octets[:_MAX_HEX_OCTETS].hex()}… ({len(octets)} octets)"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _quoted(text: str) -> str:
    return f'"{printable(text)}"'
