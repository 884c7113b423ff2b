"""Two decoders that do not know each other agree on every message: ours and pyasn1-modules.

The messages are our device's, those of our replies module, and those of `openssl cmp`. pyasn1's rfc4210 brings
the CRMF of RFC 2511, where GeneralName is a stub; rfc4211 reads the CRMF parts here.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pyasn1.codec.der.decoder import decode
from pyasn1.codec.der.encoder import encode
from pyasn1.type import namedtype, tag, univ
from pyasn1_modules import rfc2314, rfc4210, rfc4211

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.bodies import (
    PKIStatusInfo,
    cert_confirm_body,
    cert_confirm_content,
    cert_rep_body,
    cert_rep_message,
    error_body,
    error_msg_content,
    nested_body,
    nested_messages,
)
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import (
    RA_VERIFIED,
    CertReqMsg,
    CertTemplate,
    SignaturePOP,
    cert_req_messages,
    cert_req_msg_der,
    signature_popo_der,
)
from ra_gateway.cmp.messages import PKIHeader, PKIMessage, assemble
from ra_gateway.errors import MalformedMessage
from tests.support import pki
from tests.support.dialogue import messages
from tests.support.openssl import openssl_path

CERT_REQUESTS = (BodyType.ir, BodyType.cr, BodyType.kur)
CERT_RESPONSES = (BodyType.ip, BodyType.cp, BodyType.kup)

MADE_HERE = {
    *("ir", "ip", "cr", "cp", "kur", "kup", "certConf", "pkiconf", "error"),
    *("nested", "genm", "rr", "rp", "p10cr", "pollReq", "pollRep"),
}


# --- where messages come from ---------------------------------------------------------------------------------


@pytest.fixture
async def ours(vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI) -> dict[str, bytes]:
    """Messages that this project makes, by name."""
    return await messages(vendor_pki, operator_pki)


OPENSSL_RUNS: dict[str, tuple[str, ...]] = {
    "ir": ("-cmd", "ir", "-sans", "enb1.example.net,192.0.2.1", "-days", "30"),
    "ir implicit": ("-cmd", "ir", "-implicit_confirm", "-grant_implicitconf"),
    "ir raVerified": ("-cmd", "ir", "-popo", "0", "-accept_raverified"),
    "ir no pop": ("-cmd", "ir", "-popo", "-1"),
    "ir refused": ("-cmd", "ir", "-pkistatus", "2", "-failure", "9", "-statusstring", "no POP"),
    "ir error": ("-cmd", "ir", "-send_error", "-failurebits", "67108865"),
    "ir polling": ("-cmd", "ir", "-poll_count", "2", "-check_after", "0"),
    "ir capubs": ("-cmd", "ir", "-rsp_capubs", "roots.pem", "-rsp_extracerts", "sub.pem"),
    "ir rsa": ("-cmd", "ir", "-newkey", "rsa.key", "-digest", "sha384"),
    "cr": ("-cmd", "cr"),
    "p10cr": ("-cmd", "p10cr", "-csr", "request.pem"),
    # The mock server knows one certificate, the one it issues.
    "kur": ("-cmd", "kur", "-oldcert", "issued.pem"),
    "genm": ("-cmd", "genm", "-infotype", "caCerts", "-geninfo", "1.2.3.4:int:56789"),
    "rr": ("-cmd", "rr", "-oldcert", "issued.pem", "-revreason", "1"),
}


@pytest.fixture(scope="module")
def openssl_messages(
    vendor_pki: pki.VendorPKI,
    operator_pki: pki.OperatorPKI,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], dict[str, bytes]]:
    """Return a function that runs `openssl cmp` against the mock server inside it, without a network."""
    directory = tmp_path_factory.mktemp("openssl")
    key = pki.make_key("p256")
    pki.write_key(directory / "new.key", key)
    pki.write_key(directory / "rsa.key", pki.make_key("rsa2048"))
    vendor_pki.device().write(directory, "device")
    operator_pki.cmp_signer.write(directory, "server")
    for name, certificates in {
        "roots.pem": (vendor_pki.root.certificate, operator_pki.root.certificate),
        "sub.pem": (vendor_pki.sub.certificate,),
        "issuing.pem": (operator_pki.issuing.certificate,),
        "issued.pem": (operator_pki.issuing.sign("enb1", key.public_key()),),
    }.items():
        pki.write_certificates(directory / name, *certificates)
    csr = x509.CertificateSigningRequestBuilder().subject_name(pki.make_name("enb1"))
    signed = csr.sign(key, pki.signature_hash(key))
    (directory / "request.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return lambda run: _run_openssl(directory, OPENSSL_RUNS[run])


def _run_openssl(directory: Path, options: tuple[str, ...]) -> dict[str, bytes]:
    command = [
        *(openssl_path(), "cmp", "-config", "", "-batch", "-use_mock_srv"),
        *("-srv_cert", "server.pem", "-srv_key", "server.key", "-srv_trusted", "roots.pem"),
        *("-srv_untrusted", "issuing.pem", "-rsp_cert", "issued.pem"),
        *("-cert", "device.pem", "-key", "device.key", "-extracerts", "sub.pem"),
        *("-trusted", "roots.pem", "-untrusted", "issuing.pem", "-subject", "/O=Ops/CN=enb1"),
        *("-certout", "out.pem"),
        *(() if "-newkey" in options or "-csr" in options else ("-newkey", "new.key")),
        *("-reqout", "q1,q2,q3,q4", "-rspout", "p1,p2,p3,p4"),
        *options,
    ]
    for old in directory.glob("[qp][1234]"):
        old.unlink()
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    found = {path.name: path.read_bytes() for path in sorted(directory.glob("[qp][1234]"))}
    # A refusal is a failure for openssl, but both messages are there all the same.
    assert {"q1", "p1"} <= found.keys(), done.stdout + done.stderr
    return found


# --- the comparison -------------------------------------------------------------------------------------------


class Oracle(univ.Sequence):  # type: ignore[misc]
    """PKIMessage for pyasn1, with the body left for `oracle_body`."""

    componentType = namedtype.NamedTypes(
        namedtype.NamedType("header", rfc4210.PKIHeader()),
        namedtype.NamedType("body", univ.Any()),
        rfc4210.PKIMessage.componentType[2],
        rfc4210.PKIMessage.componentType[3],
    )


def decoded(der: bytes, spec: Any) -> Any:
    value, rest = decode(der, asn1Spec=spec)
    assert not rest
    return value


def oracle_body(body_der: bytes, spec: Any) -> Any:
    number = body_der[0] & 0x1F
    explicit = tag.Tag(tag.tagClassContext, tag.tagFormatConstructed, number)
    return decoded(body_der, spec.subtype(explicitTag=explicit))


def optional(value: Any) -> Any:
    """Return an optional member of a pyasn1 value as Python has it, None if absent."""
    if not value.hasValue():
        return None
    if isinstance(value, univ.OctetString):
        return bytes(value)
    return value


def agree(der: bytes) -> BodyType:
    """Compare both decoders' reading of a message, and our encoding with the octets received."""
    message = PKIMessage.from_der(der)
    oracle = decoded(der, Oracle())
    assert bytes(oracle["body"]) == message.body_der
    assert encode(oracle["header"]) == message.header_der
    protection = oracle["protection"]
    assert (protection.asOctets() if protection.hasValue() else None) == message.protection
    extra_certs = oracle["extraCerts"]
    listed = list(extra_certs) if extra_certs.hasValue() else []
    assert tuple(encode(item) for item in listed) == message.extra_certs

    agree_on_header(message.header, oracle["header"])
    assert message.header.to_der() == message.header_der
    assert (
        assemble(message.header_der, message.body_der, message.protection, message.extra_certs)
        == der
    )
    agree_on_body(message)
    return message.body_type


