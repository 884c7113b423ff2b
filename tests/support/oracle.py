"""A second reader of CMP, of pyasn1: what conforms, and what it says.

It stands on the same level of detail as the first: what the product keeps as octets (names, keys, certificates, values
of unknown type) is ANY here. Beyond the syntax of 2005 in pyasn1-modules it has what RFC 9810 added (hashAlg in
CertStatus). What pyasn1 does not check of DER is found by encoding again: there is one form only.

What the product refuses and the standard does not is listed here, and nowhere else: `MOST_BITS`, `MOST_OID_OCTETS`.
So is what it takes although CMP does not: a fraction of a second in messageTime.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from pyasn1.codec.ber.encoder import AbstractItemEncoder
from pyasn1.codec.der import encoder
from pyasn1.codec.der.decoder import decode
from pyasn1.error import PyAsn1Error
from pyasn1.type import char, constraint, namedtype, tag, univ, useful

from ra_gateway.cmp.codes import BodyType

MOST_BITS: Final = 512
"""Of a number that the product may have to write into a text."""

MOST_OID_OCTETS: Final = 63
"""Of an OBJECT IDENTIFIER that the product's library takes."""

_TIME: Final = re.compile(rb"[0-9]{14}(\.[0-9]*[1-9])?Z")
_UTC_TIME: Final = re.compile(rb"[0-9]{12}Z")
_CONTEXT: Final = tag.tagClassContext

Reading = dict[str, Any]


class Refused(Exception):
    """It does not conform."""


# --- syntax -----------------------------------------------------------------------------------------------------


def explicit(number: int, spec: Any) -> Any:
    """A type under an EXPLICIT tag."""
    return spec.subtype(explicitTag=tag.Tag(_CONTEXT, tag.tagFormatConstructed, number))


def raw(number: int) -> Any:
    """Anything at all under an EXPLICIT tag: pyasn1 finds no ANY among OPTIONAL members, but a SEQUENCE of one."""
    return implicit(number, sequence(value=univ.Any()))


def implicit(number: int, spec: Any) -> Any:
    """A type under an IMPLICIT tag."""
    form = (
        tag.tagFormatConstructed
        if isinstance(spec, univ.SequenceOf | univ.SetOf | univ.Sequence)
        else 0
    )
    return spec.subtype(implicitTag=tag.Tag(_CONTEXT, form, number))


def sequence(**members: Any) -> Any:
    """A SEQUENCE; members whose names end in "_" are OPTIONAL."""
    return univ.Sequence(
        componentType=namedtype.NamedTypes(
            *(
                namedtype.OptionalNamedType(name, spec)
                if name.endswith("_")
                else spec
                if isinstance(spec, namedtype.NamedType)
                else namedtype.NamedType(name, spec)
                for name, spec in members.items()
            )
        )
    )


def many(spec: Any, least: int = 0) -> Any:
    """A SEQUENCE OF, of at least so many."""
    return univ.SequenceOf(
        componentType=spec, sizeSpec=constraint.ValueSizeConstraint(least, 1 << 30)
    )


def choice(**members: Any) -> Any:
    """A CHOICE."""
    return univ.Choice(
        componentType=namedtype.NamedTypes(
            *(namedtype.NamedType(name, spec) for name, spec in members.items())
        )
    )