def agree_on_header(header: PKIHeader, oracle: Any) -> None:
    assert header.pvno == oracle["pvno"]
    assert header.sender_der == encode(oracle["sender"])
    assert header.recipient_der == encode(oracle["recipient"])
    assert header.sender_kid == optional(oracle["senderKID"])
    assert header.recip_kid == optional(oracle["recipKID"])
    assert header.transaction_id == optional(oracle["transactionID"])
    assert header.sender_nonce == optional(oracle["senderNonce"])
    assert header.recip_nonce == optional(oracle["recipNonce"])
    moment = optional(oracle["messageTime"])
    assert (
        header.message_time
        == (None if moment is None else oracle["messageTime"].asDateTime.astimezone(UTC))
        or header.message_time == oracle["messageTime"].asDateTime
    )
    algorithm = oracle["protectionAlg"]
    assert header.protection_alg_der == (
        asn1.content(asn1.element(encode(algorithm))) if algorithm.hasValue() else None
    )
    texts = oracle["freeText"]
    assert header.free_text == (tuple(map(str, texts)) if texts.hasValue() else ())
    info = oracle["generalInfo"]
    assert [(item.info_type, item.value_der) for item in header.general_info] == [
        (str(item["infoType"]), optional(item["infoValue"]))
        for item in (info if info.hasValue() else ())
    ]


def agree_on_body(message: PKIMessage) -> None:
    kind = message.body_type
    if kind in CERT_REQUESTS:
        agree_on_requests(message)
    elif kind in CERT_RESPONSES:
        agree_on_responses(message)
    elif kind is BodyType.certConf:
        agree_on_confirmation(message)
    elif kind is BodyType.error:
        agree_on_error(message)
    elif kind is BodyType.nested:
        inner = nested_messages(message.body_content)
        assert nested_body(*inner) == message.body_der
        spec = univ.SequenceOf(componentType=univ.Any())
        assert [bytes(item) for item in decoded(message.body_content, spec)] == list(inner)
        for der in inner:
            agree(der)
    elif kind in BOXED:
        box, spec = BOXED[kind]
        ours = asn1.unbox(box, message.body_content)
        assert asn1.boxed(ours) == message.body_content
        assert encode(decoded(message.body_content, spec)) == message.body_content
    elif kind is BodyType.rp:
        answer = asn1.decode(structures.RevRepContent, message.body_content)
        assert asn1.encode(answer) == message.body_content
    elif kind is BodyType.pkiconf:
        assert oracle_body(message.body_der, rfc4210.PKIConfirmContent()) == b""
    else:
        assert kind is BodyType.p10cr
        assert encode(decoded(message.body_content, rfc2314.CertificationRequest())) == (
            message.body_content
        )


BOXED: dict[BodyType, tuple[Any, Any]] = {
    BodyType.genm: (structures.GenMsgContentBox, rfc4210.GenMsgContent()),
    BodyType.genp: (structures.GenMsgContentBox, rfc4210.GenRepContent()),
    BodyType.pollReq: (structures.PollReqContentBox, rfc4210.PollReqContent()),
    BodyType.pollRep: (structures.PollRepContentBox, rfc4210.PollRepContent()),
    BodyType.rr: (structures.RevReqContentBox, rfc4210.RevReqContent()),
}


def agree_on_requests(message: PKIMessage) -> None:
    ours = cert_req_messages(message.body_content)
    oracle = decoded(message.body_content, rfc4211.CertReqMessages())
    assert len(ours) == len(oracle)
    rebuilt = []
    for request, other in zip(ours, oracle, strict=True):
        assert request.cert_req_id == other["certReq"]["certReqId"]
        agree_on_template(request.template, other["certReq"]["certTemplate"])
        decoded_request = asn1.decode(structures.CertRequest, request.cert_req_der)
        assert asn1.encode(decoded_request) == request.cert_req_der
        controls = other["certReq"]["controls"]
        assert [(item.type, item.value_der) for item in request.controls] == [
            (str(item["type"]), bytes(item["value"]))
            for item in (controls if controls.hasValue() else ())
        ]
        rebuilt.append(cert_req_msg_der(request.cert_req_der, agree_on_pop(request, other["popo"])))
        agree_on_old_cert_id(request)
    assert asn1.tlv(0x30, *rebuilt) == message.body_content
    box = asn1.unbox(structures.CertReqMessagesBox, message.body_content)
    assert asn1.boxed(box) == message.body_content