TEXTS: Final = many(char.UTF8String(), 1)
ALGORITHM: Final = sequence(algorithm=univ.ObjectIdentifier(), parameters_=univ.Any())
INFO: Final = sequence(info_type=univ.ObjectIdentifier(), info_value_=univ.Any())
ATTRIBUTE: Final = sequence(type=univ.ObjectIdentifier(), value=univ.Any())
TIME: Final = choice(utc=useful.UTCTime(), general=useful.GeneralizedTime())
EXTENSION: Final = sequence(
    oid=univ.ObjectIdentifier(),
    critical=namedtype.DefaultedNamedType("critical", univ.Boolean(False)),
    value=univ.OctetString(),
)
HEADER: Final = sequence(
    pvno=univ.Integer(),
    sender=univ.Any(),
    recipient=univ.Any(),
    message_time_=explicit(0, useful.GeneralizedTime()),
    protection_alg_=raw(1),
    sender_kid_=explicit(2, univ.OctetString()),
    recip_kid_=explicit(3, univ.OctetString()),
    transaction_id_=explicit(4, univ.OctetString()),
    sender_nonce_=explicit(5, univ.OctetString()),
    recip_nonce_=explicit(6, univ.OctetString()),
    free_text_=explicit(7, TEXTS),
    general_info_=explicit(8, many(INFO, 1)),
)
MESSAGE: Final = sequence(
    header=univ.Any(),
    body=univ.Any(),
    protection_=explicit(0, univ.BitString()),
    extra_certs_=explicit(1, many(univ.Any(), 1)),
)
TEMPLATE: Final = sequence(
    version_=implicit(0, univ.Integer()),
    serial_number_=implicit(1, univ.Integer()),
    signing_alg_=implicit(2, ALGORITHM),
    issuer_=raw(3),
    validity_=implicit(4, sequence(not_before_=explicit(0, TIME), not_after_=explicit(1, TIME))),
    subject_=raw(5),
    public_key_=implicit(6, sequence(algorithm=univ.Any(), subject_public_key=univ.BitString())),
    issuer_uid_=implicit(7, univ.BitString()),
    subject_uid_=implicit(8, univ.BitString()),
    extensions_=implicit(9, many(EXTENSION)),
)
POPO: Final = choice(
    raVerified=implicit(0, univ.Null()),
    signature=implicit(
        1,
        sequence(
            input_=implicit(0, sequence(auth_info=univ.Any(), public_key=univ.Any())),
            algorithm=univ.Any(),
            signature=univ.BitString(),
        ),
    ),
    keyEncipherment=raw(2),
    keyAgreement=raw(3),
)
CERT_REQUEST: Final = sequence(
    cert_req_id=univ.Integer(), template=TEMPLATE, controls_=many(ATTRIBUTE, 1)
)
CERT_REQ_MESSAGES: Final = many(
    sequence(cert_req=CERT_REQUEST, popo_=POPO, reg_info_=many(ATTRIBUTE, 1)), 1
)
STATUS: Final = sequence(status=univ.Integer(), status_string_=TEXTS, fail_info_=univ.BitString())
CERT_REP_MESSAGE: Final = sequence(
    ca_pubs_=explicit(1, many(univ.Any(), 1)),
    response=many(
        sequence(
            cert_req_id=univ.Integer(),
            status=STATUS,
            key_pair_=sequence(
                cert=choice(certificate=raw(0), encrypted=raw(1)),
                private_key_=raw(0),
                publication_=raw(1),
            ),
            rsp_info_=univ.OctetString(),
        )
    ),
)
CERT_CONFIRM: Final = many(
    sequence(
        cert_hash=univ.OctetString(),
        cert_req_id=univ.Integer(),
        status_info_=STATUS,
        hash_alg_=explicit(0, ALGORITHM),
    )
)
ERROR: Final = sequence(status_info=STATUS, error_code_=univ.Integer(), error_details_=TEXTS)
REVOCATION: Final = many(sequence(details=TEMPLATE, entry_=many(EXTENSION)))
REVOKED: Final = sequence(
    statuses=many(STATUS, 1),
    rev_certs_=explicit(0, many(sequence(issuer=univ.Any(), serial_number=univ.Integer()), 1)),
    crls_=explicit(1, many(univ.Any())),
)


# --- DER --------------------------------------------------------------------------------------------------------


class _IntegerEncoder(AbstractItemEncoder):  # type: ignore[misc]
    """Writes -128 and its like in as few octets as there can be, which pyasn1's own does not."""

    def encodeValue(self, value: Any, asn1Spec: Any, encodeFun: Any, **options: Any) -> Any:  # noqa: N802, N803
        number = int(value)
        size = (number + (number < 0)).bit_length() // 8 + 1
        return number.to_bytes(size, "big", signed=True), False, True


class _SingleItemEncoder(encoder.SingleItemEncoder):  # type: ignore[misc]
    TAG_MAP: Final = {
        **encoder.SingleItemEncoder.TAG_MAP,
        univ.Integer.tagSet: _IntegerEncoder(),
    }
    TYPE_MAP: Final = {
        **encoder.SingleItemEncoder.TYPE_MAP,
        univ.Integer.typeId: _IntegerEncoder(),
    }


class _Encoder(encoder.Encoder):  # type: ignore[misc]
    SINGLE_ITEM_ENCODER: Final = _SingleItemEncoder


encode: Final = _Encoder()
"""Writes DER."""


def _check_head(der: bytes) -> None:
    """Check that octets are one element by tag and length, whatever is inside."""
    at = 1
    if der[0] & 0x1F == 0x1F:
        while der[at] & 0x80:
            at += 1
        at += 1
        if der[1] == 0x80 or (at == 2 and der[1] < 0x1F):
            raise Refused("a tag in more octets than it needs")
    size, at = der[at], at + 1
    if size >= 0x80:
        octets = der[at : at + (size & 0x7F)]
        size, at = int.from_bytes(octets, "big"), at + len(octets)
        if size < 0x80 or octets[0] == 0:
            raise Refused("a length in more octets than it needs")
    if at + size != len(der):
        raise Refused("a length that does not fit")


# --- reading ----------------------------------------------------------------------------------------------------