def agree_on_template(template: CertTemplate, oracle: Any) -> None:
    def name(member: Any) -> bytes | None:
        return encode(member.getComponent()) if member.isValue else None

    assert template.subject_der == name(oracle["subject"])
    assert template.issuer_der == name(oracle["issuer"])
    assert template.version == optional(oracle["version"])
    assert template.serial_number == optional(oracle["serialNumber"])
    key = oracle["publicKey"]
    assert template.spki_der == (b"\x30" + encode(key)[1:] if key.hasValue() else None)
    extensions = oracle["extensions"]
    assert [(item.oid, item.critical, item.value) for item in template.extensions] == [
        (str(item["extnID"]), bool(item["critical"]), _content_of(item["extnValue"]))
        for item in (extensions if extensions.hasValue() else ())
    ]
    validity = oracle["validity"]
    for moment, member in ((template.not_before, "notBefore"), (template.not_after, "notAfter")):
        given = validity.hasValue() and validity[member].isValue
        assert (moment is not None) == given
        if moment is not None:
            assert moment == validity[member].getComponent().asDateTime.replace(tzinfo=UTC)


def _content_of(value: Any) -> bytes:
    """rfc3280 has extnValue as ANY: the OCTET STRING's own tag is still there."""
    octets = bytes(value)
    return asn1.decode(bytes, octets) if isinstance(value, univ.Any) else octets


def agree_on_pop(request: CertReqMsg, oracle: Any) -> bytes:
    """Compare proof of possession and return it encoded again by us."""
    if request.pop is None:
        assert not oracle.isValue
        return b""
    if request.pop == RA_VERIFIED:
        assert oracle.getName() == RA_VERIFIED
        return b"\x80\x00"
    assert oracle.getName() == "signature"
    assert isinstance(request.pop, SignaturePOP)
    key = oracle.getComponent()
    assert request.pop.signature == key["signature"].asOctets()
    assert request.pop.algorithm_der == encode(key["algorithmIdentifier"])
    given = key["poposkInput"]
    assert (request.pop.input_der is not None) == given.isValue
    if request.pop.input_der is not None:
        assert request.pop.public_key_der == encode(given["publicKey"])
        parsed = asn1.decode(structures.POPOSigningKeyInput, request.pop.input_der)
        assert asn1.encode(parsed) == request.pop.input_der
    return signature_popo_der(
        request.pop.algorithm_der, request.pop.signature, request.pop.input_der
    )


def agree_on_old_cert_id(request: CertReqMsg) -> None:
    ours = request.old_cert_id()
    for control in request.controls:
        if control.type == str(rfc4211.id_regCtrl_oldCertID):
            oracle = decoded(control.value_der, rfc4211.OldCertId())
            assert ours is not None
            assert ours.issuer_der == encode(oracle["issuer"])
            assert ours.serial_number == oracle["serialNumber"]


def agree_on_responses(message: PKIMessage) -> None:
    ours = cert_rep_message(message.body_content)
    oracle = decoded(message.body_content, rfc4210.CertRepMessage())
    ca_pubs = oracle["caPubs"]
    assert ours.ca_pubs == (tuple(map(encode, ca_pubs)) if ca_pubs.hasValue() else ())
    assert len(ours.responses) == len(oracle["response"])
    for response, other in zip(ours.responses, oracle["response"], strict=True):
        assert response.cert_req_id == other["certReqId"]
        agree_on_status(response.status_info, other["status"])
        pair = other["certifiedKeyPair"]
        assert (response.certificate_der is not None) == pair.isValue
        if response.certificate_der is not None:
            assert response.certificate_der == asn1.content(
                asn1.element(encode(pair["certOrEncCert"].getComponent()))
            )
    assert cert_rep_body(message.body_type, ours) == message.body_der


def agree_on_status(ours: PKIStatusInfo, oracle: Any) -> None:
    assert ours.status == oracle["status"]
    texts = oracle["statusString"]
    assert ours.status_string == (tuple(map(str, texts)) if texts.hasValue() else ())
    bits = oracle["failInfo"]
    assert [int(bit) for bit in ours.fail_info] == (
        [n for n, bit in enumerate(bits) if bit] if bits.hasValue() else []
    )
    assert asn1.encode(ours.build()) == encode(oracle)