def read(der: bytes) -> Reading:
    """Read a message: header, protection, certificates, and the body's type and octets.

    Raises:
        Refused: It does not conform.
    """
    message = _decoded(der, MESSAGE)
    header = _decoded(bytes(message["header"]), HEADER)
    body_der = bytes(message["body"])
    if body_der[0] & 0xE0 != 0xA0 or body_der[0] & 0x1F > BodyType.pollRep:
        raise Refused("no body")
    protection = message["protection_"]
    return {
        "pvno": _number(header["pvno"]),
        "sender": _octets(header["sender"]),
        "recipient": _octets(header["recipient"]),
        "message_time": _moment(header["message_time_"]),
        "protection_alg": _octets(header["protection_alg_"]),
        **{
            name: _octets(header[f"{name}_"])
            for name in ("sender_kid", "recip_kid", "transaction_id", "sender_nonce", "recip_nonce")
        },
        "free_text": _texts(header["free_text_"]),
        "general_info": [
            (str(item["info_type"]), _octets(item["info_value_"]))
            for item in _items(header["general_info_"])
        ],
        "body_type": BodyType(body_der[0] & 0x1F),
        "body_der": body_der,
        "protection": _whole_octets(protection) if protection.isValue else None,
        "extra_certs": [_octets(item) for item in _items(message["extra_certs_"])],
    }


def read_body(body_type: BodyType, content: bytes) -> Any:
    """Read the content of a body of one of the types in `BODIES`.

    Raises:
        Refused: It does not conform.
    """
    spec, reader = BODIES[body_type]
    return reader(_decoded(content, spec))


def _decoded(der: bytes, spec: Any) -> Any:
    try:
        value, rest = decode(der, asn1Spec=spec)
        if rest or encode(value) != der:
            raise Refused("not DER, or trailing octets")
        _check(value)
    except (
        PyAsn1Error,
        UnicodeError,
        ValueError,
        IndexError,
        OverflowError,
        RecursionError,
    ) as error:
        raise Refused(str(error)[:100]) from error
    return value


def _check(value: Any) -> None:
    """Check of a value what pyasn1 does not: sizes, texts, and lengths of object identifiers."""
    if isinstance(value, univ.Any):
        _check_head(bytes(value))
    elif isinstance(value, univ.SequenceOf):
        if value.sizeSpec:
            value.sizeSpec(value)
        for item in value:
            _check(item)
    elif isinstance(value, univ.Choice):
        _check(value.getComponent())
    elif isinstance(value, univ.Sequence):
        for item in value.values():
            if item.isValue:
                _check(item)
    elif isinstance(value, univ.ObjectIdentifier):
        if len(encode(univ.ObjectIdentifier(value))) - 2 > MOST_OID_OCTETS:
            raise Refused("a long OBJECT IDENTIFIER")
    elif isinstance(value, useful.GeneralizedTime | useful.UTCTime):
        _moment(value)
    elif isinstance(value, char.UTF8String):
        bytes(value).decode("utf-8")


def _items(value: Any) -> Iterator[Any]:
    return iter(value) if value.isValue else iter(())


def _octets(value: Any) -> bytes | None:
    if not value.isValue:
        return None
    return bytes(value["value"] if isinstance(value, univ.Sequence) else value)


def _texts(value: Any) -> list[str]:
    return [bytes(item).decode("utf-8") for item in _items(value)]


def _number(value: Any) -> int:
    number = int(value)
    if number.bit_length() > MOST_BITS:
        raise Refused("a number that nobody would write")
    return number


def _whole_octets(value: Any) -> bytes:
    if len(value) % 8:
        raise Refused("unused bits")
    octets: bytes = value.asOctets()
    return octets


def _moment(value: Any) -> datetime | None:
    if isinstance(value, univ.Choice):
        return _moment(value.getComponent()) if value.isValue else None
    if not value.isValue:
        return None
    text = bytes(value)
    if isinstance(value, useful.UTCTime):
        if not _UTC_TIME.fullmatch(text):
            raise Refused("no UTCTime of DER")
        century = b"20" if text[:2] < b"50" else b"19"
        return _date(century + text[:-1], b"")
    if not _TIME.fullmatch(text):
        raise Refused("no GeneralizedTime of DER")
    return _date(text[:14], text[15:-1])


def _date(digits: bytes, fraction: bytes) -> datetime:
    try:
        moment = datetime.strptime(digits.decode(), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError as error:
        raise Refused(str(error)) from error
    return moment.replace(microsecond=int(fraction.ljust(6, b"0")[:6] or b"0"))


def _status(value: Any) -> Reading:
    status = _number(value["status"])
    if not 0 <= status <= 6:
        raise Refused("no such status")
    bits = value["fail_info_"]
    return {
        "status": status,
        "texts": _texts(value["status_string_"]),
        "fail_info": [n for n, bit in enumerate(bits) if bit and n <= 26] if bits.isValue else [],
    }


def _extensions(value: Any) -> list[tuple[str, bool, bytes]]:
    return [
        (str(item["oid"]), bool(item["critical"]), bytes(item["value"])) for item in _items(value)
    ]


def _template(value: Any) -> Reading:
    key, validity = value["public_key_"], value["validity_"]
    given = validity.isValue
    version = value["version_"]
    return {
        "version": _number(version) if version.isValue else None,
        "serial_number": int(value["serial_number_"]) if value["serial_number_"].isValue else None,
        "issuer": _octets(value["issuer_"]),
        "subject": _octets(value["subject_"]),
        "spki": b"\x30" + encode(key)[1:] if key.isValue else None,
        "not_before": _moment(validity["not_before_"]) if given else None,
        "not_after": _moment(validity["not_after_"]) if given else None,
        "extensions": _extensions(value["extensions_"]),
    }


def _request(value: Any) -> Reading:
    request, popo = value["cert_req"], value["popo_"]
    proof: Any = None
    if popo.isValue:
        proof, signed = popo.getName(), popo.getComponent()
        if proof == "signature":
            proof = (bytes(signed["algorithm"]), _whole_octets(signed["signature"]))
    return {
        "cert_req_id": _number(request["cert_req_id"]),
        "template": _template(request["template"]),
        "controls": [
            (str(item["type"]), bytes(item["value"])) for item in _items(request["controls_"])
        ],
        "popo": proof,
        "reg_info": [
            (str(item["type"]), bytes(item["value"])) for item in _items(value["reg_info_"])
        ],
    }


def _response(value: Any) -> Reading:
    pair = value["key_pair_"]
    certificate, encrypted = None, False
    if pair.isValue:
        if pair["cert"].getName() == "certificate":
            certificate = _octets(pair["cert"].getComponent())
        encrypted = certificate is None or pair["private_key_"].isValue
    return {
        "cert_req_id": _number(value["cert_req_id"]),
        "status": _status(value["status"]),
        "certificate": certificate,
        "encrypted": encrypted,
    }


def _answer(value: Any) -> Reading:
    return {
        "ca_pubs": [bytes(item) for item in _items(value["ca_pubs_"])],
        "responses": [_response(item) for item in value["response"]],
    }


def _confirmation(value: Any) -> list[Reading]:
    return [
        {
            "cert_hash": bytes(item["cert_hash"]),
            "cert_req_id": _number(item["cert_req_id"]),
            "status": _status(item["status_info_"]) if item["status_info_"].isValue else None,
            "hash_alg": str(item["hash_alg_"]["algorithm"]) if item["hash_alg_"].isValue else None,
        }
        for item in value
    ]


def _error(value: Any) -> Reading:
    code = value["error_code_"]
    return {
        "status": _status(value["status_info"]),
        "error_code": _number(code) if code.isValue else None,
        "details": _texts(value["error_details_"]),
    }


def _infos(value: Any) -> list[tuple[str, bytes | None]]:
    return [(str(item["info_type"]), _octets(item["info_value_"])) for item in value]


def _revocation(value: Any) -> list[Any]:
    return [(_template(item["details"]), _extensions(item["entry_"])) for item in value]


def _revoked(value: Any) -> Reading:
    return {
        "statuses": [_status(item) for item in value["statuses"]],
        "rev_certs": [
            (bytes(item["issuer"]), int(item["serial_number"]))
            for item in _items(value["rev_certs_"])
        ],
    }


_Reader = Callable[[Any], Any]
_REQUESTS: Final[tuple[Any, _Reader]] = (
    CERT_REQ_MESSAGES,
    lambda value: [_request(item) for item in value],
)
_ANSWERS: Final[tuple[Any, _Reader]] = (CERT_REP_MESSAGE, _answer)
BODIES: Final[dict[BodyType, tuple[Any, _Reader]]] = {
    **dict.fromkeys(
        (BodyType.ir, BodyType.cr, BodyType.kur, BodyType.krr, BodyType.ccr), _REQUESTS
    ),
    **dict.fromkeys((BodyType.ip, BodyType.cp, BodyType.kup, BodyType.ccp), _ANSWERS),
    BodyType.certConf: (CERT_CONFIRM, _confirmation),
    BodyType.error: (ERROR, _error),
    BodyType.genm: (many(INFO), _infos),
    BodyType.genp: (many(INFO), _infos),
    BodyType.rr: (REVOCATION, _revocation),
    BodyType.rp: (REVOKED, _revoked),
    BodyType.nested: (many(univ.Any(), 1), lambda value: [bytes(item) for item in value]),
}
"""Syntax and reader of each body whose content the product reads."""