def agree_on_confirmation(message: PKIMessage) -> None:
    (ours,) = cert_confirm_content(message.body_content)
    (oracle,) = decoded(message.body_content, rfc4210.CertConfirmContent())
    assert ours.cert_hash == bytes(oracle["certHash"])
    assert ours.cert_req_id == oracle["certReqId"]
    assert (ours.status_info is not None) == oracle["statusInfo"].isValue
    if ours.status_info is not None:
        agree_on_status(ours.status_info, oracle["statusInfo"])
    assert cert_confirm_body(ours) == message.body_der


def agree_on_error(message: PKIMessage) -> None:
    ours = error_msg_content(message.body_content)
    oracle = decoded(message.body_content, rfc4210.ErrorMsgContent())
    agree_on_status(ours.status_info, oracle["pKIStatusInfo"])
    assert ours.error_code == optional(oracle["errorCode"])
    details = oracle["errorDetails"]
    assert ours.error_details == (tuple(map(str, details)) if details.hasValue() else ())
    again = asn1.decode(structures.ErrorMsgContent, message.body_content)
    assert asn1.encode(again) == message.body_content
    if ours.error_code is None and not ours.error_details:
        assert error_body(ours.status_info) == message.body_der


# --- the tests ------------------------------------------------------------------------------------------------


@pytest.mark.requirement(1)
def test_messages_of_ours(ours: dict[str, bytes]) -> None:
    """Both decoders agree on what this project makes, and encoding again gives the same octets."""
    kinds = {name: agree(der).name for name, der in ours.items()}
    assert kinds == {name: name.split()[0] for name in ours}
    assert set(kinds.values()) == MADE_HERE


@pytest.mark.requirement(1)
@pytest.mark.parametrize("run", OPENSSL_RUNS)
def test_messages_of_openssl(openssl_messages: Callable[[str], dict[str, bytes]], run: str) -> None:
    """Both decoders agree on what openssl sends and answers."""
    found = openssl_messages(run)
    kinds = {name: agree(der) for name, der in found.items()}
    assert kinds["q1"].name == run.split()[0]


def test_openssl_shows_every_kind(
    openssl_messages: Callable[[str], dict[str, bytes]],
) -> None:
    """The runs above bring what they are there for."""
    kinds = {
        PKIMessage.from_der(der).body_type.name
        for run in ("ir", "ir error", "ir polling", "cr", "p10cr", "kur", "genm", "rr")
        for der in openssl_messages(run).values()
    }
    assert kinds >= {"ir", "ip", "certConf", "pkiconf", "error", "cr", "cp", "p10cr", "kur"}
    assert kinds >= {"kup", "genm", "genp", "rr", "rp", "pollReq", "pollRep"}


def _lengthened(der: bytes) -> Iterator[bytes]:
    yield der + b"\x00"
    # BER: the length of the outermost SEQUENCE in one octet more than it needs.
    size = der[1] & 0x7F
    yield bytes((0x30, 0x80 | (size + 1), 0)) + der[2 : 2 + size] + der[2 + size :]
    yield b"\x30\x80" + der[2 + size :] + b"\x00\x00"


@pytest.mark.requirement(1)
def test_what_is_ber_but_not_der_is_refused(ours: dict[str, bytes]) -> None:
    """Trailing octets, overlong and indefinite lengths: one message has one form."""
    for variant in _lengthened(ours["ir"]):
        with pytest.raises(MalformedMessage):
            PKIMessage.from_der(variant)


@pytest.mark.requirement(30)
def test_unknown_general_info_survives(
    openssl_messages: Callable[[str], dict[str, bytes]],
) -> None:
    """generalInfo that nobody here knows is kept octet for octet."""
    header = PKIMessage.from_der(openssl_messages("genm")["q1"]).header
    item = header.info("1.2.3.4")
    assert item is not None
    assert item.value_der == asn1.encode(56789)
    assert PKIHeader.from_der(replace(header, recip_kid=b"x").to_der()).info("1.2.3.4") == item
