"""Every vector that is written here, in code: what it is, its octets, and the verdict that is due to it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import SIGNATURE_ALGORITHMS, digest
from ra_gateway.cmp.bodies import (
    PKICONF_BODY,
    CertRepMessage,
    CertResponse,
    CertStatus,
    PKIStatusInfo,
    RevDetails,
    RevRepContent,
    cert_confirm_body,
    cert_rep_body,
    error_body,
    gen_msg_body,
    nested_body,
    rev_rep_body,
    rev_req_body,
)
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, P10CR_CERT_REQ_ID, BodyType, PKIStatus
from ra_gateway.cmp.crmf import (
    RA_VERIFIED_POPO_DER,
    CertId,
    CertTemplate,
    Control,
    cert_id_der,
    cert_request_der,
    popo_signing_key_input,
)
from ra_gateway.cmp.messages import (
    ANYONE,
    IMPLICIT_CONFIRM,
    InfoTypeAndValue,
    body,
    confirm_wait_time,
)
from ra_gateway.cmp.names import directory_name
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import PKIFailureInfo
from tests.support.der import Node, parse
from tests.vectors.book import AT, Configuration, Step, Vector, Verdict
from tests.vectors.cast import LEGACY_SERIAL, SHA1_RSA, member
from tests.vectors.writing import (
    Pen,
    extension,
    identifier,
    popo,
    spki,
    template,
)

LEGACY_QUIRKS: Final = (
    "short_ids",
    "recip_nonce_in_ir",
    "no_message_time",
    "wrong_clock",
    "any_cert_req_id",
    "no_subject",
    "missing_extracerts_in_certconf",
    "ber_certificates",
)
_LEGACY: Final = Configuration(
    strictness="strict",
    require_message_time=True,
    vendors=("legacy",),
    quirks=LEGACY_QUIRKS,
    sha1=True,
    rsa1024=True,
)

CONFIGURATIONS: Final = {
    "3gpp": Configuration(),
    "strict": Configuration(strictness="strict", require_message_time=True),
    "enrolment only": Configuration(body_types=("ir", "cr", "kur")),
    "mac": Configuration(strictness="lenient", mac=True, hmac_sha1=True),
    "lenient": Configuration(strictness="lenient", vendors=("acme", "lattice")),
    "behind a local RA": Configuration(local_ra=True),
    "legacy": _LEGACY,
    **{
        f"legacy without {quirk}": replace(
            _LEGACY, quirks=tuple(item for item in LEGACY_QUIRKS if item != quirk), named=True
        )
        for quirk in LEGACY_QUIRKS
    },
    "legacy without sha1": replace(_LEGACY, sha1=False, named=True),
    "legacy without rsa1024": replace(_LEGACY, rsa1024=False),
}


def accepted(answer: str = "ip") -> Verdict:
    """The message is answered with what was asked for."""
    return Verdict("accepted", answer)


def refused(fail_info: str, rule: str, answer: str = "error") -> Verdict:
    """The message is understood and refused."""
    return Verdict("refused", answer, fail_info, rule)


UNREADABLE: Final = Verdict("refused", "error", "badDataFormat", "R1", understood=False)
"""The octets are no PKIMessage, and whom an error would be for cannot be read."""

_WITHOUT_IDS: Final = frozenset(
    {
        "deep",
        "empty",
        "empty-sequence",
        "head-only",
        "header-missing",
        "indefinite-header",
        "length-of-126-octets",
        "null",
        "primitive",
        "set",
        "text",
    }
)
"""Of the octets that are no PKIMessage those that are answered without IDs of theirs, and unprotected."""


class Catalogue:
    """Collects vectors with their octets."""

    def __init__(self) -> None:
        self.vectors: dict[str, Vector] = {}
        self.octets: dict[str, bytes] = {}

    def add(
        self, name: str, what: str, expected: Verdict, der: bytes, *requirements: int, **fields: Any
    ) -> bytes:
        """Take a vector in; fields as of `Vector`."""
        if name in self.vectors:
            raise ValueError(f"two vectors are called {name}")
        self.vectors[name] = Vector(name, what, expected, tuple(sorted(requirements)), **fields)
        self.octets[name] = der
        return der


async def write(book: Catalogue) -> None:
    """Write all of them."""
    for section in (
        _requests,
        _other_operations,
        _shared_secrets,
        _legacy_base_station,
        _ca_answers,
        _confirmations,
        _polling,
        _nested,
        _headers,
        _protection,
        _body_types,
        _templates,
        _malformed,
        _malformed_bodies,
    ):
        await section(book)


# --- what is served -------------------------------------------------------------------------------------------


async def _requests(book: Catalogue) -> None:
    book.add(
        "ir",
        "A base station of a known vendor asks for its first certificate, with the subject it wants.",
        accepted(),
        await Pen("ir").request(),
        *(1, 3, 73, 139),
    )
    pen = Pen("ir-no-subject")
    input_der = popo_signing_key_input(
        directory_name(member("device").certificate.subject_der), spki("new-p256")
    )
    book.add(
        pen.name,
        "An ir without a subject, as TS 33.310 allows it; POPOSigningKeyInput carries the proof.",
        accepted(),
        await pen.request(
            asked=template(subject=None), popo_der=await popo(input_der, input_der=input_der)
        ),
        *(56, 141),
    )
    pen = Pen("ir-implicit-confirm")
    profile = asn1.tlv(0x30, asn1.tlv(0x0C, b"eNB"))
    book.add(
        pen.name,
        "An ir that asks for implicitConfirm and names a certProfile; the endpoint grants no confirmation.",
        accepted(),
        await pen.request(
            asked=template(san=("dns:enb-1.example.net", "ip:192.0.2.1")),
            general_info=(IMPLICIT_CONFIRM, InfoTypeAndValue(OID.certProfile, profile)),
            pvno=3,
        ),
        *(3, 64, 143),
    )
    pen = Pen("ir-unknown-general-info")
    book.add(
        pen.name,
        "generalInfo that nobody here knows, with and without a value, and freeText in two languages.",
        accepted(),
        await pen.request(
            general_info=(
                InfoTypeAndValue("1.2.3.4", asn1.encode(56789)),
                InfoTypeAndValue("2.999.1"),
            ),
            free_text=("Ein Gruß", "A greeting"),
        ),
        *(30,),
    )
    for name, what in {
        "device-rsa": "An ir under RSA-2048 with SHA-256 (PKCS #1 v1.5), for an RSA key.",
        "device-ed25519": "An ir under Ed25519.",
        "device-ed448": "An ir under Ed448.",
        "device-p384": "An ir under ECDSA on P-384 with SHA-384.",
    }.items():
        key = "new-rsa2048" if name == "device-rsa" else "new-p256"
        name, by = name.replace("device", "ir"), name
        how = "lenient" if "Ed" in what else "3gpp"
        der = await Pen(name).request(key=key, by=by)
        book.add(name, what, accepted(), der, 20, 158, configuration=how)
    book.add(
        "ir-ed25519-3gpp",
        "The ir under Ed25519 where TS 33.310 is held to, which exempts the curves of RFC 7748.",
        accepted(),
        book.octets["ir-ed25519"],
        158,
    )
    pen = Pen("ir-mldsa")
    book.add(
        pen.name,
        "An ir under ML-DSA-44, for an ML-DSA-44 key.",
        accepted(),
        await pen.request(key="new-mldsa44", by="lattice-device"),
        157,
        configuration="lenient",
    )
    device = member("device").credential()
    root = member("acme-root").certificate.der
    shuffled = (root, *reversed(device.certificates), b"\x30\x03\x02\x01\x05")
    book.add(
        "ir-any-order",
        "extraCerts in any order, with the vendor's root and an element that is no certificate among them.",
        accepted(),
        await Pen("ir-any-order").request(extra_certs=shuffled),
        *(16, 24, 139),
    )
    pen = Pen("ir-any-recipient")
    book.add(
        pen.name,
        "An ir addressed to nobody, from a clock 299 seconds slow.",
        accepted(),
        await pen.request(
            recipient_der=ANYONE, message_time=AT.replace(second=6, minute=0 - 0 + 59, hour=2)
        ),
        *(28, 29),
    )


async def _other_operations(book: Catalogue) -> None:
    own = member("enb").certificate
    book.add(
        "cr",
        "A further certificate for somebody who has one of the operator's.",
        accepted("cp"),
        await Pen("cr").request(BodyType.cr, by="enb"),
        1,
    )
    old = CertId(directory_name(own.issuer_der), own.serial_number)
    control = Control(OID.oldCertID, cert_id_der(old))
    book.add(
        "kur",
        "Renewal under the certificate that is renewed, which oldCertID names.",
        accepted("kup"),
        await Pen("kur").request(BodyType.kur, by="enb", controls=(control,)),
        *(75, 144),
    )
    other = member("other-enb").certificate
    wrong = CertId(directory_name(other.issuer_der), other.serial_number)
    book.add(
        "kur-other-old-cert",
        "oldCertID names another certificate than the one that protects the kur.",
        refused("badCertId", "R68", "kup"),
        await Pen("kur-other-old-cert").request(
            BodyType.kur, by="enb", controls=(Control(OID.oldCertID, cert_id_der(wrong)),)
        ),
        68,
    )
    book.add(
        "kur-by-vendor",
        "A vendor certificate cannot be renewed here.",
        refused("signerNotTrusted", "R21"),
        await Pen("kur-by-vendor").request(BodyType.kur),
        71,
    )
    pen = Pen("p10cr")
    pkcs10 = await pen.pkcs10()
    book.add(
        pen.name,
        "A PKCS#10 request.",
        accepted("cp"),
        await pen.signed(body(BodyType.p10cr, pkcs10)),
        65,
    )
    book.add(
        "p10cr-not-taken",
        "p10cr where the endpoint takes enrolment only.",
        refused("badRequest", "R142"),
        await Pen("p10cr-not-taken").signed(body(BodyType.p10cr, pkcs10)),
        142,
        configuration="enrolment only",
    )
    for name, what, fail_info, rule, made in (
        ("p10cr-version", "A PKCS#10 of version 1.", "badCertTemplate", "R66", {"version": 1}),
        (
            "p10cr-wrong-key",
            "A PKCS#10 signed by another key.",
            "badPOP",
            "R65",
            {"signer": "new-other"},
        ),
    ):
        pen = Pen(name)
        octets = body(BodyType.p10cr, await pen.pkcs10(**made))
        book.add(
            name, what, refused(fail_info, rule, "cp"), await pen.signed(octets), int(rule[1:])
        )
    reason = extension(OID.reasonCode, b"\x0a\x01\x01")
    named = CertTemplate(issuer_der=own.issuer_der, serial_number=own.serial_number)
    book.add(
        "rr",
        "Somebody gives up a certificate, under that certificate, because of a key compromise.",
        accepted("rp"),
        await Pen("rr").signed(rev_req_body(RevDetails(named, (reason,))), "enb"),
        129,
    )
    theirs = replace(named, serial_number=other.serial_number)
    book.add(
        "rr-of-another",
        "An rr for a certificate that is somebody else's.",
        refused("notAuthorized", "R130", "rp"),
        await Pen("rr-of-another").signed(rev_req_body(RevDetails(theirs, (reason,))), "enb"),
        130,
    )
    odd = extension(OID.reasonCode, b"\x0a\x01\x07")
    book.add(
        "rr-unknown-reason",
        "An rr with reason 7, which does not exist.",
        refused("badDataFormat", "R132", "rp"),
        await Pen("rr-unknown-reason").signed(rev_req_body(RevDetails(named, (odd,))), "enb"),
        132,
    )
    question = InfoTypeAndValue(OID.caCerts)
    for name, what, verdict, items, requirement in (
        (
            "genm-ca-certs",
            "A question for the CA's certificates.",
            accepted("genp"),
            [question],
            133,
        ),
        (
            "genm-unknown",
            "A question nobody here knows, with a value, for the CA to answer.",
            accepted("genp"),
            [InfoTypeAndValue("1.2.3.4", asn1.encode(1))],
            138,
        ),
        (
            "genm-two",
            "Two questions in one genm.",
            refused("badRequest", "R138"),
            [question, question],
            138,
        ),
    ):
        octets = gen_msg_body(BodyType.genm, items)
        book.add(name, what, verdict, await Pen(name).signed(octets, "enb"), requirement)


async def _shared_secrets(book: Catalogue) -> None:
    own = {"configuration": "mac"}

    async def of(pen: Pen, body_type: BodyType = BodyType.ir) -> bytes:
        if body_type is BodyType.p10cr:
            return body(body_type, await pen.pkcs10())
        der = cert_request_der(template())
        return body(body_type, asn1.tlv(0x30, asn1.tlv(0x30, der, await popo(der))))

    for body_type in (BodyType.ir, BodyType.cr, BodyType.p10cr):
        pen = Pen(f"{body_type.name}-pbm")
        book.add(
            pen.name,
            f"{body_type.name} under a shared secret, with PasswordBasedMac.",
            accepted(CERT_RESPONSE_TO[body_type].name),
            await pen.maced(await of(pen, body_type)),
            *(38, 44),
            **own,
        )
    pen = Pen("ir-pbmac1")
    book.add(
        pen.name,
        "ir under a shared secret, with PBMAC1.",
        accepted(),
        await pen.maced(await of(pen), pen.pbmac1()),
        *(39, 44),
        **own,
    )
    pen = Pen("ir-pbm-wrong-secret")
    book.add(
        pen.name,
        "The MAC was made with another secret.",
        refused("badMessageCheck", "R41"),
        await pen.maced(await of(pen), secret="something else altogether"),
        41,
        **own,
    )
    pen = Pen("ir-pbm-unknown-reference")
    book.add(
        pen.name,
        "Nobody knows the reference in senderKID.",
        refused("badMessageCheck", "R41"),
        await pen.maced(await of(pen), sender_kid=b"nobody"),
        41,
        **own,
    )
    pen = Pen("ir-pbm-other-sender")
    book.add(
        pen.name,
        "sender names another device than the secret is for.",
        refused("badMessageCheck", "R45"),
        await pen.maced(
            await of(pen), sender_der=directory_name(member("enb").certificate.issuer_der)
        ),
        45,
        **own,
    )
    for name, what, parameters in (
        ("ir-pbm-no-iteration", "PasswordBasedMac with an iterationCount of 0.", {"iterations": 0}),
        ("ir-pbm-dear", "PasswordBasedMac with 2^62 iterations.", {"iterations": 1 << 62}),
        (
            "ir-pbm-endless",
            "PasswordBasedMac with an iterationCount of 20001 bits.",
            {"iterations": 1 << 20_000},
        ),
        ("ir-pbm-salt", "PasswordBasedMac with a salt of 65 octets.", {"salt": bytes(65)}),
    ):
        pen = Pen(name)
        parameters_der = pen.pbm(**parameters)
        octets = await pen.maced(await of(pen), parameters_der, iterations=1)
        book.add(name, what, refused("badAlg", "R40"), octets, 40, **own)
    pen = Pen("kur-pbm")
    book.add(
        pen.name,
        "A shared secret cannot protect a kur.",
        refused("wrongIntegrity", "R42"),
        await pen.maced(await of(pen, BodyType.kur)),
        42,
        **own,
    )
    pen = Pen("ir-pbm-signatures-only")
    book.add(
        pen.name,
        "A MAC where the endpoint takes signatures only.",
        refused("wrongIntegrity", "R43"),
        await pen.maced(await of(pen)),
        *(43, 142),
    )


async def _legacy_base_station(book: Catalogue) -> None:
    """The message shape of a base station of 2011, with keys of our own."""
    der = await _legacy_request("legacy-ir")
    book.add(
        "legacy-ir",
        "An ir as a base station of 2011 sends it: RSA-1024, SHA-1, IDs of four octets, recipNonce, "
        "certReqId 355, no messageTime, a certificate with a negative serial number.",
        accepted(),
        der,
        *(5, 6, 7, 17, 19, 29, 47, 139),
        configuration="legacy",
    )
    for missing, fail_info, rule, answer in (
        ("short_ids", "badDataFormat", "R5", "error"),
        ("recip_nonce_in_ir", "badRecipientNonce", "R7", "error"),
        ("no_message_time", "badTime", "R29", "error"),
        ("any_cert_req_id", "badRequest", "R47", "ip"),
        ("sha1", "badAlg", "R17", "error"),
        ("rsa1024", "badAlg", "R19", "error"),
    ):
        book.add(
            f"legacy-ir-without-{missing.replace('_', '-')}",
            f"The same base station where it is not forgiven {missing}.",
            refused(fail_info, rule, answer),
            der,
            int(rule[1:]),
            configuration=f"legacy without {missing}",
        )
    await _legacy_variants(book)
    await _legacy_renewal(book)


async def _legacy_request(
    name: str,
    body_type: BodyType = BodyType.ir,
    *,
    by: str = "legacy-device",
    subject: str | None = f"CN={LEGACY_SERIAL} eNodeB",
    message_time: datetime | None = None,
) -> bytes:
    asked = template(
        "new-rsa2048",
        subject,
        version=2,
        not_before=AT.replace(year=2026, month=1, day=1, hour=0, minute=0, second=0),
        not_after=AT.replace(year=2036, month=1, day=1, hour=0, minute=0, second=0),
        extensions=(extension(OID.keyUsage, bytes.fromhex("030205a0"), critical=True),),
        san=() if subject is None else (f"dns:{LEGACY_SERIAL}.enodeb.example.net",),
    )
    signed = cert_request_der(asked, cert_req_id=355)
    proof = await popo(signed, "new-rsa2048", algorithm=SHA1_RSA)
    first = name == "legacy-ir"
    return await Pen(name).signed(
        body(body_type, asn1.tlv(0x30, asn1.tlv(0x30, signed, proof))),
        by,
        algorithm=SHA1_RSA,
        extra_certs=[item.der for item in member(by).certificates],
        message_time=message_time,
        transaction_id=bytes.fromhex("5c1f0a92") if first else Pen(name).draw("transactionID", 4),
        sender_nonce=bytes.fromhex("3e9d1177") if first else Pen(name).draw("senderNonce", 4),
        recip_nonce=bytes(4),
    )


_EPOCH: Final = datetime(1970, 1, 1, 0, 2, 5, tzinfo=UTC)


async def _legacy_variants(book: Catalogue) -> None:
    """What others of that vendor's devices need besides."""
    for name, what, quirk, refusal, fields in (
        (
            "clock",
            "whose clock stands at 1970",
            "wrong_clock",
            refused("badTime", "R29"),
            {"message_time": _EPOCH},
        ),
        (
            "nameless",
            "which names nobody",
            "no_subject",
            refused("badCertTemplate", "R51", "ip"),
            {"subject": None},
        ),
        (
            "ber",
            "whose certificate is BER and not DER",
            "ber_certificates",
            refused("badMessageCheck", "R33"),
            {"by": "legacy-ber"},
        ),
    ):
        der = await _legacy_request(f"legacy-ir-{name}", **fields)
        number = int(refusal.rule[1:])
        book.add(
            f"legacy-ir-{name}",
            f"An ir of such a base station, {what}.",
            accepted(),
            der,
            number,
            configuration="legacy",
        )
        book.add(
            f"legacy-ir-{name}-without",
            f"The same where it is not forgiven {quirk}.",
            refusal,
            der,
            number,
            configuration=f"legacy without {quirk}",
        )


async def _legacy_renewal(book: Catalogue) -> None:
    """It takes its certificate, and renews it years later: what it was forgiven at first it still is."""
    ir, ip = Step("legacy-ir", "legacy-ip"), Pen("legacy-ip")
    issued = member("legacy-enb").certificate.der
    response = _response(certificate_der=issued, cert_req_id=355)
    book.add(
        ip.name,
        "The CA's answer to it.",
        accepted(),
        await ip.answer(book.octets["legacy-ir"], _ip(response)),
        *(88, 97),
        configuration="legacy",
        posted="legacy-ir",
    )
    cert_conf = await Pen("legacy-certconf").signed(
        cert_confirm_body(CertStatus(digest("sha256", issued), 355)),
        "legacy-device",
        algorithm=SHA1_RSA,
        extra_certs=(),
        message_time=None,
        transaction_id=bytes.fromhex("5c1f0a92"),
        sender_nonce=bytes.fromhex("3e9d1178"),
        recip_nonce=ip.draw("senderNonce"),
    )
    book.add(
        "legacy-certconf",
        "It takes the certificate, without any certificate of its own.",
        accepted("pkiconf"),
        cert_conf,
        *(5, 34, 100),
        configuration="legacy",
        before=(ir,),
    )
    book.add(
        "legacy-certconf-without-missing-extracerts-in-certconf",
        "The same where it is not forgiven missing_extracerts_in_certconf.",
        refused("badMessageCheck", "R33"),
        cert_conf,
        33,
        configuration="legacy without missing_extracerts_in_certconf",
        before=(ir,),
    )
    kur = await _legacy_request("legacy-kur", BodyType.kur, by="legacy-enb")
    clock = await _legacy_request(
        "legacy-kur-clock", BodyType.kur, by="legacy-enb", message_time=_EPOCH
    )
    enrolled = (ir, Step("legacy-certconf"))
    for name, what, der in (
        ("legacy-kur", "It renews, and needs all that it needed at first.", kur),
        ("legacy-kur-clock", "It renews while its clock stands at 1970.", clock),
    ):
        book.add(
            name, what, accepted("kup"), der, *(66, 75), configuration="legacy", before=enrolled
        )
    for missing, fail_info, rule, answer, der in (
        ("short_ids", "badDataFormat", "R5", "error", kur),
        ("recip_nonce_in_ir", "badRecipientNonce", "R7", "error", kur),
        ("no_message_time", "badTime", "R29", "error", kur),
        ("wrong_clock", "badTime", "R29", "error", clock),
        ("any_cert_req_id", "badRequest", "R47", "kup", kur),
        ("sha1", "badAlg", "R17", "error", kur),
    ):
        book.add(
            f"legacy-kur-without-{missing.replace('_', '-')}",
            f"The renewal where it is not forgiven {missing}.",
            refused(fail_info, rule, answer),
            der,
            int(rule[1:]),
            configuration=f"legacy without {missing}",
        )
    book.add(
        "legacy-kur-forgotten",
        "The renewal where nothing is known of its enrolment.",
        refused("badAlg", "R17"),
        kur,
        17,
        configuration="legacy",
    )


# --- what a CA answers ------------------------------------------------------------------------------------------


def _issued(name: str = "issued") -> bytes:
    return member(name).certificate.der


def _response(
    status: PKIStatus = PKIStatus.accepted, *fail_info: PKIFailureInfo, **fields: Any
) -> CertResponse:
    certificate = _issued() if status in (PKIStatus.accepted, PKIStatus.grantedWithMods) else None
    return CertResponse(
        **{
            "cert_req_id": 0,
            "status_info": PKIStatusInfo(status, ("no",) if fail_info else (), fail_info),
            "certificate_der": certificate,
            **fields,
        }
    )


def _ip(response: CertResponse, *ca_pubs: bytes, body_type: BodyType = BodyType.ip) -> bytes:
    return cert_rep_body(body_type, CertRepMessage((response,), ca_pubs))


async def _ca_answers(book: Catalogue) -> None:
    ir = book.octets["ir"]
    root = member("operator-root").certificate.der
    broken = refused("systemFailure", "R84")

    async def to_ir(
        name: str, what: str, expected: Verdict, body_der: bytes, *numbers: int, **options: Any
    ) -> bytes:
        der = await Pen(name).answer(ir, body_der, **options)
        return book.add(name, what, expected, der, *numbers, posted="ir")

    await to_ir(
        "ip",
        "The CA's certificate, with the time until which it awaits certConf.",
        accepted(),
        _ip(_response()),
        *(88, 97, 98, 140),
        general_info=(confirm_wait_time(AT.replace(hour=4)),),
    )
    modified = _response(PKIStatus.grantedWithMods)
    await to_ir(
        "ip-ca-pubs",
        "grantedWithMods, and the operator's root in caPubs.",
        accepted(),
        _ip(modified, root),
        *(93, 96),
    )
    await to_ir(
        "ip-rejection",
        "The CA rejects, with two failInfo bits.",
        refused("badCertTemplate", "R89", "ip"),
        _ip(
            _response(
                PKIStatus.rejection, PKIFailureInfo.badCertTemplate, PKIFailureInfo.notAuthorized
            )
        ),
        *(89, 96),
    )
    usual, zeros = _response(), bytes(16)
    other, foreign = (_response(certificate_der=_issued(who)) for who in ("issued-other", "device"))
    wrong: list[tuple[str, str, str, int, CertResponse, dict[str, Any]]] = [
        ("ip-other-nonce", "recipNonce is not the senderNonce of the ir.", "R83", 83, usual, {"recip_nonce": zeros}),
        ("ip-other-transaction", "transactionID of another operation.", "R83", 83, usual, {"transaction_id": zeros}),
        ("ip-other-key", "The certificate is for another key.", "R86", 86, other, {}),
        ("ip-foreign-certificate", "The certificate is a vendor's, not of the operator's CA.", "R86", 87, foreign, {}),
        ("ip-by-device", "A mere base station signs the CA's answer.", "R84", 84, usual, {"by": "enb"}),
        ("ip-by-stranger", "A stranger signs the CA's answer.", "R84", 84, usual, {"by": "stranger"}),
        ("ip-unprotected", "Nobody signs the CA's answer.", "R84", 84, usual, {"protected": False}),
        ("ip-certificate-missing", "accepted, but there is no certificate.", "R96", 96,
            _response(certificate_der=None), {}),
        ("ip-other-request", "certReqId of another request.", "R85", 85, _response(cert_req_id=1), {}),
        ("ip-huge-request-id", "certReqId of 20001 bits, more than Python writes into a text.", "R1", 1,
            _response(cert_req_id=1 << 20_000), {}),
    ]  # fmt: skip
    for name, what, rule, number, response, options in wrong:
        await to_ir(name, what, refused("systemFailure", rule), _ip(response), number, **options)
    key_pair = asn1.tlv(
        0x30, asn1.tlv(0xA1, asn1.tlv(0xA0, b"\x02\x01\x02", b"\x31\x00", b"\x30\x00"))
    )
    encrypted = asn1.tlv(0x30, asn1.tlv(0x30, b"\x02\x01\x00", b"\x30\x03\x02\x01\x00", key_pair))
    await to_ir(
        "ip-encrypted-certificate",
        "An encrypted certificate (EnvelopedData), which nobody asked for.",
        refused("systemFailure", "R96"),
        body(BodyType.ip, asn1.tlv(0x30, encrypted)),
        96,
    )
    await to_ir(
        "cp-to-ir",
        "cp to an ir.",
        refused("systemFailure", "R85"),
        _ip(_response(), body_type=BodyType.cp),
        85,
    )
    info = PKIStatusInfo(PKIStatus.rejection, ("no",), (PKIFailureInfo.badRequest,))
    await to_ir(
        "error-from-ca",
        "The CA says no by an error: what it says of the request is passed on.",
        refused("badRequest", "R89", "ip"),
        error_body(info),
        *(85, 89),
    )
    html = b"<html><body>503 Service Unavailable</body></html>\n"
    book.add("html-from-ca", "The CA answers with a web page.", broken, html, 84, posted="ir")
    await _ca_answers_to_others(book)


async def _ca_answers_to_others(book: Catalogue) -> None:
    for asked, body_type, cert_req_id in (
        ("cr", BodyType.cp, 0),
        ("kur", BodyType.kup, 0),
        ("p10cr", BodyType.cp, P10CR_CERT_REQ_ID),
    ):
        name = f"{body_type.name}-to-{asked}"
        made = _ip(_response(cert_req_id=cert_req_id), body_type=body_type)
        book.add(
            name,
            f"The CA's certificate for a {asked}.",
            accepted(body_type.name),
            await Pen(name).answer(book.octets[asked], made),
            *(88, 96),
            posted=asked,
        )
    own = member("enb").certificate
    named = CertId(directory_name(own.issuer_der), own.serial_number)
    revoked = RevRepContent((PKIStatusInfo(PKIStatus.accepted),), (named,))
    book.add(
        "rp",
        "The CA has revoked the certificate, which it names.",
        accepted("rp"),
        await Pen("rp").answer(book.octets["rr"], rev_rep_body(revoked)),
        129,
        posted="rr",
    )
    certificates = asn1.tlv(0x30, member("operator-issuing").certificate.der)
    told = gen_msg_body(BodyType.genp, [InfoTypeAndValue(OID.caCerts, certificates)])
    book.add(
        "genp",
        "The CA tells its certificates.",
        accepted("genp"),
        await Pen("genp").answer(book.octets["genm-ca-certs"], told),
        133,
        posted="genm-ca-certs",
    )


# --- confirmation -----------------------------------------------------------------------------------------------


async def _confirmations(book: Catalogue) -> None:
    ir, ip = Pen("ir"), Pen("ip")
    before = (Step("ir", "ip"),)
    usual = CertStatus(digest("sha256", _issued()), 0)
    ids: dict[str, Any] = {
        "transaction_id": ir.draw("transactionID"),
        "recip_nonce": ip.draw("senderNonce"),
    }

    async def add(
        name: str,
        what: str,
        expected: Verdict,
        body_der: bytes,
        *numbers: int,
        by: str = "device",
        **header: Any,
    ) -> None:
        der = await Pen(name).signed(body_der, by, **{**ids, **header})
        ca = "pkiconf" if name == "certconf" else ""
        book.add(name, what, expected, der, *numbers, before=before, ca=ca)

    await add(
        "certconf",
        "The device takes its certificate.",
        accepted("pkiconf"),
        cert_confirm_body(usual),
        *(80, 100),
    )
    book.add(
        "pkiconf",
        "The CA takes note of the confirmation.",
        accepted("pkiconf"),
        await Pen("pkiconf").answer(book.octets["certconf"], PKICONF_BODY),
        100,
        before=before,
        posted="certconf",
    )
    no = PKIStatusInfo(PKIStatus.rejection, ("no",), (PKIFailureInfo.badCertTemplate,))
    await add(
        "certconf-rejection",
        "The device rejects its certificate and says why.",
        accepted("pkiconf"),
        cert_confirm_body(replace(usual, status_info=no)),
        101,
    )
    await add(
        "certconf-no-certificates",
        "certConf without extraCerts: the signer is remembered.",
        accepted("pkiconf"),
        cert_confirm_body(usual),
        34,
        extra_certs=(),
    )
    sha512 = structures.AlgorithmIdentifier(
        algorithm=asn1.oid("2.16.840.1.101.3.4.2.3"), parameters=None
    )
    named = CertStatus(digest("sha512", _issued()), 0, None, sha512)
    await add(
        "certconf-hash-alg",
        "certConf of version 3 that names SHA-512 as its hash.",
        accepted("pkiconf"),
        cert_confirm_body(named),
        103,
        pvno=3,
    )
    await add(
        "certconf-hash-alg-version-2",
        "hashAlg in a certConf of version 2, which has no such field.",
        refused("badRequest", "R103"),
        cert_confirm_body(named),
        103,
    )
    await add(
        "certconf-wrong-hash",
        "certHash of another certificate.",
        refused("badCertId", "R102"),
        cert_confirm_body(replace(usual, cert_hash=bytes(32))),
        102,
    )
    await add(
        "certconf-empty",
        "certConf without a CertStatus.",
        refused("badRequest", "R106"),
        body(BodyType.certConf, asn1.tlv(0x30)),
        106,
    )
    await add(
        "certconf-other-request",
        "certReqId 1 after an ir.",
        refused("badRequest", "R107"),
        cert_confirm_body(replace(usual, cert_req_id=1)),
        107,
    )
    await add(
        "certconf-accepted-with-failure",
        "accepted, and a failInfo.",
        refused("badRequest", "R108"),
        cert_confirm_body(replace(usual, status_info=replace(no, status=PKIStatus.accepted))),
        108,
    )
    await add(
        "certconf-other-nonce",
        "recipNonce is not the senderNonce of the ip.",
        refused("badRecipientNonce", "R8"),
        cert_confirm_body(usual),
        8,
        recip_nonce=bytes(16),
    )
    await add(
        "certconf-by-another-device",
        "Another device of the same vendor confirms.",
        refused("badMessageCheck", "R35"),
        cert_confirm_body(usual),
        35,
        by="device-p384",
    )
    await add(
        "certconf-huge-status",
        "PKIStatus of 20001 bits.",
        refused("badDataFormat", "R1"),
        body(
            BodyType.certConf,
            asn1.tlv(
                0x30,
                asn1.tlv(
                    0x30,
                    asn1.tlv(0x04, usual.cert_hash),
                    b"\x02\x01\x00",
                    asn1.tlv(0x30, asn1.encode(1 << 20_000)),
                ),
            ),
        ),
        1,
    )
    await add(
        "error-from-device",
        "The device gives up instead of confirming.",
        accepted("pkiconf"),
        error_body(no),
        115,
    )
    pen = Pen("certconf-unknown")
    der = await pen.signed(cert_confirm_body(usual), recip_nonce=bytes(16))
    book.add(
        pen.name,
        "certConf of an operation that nobody knows.",
        refused("badRequest", "R11"),
        der,
        11,
    )


# --- delayed delivery, and other RAs ------------------------------------------------------------------------------


async def _polling(book: Catalogue) -> None:
    waiting = await Pen("ip-waiting").answer(
        book.octets["ir"],
        _ip(_response(PKIStatus.waiting, status_info=PKIStatusInfo(PKIStatus.waiting))),
    )
    book.add(
        "ip-waiting",
        "The CA needs time, and says so.",
        accepted(),
        waiting,
        *(116, 121),
        posted="ir",
    )
    before = (Step("ir", "ip-waiting"),)
    ids: dict[str, Any] = {
        "transaction_id": Pen("ir").draw("transactionID"),
        "recip_nonce": Pen("ip-waiting").draw("senderNonce"),
    }

    def poll_req(number: int) -> bytes:
        return body(BodyType.pollReq, asn1.tlv(0x30, asn1.tlv(0x30, asn1.encode(number))))

    poll_rep = body(
        BodyType.pollRep, asn1.tlv(0x30, asn1.tlv(0x30, asn1.encode(0), asn1.encode(60)))
    )
    book.add(
        "pollreq",
        "The device polls for its certificate, and has to go on.",
        accepted("pollRep"),
        await Pen("pollreq").signed(poll_req(0), **ids),
        *(117, 120),
        before=before,
        ca="pollrep",
    )
    book.add(
        "pollrep",
        "The CA needs another minute.",
        accepted("pollRep"),
        await Pen("pollrep").answer(book.octets["pollreq"], poll_rep),
        117,
        before=before,
        posted="pollreq",
    )
    book.add(
        "ip-at-last",
        "The CA answers a pollReq with the certificate; recipNonce is that of the ir.",
        accepted(),
        await Pen("ip-at-last").answer(
            book.octets["pollreq"], _ip(_response()), recip_nonce=Pen("ir").draw("senderNonce")
        ),
        118,
        before=before,
        posted="pollreq",
    )
    book.add(
        "pollreq-other-request",
        "pollReq with the certReqId of another request.",
        refused("badRequest", "R119"),
        await Pen("pollreq-other-request").signed(poll_req(5), **ids),
        119,
        before=before,
    )
    book.add(
        "pollreq-huge",
        "pollReq with a certReqId of 20001 bits.",
        refused("badDataFormat", "R1"),
        await Pen("pollreq-huge").signed(poll_req(1 << 20_000), **ids),
        1,
        before=before,
    )
    book.add(
        "pollreq-other-nonce",
        "pollReq whose recipNonce is not the senderNonce of the ip.",
        refused("badRecipientNonce", "R8"),
        await Pen("pollreq-other-nonce").signed(poll_req(0), **{**ids, "recip_nonce": bytes(16)}),
        8,
        before=before,
    )


async def _nested(book: Catalogue) -> None:
    inner, other = book.octets["ir"], book.octets["ir-no-subject"]
    same: dict[str, Any] = {
        "transaction_id": Pen("ir").draw("transactionID"),
        "sender_nonce": Pen("ir").draw("senderNonce"),
    }

    async def add(
        name: str,
        what: str,
        expected: Verdict,
        *inside: bytes,
        number: int,
        by: str = "local-ra",
        **ids: Any,
    ) -> bytes:
        der = await Pen(name).signed(nested_body(*inside), by, **ids)
        where = "behind a local RA"
        return book.add(name, what, expected, der, number, configuration=where)

    what = "An ir inside a nested of another RA."
    nested = await add("nested", what, accepted(), inner, number=124, **same)
    await add("nested-batch", "A batch of two.", accepted("nested"), inner, other, number=125)
    await add(
        "nested-batch-unreadable",
        "A batch of a message and of something that is none: each is answered for itself.",
        accepted("nested"),
        inner,
        b"\x30\x00",
        number=125,
    )
    await add(
        "nested-other-transaction",
        "transactionID is not that of the message inside.",
        refused("badRequest", "R122"),
        inner,
        number=122,
        **{**same, "transaction_id": bytes(16)},
    )
    await add(
        "nested-other-nonce",
        "senderNonce is not that of the message inside.",
        refused("badSenderNonce", "R122"),
        inner,
        number=122,
        **{**same, "sender_nonce": bytes(16)},
    )
    await add(
        "nested-by-device",
        "A device nests.",
        refused("notAuthorized", "R123"),
        inner,
        number=123,
        by="device",
        **same,
    )
    await add(
        "nested-twice",
        "A batch with one message twice.",
        refused("badRequest", "R126"),
        inner,
        inner,
        number=126,
    )
    await add("nested-empty", "Nothing inside.", refused("badDataFormat", "R1"), number=1)
    await add(
        "nested-in-nested",
        "A nested inside a nested.",
        refused("badRequest", "R128"),
        nested,
        number=128,
        **same,
    )


# --- header and protection ----------------------------------------------------------------------------------------


async def _headers(book: Catalogue) -> None:
    for name, what, fail_info, rule, configuration, header in (
        ("ir-version-1", "pvno 1.", "unsupportedVersion", "R2", "3gpp", {"pvno": 1}),
        ("ir-version-4", "pvno 4.", "unsupportedVersion", "R2", "3gpp", {"pvno": 4}),
        (
            "ir-no-transaction",
            "No transactionID.",
            "badDataFormat",
            "R4",
            "3gpp",
            {"transaction_id": None},
        ),
        (
            "ir-short-transaction",
            "transactionID of 8 octets.",
            "badDataFormat",
            "R5",
            "strict",
            {"transaction_id": bytes(8)},
        ),
        ("ir-no-nonce", "No senderNonce.", "badSenderNonce", "R6", "3gpp", {"sender_nonce": None}),
        (
            "ir-short-nonce",
            "senderNonce of 15 octets.",
            "badSenderNonce",
            "R6",
            "3gpp",
            {"sender_nonce": bytes(15)},
        ),
        (
            "ir-recipient-nonce",
            "recipNonce in the first message.",
            "badRecipientNonce",
            "R7",
            "strict",
            {"recip_nonce": bytes(16)},
        ),
        (
            "ir-late",
            "messageTime an hour ago.",
            "badTime",
            "R29",
            "3gpp",
            {"message_time": AT.replace(hour=2)},
        ),
        (
            "ir-no-time",
            "No messageTime where it is insisted on.",
            "badTime",
            "R29",
            "strict",
            {"message_time": None},
        ),
        (
            "ir-implicit-confirm-value",
            "implicitConfirm with TRUE for its value.",
            "badRequest",
            "R31",
            "strict",
            {"general_info": (InfoTypeAndValue(OID.implicitConfirm, b"\x01\x01\xff"),)},
        ),
        (
            "ir-two-profiles",
            "certProfile with two names.",
            "badRequest",
            "R64",
            "3gpp",
            {
                "general_info": (
                    InfoTypeAndValue(OID.certProfile, bytes.fromhex("30060c01610c0162")),
                )
            },
        ),
    ):
        book.add(
            name,
            what,
            refused(fail_info, rule),
            await Pen(name).request(**header),
            int(rule[1:]),
            configuration=configuration,
        )
    pen = Pen("ir-again")
    book.add(
        pen.name,
        "Another ir under the transactionID of a live one.",
        refused("transactionIdInUse", "R12"),
        await pen.request(transaction_id=Pen("ir").draw("transactionID")),
        12,
        before=(Step("ir"),),
    )
    book.add(
        "ir-repeated",
        "The same ir once more, octet for octet: it gets the stored answer.",
        accepted(),
        book.octets["ir"],
        *(12, 94),
        before=(Step("ir"),),
    )


async def _protection(book: Catalogue) -> None:
    good = book.octets["ir"]
    tree = parse(good)

    def edited(change: Any) -> bytes:
        copy = tree.copy()
        change(copy)
        return copy.encode()

    def add(name: str, what: str, fail_info: str, rule: str, der: bytes, *more: int) -> None:
        numbers = {int(rule[1:])} if rule.startswith("R") and rule[1:].isdigit() else set()
        book.add(name, what, refused(fail_info, rule), der, *(numbers | set(more)))

    def drop(*path: int) -> Any:
        return lambda node: node.at(*path[:-1]).content.pop(path[-1])

    add(
        "ir-unprotected",
        "Neither protection nor protectionAlg.",
        "badMessageCheck",
        "R13",
        edited(lambda node: (drop(2)(node), drop(0, 4)(node))),
    )
    add(
        "ir-no-protection",
        "protectionAlg without protection.",
        "badMessageCheck",
        "R14",
        edited(drop(2)),
    )
    add(
        "ir-no-body",
        "No body, so that protection [0] stands where an ir [0] would.",
        "badMessageCheck",
        "R14",
        edited(drop(1)),
    )
    add(
        "ir-no-sender",
        "No sender, so that recipient is taken for it.",
        "badMessageCheck",
        "R26",
        edited(drop(0, 1)),
    )
    add(
        "ir-no-algorithm",
        "protection without protectionAlg.",
        "badMessageCheck",
        "R14",
        edited(drop(0, 4)),
    )

    def flip_nonce(node: Node) -> None:
        nonce = node.at(0, 7, 0)
        nonce.octets = bytes((nonce.octets[0] ^ 1,)) + nonce.octets[1:]

    add(
        "ir-flipped-header",
        "One bit of senderNonce flipped.",
        "badMessageCheck",
        "R15",
        edited(flip_nonce),
    )

    def flip_body(node: Node) -> None:
        key = node.at(1, 0, 0, 0, 1).content[-1]
        bits = key.content[-1]
        bits.octets = bits.octets[:-1] + bytes((bits.octets[-1] ^ 1,))

    add(
        "ir-flipped-body",
        "One bit of the requested key flipped.",
        "badMessageCheck",
        "R15",
        edited(flip_body),
    )
    add(
        "ir-no-certificates",
        "No extraCerts, in a first message.",
        "badMessageCheck",
        "R33",
        edited(drop(3)),
    )
    add(
        "ir-stranger",
        "A vendor nobody here has heard of.",
        "signerNotTrusted",
        "R21",
        await Pen("ir-stranger").request(by="stranger"),
    )
    own = member("stranger")
    everything = [item.der for item in own.certificates]
    add(
        "ir-stranger-with-root",
        "The same, with its self-signed root in extraCerts, which makes it no anchor.",
        "signerNotTrusted",
        "R21",
        await Pen("ir-stranger-with-root").request(by="stranger", extra_certs=everything),
        24,
    )
    add(
        "ir-expired",
        "A vendor certificate that has expired.",
        "signerNotTrusted",
        "R22",
        await Pen("ir-expired").request(by="device-expired"),
    )
    add(
        "ir-no-signing",
        "keyUsage without digitalSignature.",
        "badMessageCheck",
        "R25",
        await Pen("ir-no-signing").request(by="device-no-usage"),
    )
    sha1 = SIGNATURE_ALGORITHMS["ecdsa-sha1"]
    add(
        "ir-sha1",
        "ECDSA with SHA-1, with a good signature.",
        "badAlg",
        "R17",
        await Pen("ir-sha1").request(algorithm=sha1),
        146,
    )
    pen = Pen("ir-other-sender")
    request = parse(good).at(1).encode()
    issuer = directory_name(member("acme-sub").certificate.subject_der)
    add(
        pen.name,
        "sender is the vendor's CA.",
        "badMessageCheck",
        "R26",
        await pen.forged(request, protector={"sender_der": issuer}),
    )
    pen = Pen("ir-other-key-identifier")
    add(
        pen.name,
        "senderKID is not that of the certificate.",
        "badMessageCheck",
        "R27",
        await pen.forged(request, protector={"sender_kid": bytes(20)}),
    )
    pen = Pen("ir-algorithm-of-another-key")
    rsa = SIGNATURE_ALGORITHMS["rsa-pkcs1-sha256"]
    add(
        pen.name,
        "protectionAlg is RSA's, the key is an EC key.",
        "badAlg",
        "R18",
        await pen.forged(request, protector={"protection_alg_der": rsa.der}),
    )
    pen = Pen("ir-unknown-algorithm")
    add(
        pen.name,
        "protectionAlg that nobody knows.",
        "badAlg",
        "R17",
        await pen.forged(request, protector={"protection_alg_der": identifier("1.2.3.4")}),
    )
    pen = Pen("ir-many-certificates")
    device = member("device").credential()
    many = [*device.certificates, *[b"\x30\x00"] * 15]
    add(
        pen.name,
        "17 elements in extraCerts; 16 are read.",
        "badRequest",
        "RFC 9483 3.3",
        await pen.request(extra_certs=many),
    )


_SAMPLES: Final = {
    BodyType.popdecc: asn1.tlv(0x30, asn1.tlv(0x30, b"\x04\x01\x00", b"\x04\x01\x00")),
    BodyType.popdecr: bytes.fromhex("3003020105"),
    BodyType.krp: asn1.tlv(0x30, bytes.fromhex("3003020100")),
    BodyType.rann: asn1.tlv(0x30, b"\x02\x01\x06"),
    BodyType.crlann: b"\x30\x00",
    BodyType.pollRep: bytes.fromhex("300830060201000201") + b"\x3c",
}


async def _body_types(book: Catalogue) -> None:
    """Whatever is no request, or none that is served."""
    ir = book.octets["ir"]
    requests = parse(ir).at(1, 0).encode()
    certificate = member("operator-issuing").certificate.der
    samples = {
        **_SAMPLES,
        **dict.fromkeys((BodyType.krr, BodyType.ccr), requests),
        **dict.fromkeys(
            (BodyType.ip, BodyType.cp, BodyType.kup, BodyType.ccp), _ip(_response())[4:]
        ),
        BodyType.ckuann: asn1.tlv(0x30, certificate, certificate, certificate),
        BodyType.cann: certificate,
        BodyType.rp: asn1.tlv(0x30, asn1.tlv(0x30, asn1.tlv(0x30, b"\x02\x01\x00"))),
        BodyType.pkiconf: b"\x05\x00",
        BodyType.genp: asn1.tlv(0x30, asn1.tlv(0x30, asn1.oid_der(OID.caCerts))),
    }
    for body_type, content in sorted(samples.items()):
        name = f"{body_type.name.lower()}-from-device"
        book.add(
            name,
            f"{body_type.name} where a request belongs.",
            refused("badRequest", "R9"),
            await Pen(name).signed(body(body_type, content)),
            *(9, 10),
        )
    book.add(
        "nested-from-device",
        "An ir in a nested that a base station signs.",
        refused("badRequest", "R9"),
        await Pen("nested-from-device").signed(nested_body(ir)),
        123,
    )
    book.add(
        "pollreq-unknown",
        "pollReq for an operation that nobody knows.",
        refused("badRequest", "R11"),
        await Pen("pollreq-unknown").signed(
            body(BodyType.pollReq, bytes.fromhex("30053003020100")), recip_nonce=bytes(16)
        ),
        *(11, 119),
    )


# --- what is asked for --------------------------------------------------------------------------------------------


async def _templates(book: Catalogue) -> None:
    async def add(
        name: str,
        what: str,
        fail_info: str,
        rule: str,
        *,
        configuration: str = "3gpp",
        **options: Any,
    ) -> None:
        der = await Pen(name).request(**options)
        number = () if not rule[1:].isdigit() else (int(rule[1:]),)
        expected = refused(fail_info, rule, "ip")
        book.add(name, what, expected, der, *number, configuration=configuration)

    await add("ir-two-requests", "Two CertReqMsg.", "badRequest", "R46", copies=2)
    await add("ir-no-requests", "No CertReqMsg.", "badRequest", "R46", copies=0)
    await add(
        "ir-other-id", "certReqId 1.", "badRequest", "R47", configuration="strict", cert_req_id=1
    )
    await add(
        "ir-template-version",
        "A certificate of version 1.",
        "badCertTemplate",
        "R48",
        asked=template(version=0),
    )
    await add(
        "ir-serial-number",
        "The device wants to choose its serial number.",
        "badCertTemplate",
        "R49",
        configuration="strict",
        asked=template(serial_number=5),
    )
    await add("ir-no-pop", "No proof of possession.", "badPOP", "R53", popo_der=b"")
    signed = cert_request_der(template())
    await add(
        "ir-wrong-pop",
        "The proof was made by another key.",
        "badPOP",
        "R54",
        popo_der=await popo(signed, "new-other"),
    )
    await add(
        "ir-altered",
        "The proof was made over another request.",
        "badPOP",
        "R54",
        popo_der=await popo(signed + b"\x00"),
    )
    await add(
        "ir-ra-verified",
        "raVerified from a device.",
        "notAuthorized",
        "R57",
        popo_der=RA_VERIFIED_POPO_DER,
    )
    await add(
        "ir-no-key",
        "No publicKey.",
        "badCertTemplate",
        "R60",
        asked=template(spki_der=None),
        popo_der=b"",
    )
    await add(
        "ir-weak-key", "An RSA key of 1024 bits.", "badCertTemplate", "R61", key="new-rsa1024"
    )
    challenge = asn1.tlv(0xA2, asn1.tlv(0x81, b"\x01"))
    await add(
        "ir-challenge-pop",
        "Possession is to be proved by a challenge.",
        "badPOP",
        "R72",
        popo_der=challenge,
    )
    input_der = popo_signing_key_input(
        directory_name(member("device").certificate.subject_der), spki("new-other")
    )
    await add(
        "ir-other-pop-input",
        "POPOSigningKeyInput is about another key.",
        "badPOP",
        "R56",
        asked=template(subject=None),
        popo_der=await popo(input_der, input_der=input_der),
    )
    authority = extension(OID.basicConstraints, bytes.fromhex("30030101ff"), critical=True)
    await add(
        "ir-ca-certificate",
        "A CA certificate is asked for.",
        "notAuthorized",
        "R63",
        asked=template(extensions=(authority,)),
    )
    role = extension(OID.extKeyUsage, asn1.tlv(0x30, asn1.oid_der(OID.cmcRA)))
    await add(
        "ir-ra-certificate",
        "An RA's certificate is asked for.",
        "notAuthorized",
        "R63",
        asked=template(extensions=(role,)),
    )
    second = asn1.tlv(0x30, asn1.tlv(0x30, asn1.oid_der(OID.regInfoCertReq), signed))
    await add(
        "ir-second-template",
        "A second CertRequest in regInfo.",
        "badCertTemplate",
        "RFC 4211 7.2",
        reg_info_der=second,
    )


# --- what is no DER, or no PKIMessage -----------------------------------------------------------------------------


async def _malformed(book: Catalogue) -> None:
    good = book.octets["ir"]
    tree = parse(good)
    content = good[4:]

    def add(name: str, what: str, der: bytes) -> None:
        verdict = UNREADABLE if name in _WITHOUT_IDS else refused("badDataFormat", "R1")
        book.add(f"malformed-{name}", what, verdict, der, 1)

    def edit(name: str, what: str, change: Any) -> None:
        copy = tree.copy()
        change(copy)
        add(name, what, copy.encode())

    def put(tag: int, octets: bytes, *path: int) -> Any:
        def change(node: Node) -> None:
            node.at(*path[:-1]).content[path[-1]] = Node(bytes((tag,)), octets)

        return change

    def insert(octets: bytes, *path: int) -> Any:
        return lambda node: node.at(*path[:-1]).content.insert(path[-1], parse(octets))

    add("empty", "No octets at all.", b"")
    add("null", "A NULL.", b"\x05\x00")
    add("empty-sequence", "An empty SEQUENCE.", b"\x30\x00")
    add("text", "Text of a web request.", b"GET / HTTP/1.1\r\n\r\n")
    add("trailing", "One octet more than the message.", good + b"\x00")
    add("two-messages", "Two messages one after the other.", good + good)
    add("truncated", "The last octet is missing.", good[:-1])
    add("head-only", "Tag and length, and nothing more.", good[:4])
    add("indefinite", "Indefinite length (BER).", b"\x30\x80" + content + b"\x00\x00")
    add(
        "long-length",
        "The outer length in one octet more than it needs.",
        b"\x30\x83\x00" + good[2:4] + content,
    )
    add("length-of-everything", "A length of 4294967295.", b"\x30\x84\xff\xff\xff\xff" + content)
    add("length-of-126-octets", "A length in 126 octets.", b"\x30\xfe" + b"\xff" * 126)
    add("set", "SET instead of SEQUENCE.", b"\x31" + good[1:])
    add("primitive", "A SEQUENCE that is not constructed.", b"\x10" + good[1:])
    deep = b""
    for _ in range(4000):
        deep = asn1.tlv(0x30, deep)
    add("deep", "4000 SEQUENCEs inside each other.", deep)
    edit(
        "indefinite-header",
        "A header of indefinite length.",
        lambda node: _rehead(node.at(0), b"\x30\x80", b"\x00\x00"),
    )
    edit(
        "long-inner-length",
        "senderNonce with a length in two octets.",
        lambda node: _rehead(node.at(0, 7, 0), b"\x04\x81\x10"),
    )
    edit("version-padded", "pvno with a leading zero octet.", put(0x02, b"\x00\x02", 0, 0))
    edit("version-empty", "pvno without content.", put(0x02, b"", 0, 0))
    edit("version-huge", "pvno of 20001 bits.", put(0x02, b"\x01" + bytes(2500), 0, 0))
    edit("version-enumerated", "pvno as ENUMERATED.", put(0x0A, b"\x02", 0, 0))
    edit("time-utc", "messageTime as UTCTime.", put(0x17, b"260102030405Z", 0, 3, 0))
    edit(
        "time-offset",
        "messageTime with an offset from UTC.",
        put(0x18, b"20260102030405+0000", 0, 3, 0),
    )
    edit(
        "time-without-seconds", "messageTime without seconds.", put(0x18, b"202601020304Z", 0, 3, 0)
    )
    edit(
        "time-impossible",
        "messageTime on the 31st of February.",
        put(0x18, b"20260231030405Z", 0, 3, 0),
    )
    edit("transaction-integer", "transactionID as INTEGER.", put(0x02, b"\x05", 0, 6, 0))
    edit(
        "transaction-constructed",
        "transactionID as a constructed OCTET STRING (BER).",
        put(0x24, b"\x04\x01\x05", 0, 6, 0),
    )
    edit("transaction-implicit", "transactionID with an IMPLICIT tag.", put(0x84, bytes(16), 0, 6))
    edit(
        "field-twice",
        "senderNonce twice.",
        lambda node: node.at(0).content.insert(7, node.at(0, 7).copy()),
    )
    edit(
        "fields-swapped",
        "senderNonce before transactionID.",
        lambda node: node.at(0).content.insert(6, node.at(0).content.pop()),
    )
    edit(
        "unknown-field",
        "A header field with tag [9].",
        lambda node: node.at(0).content.append(parse(b"\xa9\x02\x05\x00")),
    )
    edit(
        "free-text-empty",
        "freeText without a text.",
        lambda node: node.at(0).content.append(parse(b"\xa7\x02\x30\x00")),
    )
    edit(
        "free-text-printable",
        "freeText as PrintableString.",
        lambda node: node.at(0).content.append(parse(bytes.fromhex("a705300313016e"))),
    )
    edit(
        "free-text-not-utf8",
        "freeText that is no UTF-8.",
        lambda node: node.at(0).content.append(parse(bytes.fromhex("a70530030c01ff"))),
    )
    edit(
        "general-info-empty",
        "generalInfo without an entry.",
        lambda node: node.at(0).content.append(parse(b"\xa8\x02\x30\x00")),
    )
    edit(
        "general-info-no-type",
        "generalInfo with a value but no type.",
        lambda node: node.at(0).content.append(
            parse(bytes.fromhex("a80630043002 0500".replace(" ", "")))
        ),
    )
    edit(
        "oid-padded",
        "An OBJECT IDENTIFIER with a padded arc.",
        lambda node: node.at(0).content.append(parse(bytes.fromhex("a8093007300506032a8003"))),
    )
    edit("header-missing", "No header.", lambda node: node.content.pop(0))
    edit(
        "body-27",
        "A body with tag [27], which does not exist.",
        lambda node: _retag(node.at(1), 0xBB),
    )
    edit(
        "body-primitive",
        "A body whose tag is not constructed.",
        lambda node: _retag(node.at(1), 0x80),
    )
    edit(
        "body-application",
        "A body with a tag of class APPLICATION.",
        lambda node: _retag(node.at(1), 0x60),
    )
    add(
        "body-long-tag",
        "A body whose tag has two octets.",
        asn1.tlv(0x30, tree.at(0).encode(), b"\xbf\x1f\x00"),
    )
    edit(
        "protection-unused-bits", "protection with three unused bits.", put(0x03, b"\x03\xf8", 2, 0)
    )
    edit("protection-octets", "protection as OCTET STRING.", put(0x04, bytes(64), 2, 0))
    edit("protection-bad-bits", "protection with eight unused bits.", put(0x03, b"\x08\x00", 2, 0))
    edit("certificates-empty", "extraCerts without a certificate.", put(0x30, b"", 3, 0))
    edit(
        "certificates-before-protection",
        "extraCerts before protection.",
        lambda node: node.content.append(node.content.pop(2)),
    )


def _rehead(node: Node, head: bytes, tail: bytes = b"") -> None:
    """Put other octets in the place of an element's tag and length."""
    octets = node.encode()
    size = 2 if octets[1] < 0x80 else 2 + (octets[1] & 0x7F)
    node.head, node.parts, node.octets = head, None, octets[size:] + tail


def _retag(node: Node, tag: int) -> None:
    node.tag = bytes((tag,))


async def _malformed_bodies(book: Catalogue) -> None:
    """Bodies that do not conform, under a good signature."""
    tree = parse(book.octets["ir"])
    request = (1, 0, 0)

    async def add(
        name: str,
        what: str,
        change: Any,
        *,
        proof: bool = True,
        fail_info: str = "badDataFormat",
        rule: str = "R1",
    ) -> None:
        copy = tree.copy()
        change(copy)
        if proof:
            # As good as it can be, so that it is not what is refused.
            copy.at(*request, 1).parts = parse(await popo(copy.at(*request, 0).encode())).parts
        der = await Pen(f"malformed-{name}").signed(copy.at(1).encode())
        book.add(f"malformed-{name}", what, refused(fail_info, rule, "ip"), der, 1)

    def number(octets: bytes) -> Any:
        return lambda node: setattr(node.at(*request, 0, 0), "octets", octets)

    await add("id-padded", "certReqId with a leading zero octet.", number(b"\x00\x00"))
    await add("id-huge", "certReqId of 20001 bits.", number(b"\x01" + bytes(2500)))
    await add(
        "body-trailing",
        "One more element behind CertReqMessages.",
        lambda node: node.at(1).content.append(parse(b"\x05\x00")),
    )
    await add(
        "request-trailing",
        "One more element at the end of a CertRequest.",
        lambda node: node.at(*request, 0).content.append(parse(b"\x05\x00")),
    )
    await add(
        "controls-empty",
        "controls without a control.",
        lambda node: node.at(*request, 0).content.append(parse(b"\x30\x00")),
        fail_info="badCertTemplate",
    )
    await add(
        "subject-implicit",
        "subject with an IMPLICIT tag.",
        lambda node: _implicit(node.at(*request, 0, 1)),
        fail_info="badCertTemplate",
        rule="RFC 5280 4.1.2.4",
    )
    await add(
        "popo-unknown",
        "ProofOfPossession with tag [4].",
        lambda node: _retag(node.at(*request, 1), 0xA4),
        fail_info="badPOP",
    )
    await add(
        "popo-twice",
        "Two proofs of possession.",
        lambda node: node.at(*request).content.append(node.at(*request, 1).copy()),
        fail_info="badPOP",
    )
    await add(
        "validity-empty",
        "validity with neither of its times.",
        lambda node: node.at(*request, 0, 1).content.insert(0, parse(b"\xa4\x00")),
        fail_info="badCertTemplate",
        rule="RFC 4211 5",
    )
    await add(
        "extensions-empty",
        "extensions without an extension.",
        lambda node: node.at(*request, 0, 1).content.append(parse(b"\xa9\x00")),
        fail_info="badCertTemplate",
    )
    await add(
        "body-octets",
        "An OCTET STRING where CertReqMessages belongs.",
        lambda node: node.at(1).content.__setitem__(0, Node(b"\x04", b"\x05\x00")),
        proof=False,
    )
    usage = asn1.tlv(
        0x30,
        asn1.oid_der(OID.keyUsage),
        b"\x01\x01\x01",
        asn1.tlv(0x04, b"\x03\x02\x07\x80"),
    )
    extensions = asn1.tlv(0xA9, usage)
    await add(
        "boolean",
        "critical as 01, which is TRUE in BER only.",
        lambda node: node.at(*request, 0, 1).content.append(parse(extensions)),
        fail_info="badCertTemplate",
    )
    default = extensions.replace(b"\x01\x01\x01", b"\x01\x01\x00")
    await add(
        "default",
        "critical FALSE written out, which DER forbids.",
        lambda node: node.at(*request, 0, 1).content.append(parse(default)),
        fail_info="badCertTemplate",
    )
    pen = Pen("malformed-pkcs10")
    der = await pen.signed(body(BodyType.p10cr, b"\x30\x00"))
    book.add(pen.name, "An empty PKCS#10.", refused("badDataFormat", "R1", "cp"), der, 1)
    pen = Pen("malformed-genm")
    der = await pen.signed(body(BodyType.genm, bytes.fromhex("30023000")), "enb")
    book.add(pen.name, "genm with an entry without a type.", refused("badDataFormat", "R1"), der, 1)
    own = member("enb").certificate
    named = CertTemplate(issuer_der=own.issuer_der, serial_number=own.serial_number)
    details = parse(rev_req_body(RevDetails(named)))
    details.at(0, 0).content.append(parse(b"\x30\x00"))
    book.add(
        "malformed-entry-details-empty",
        "rr with crlEntryDetails that hold nothing.",
        refused("badDataFormat", "R1", "rp"),
        await Pen("malformed-entry-details-empty").signed(details.encode(), "enb"),
        1,
    )
    status = asn1.tlv(0x30, asn1.tlv(0x30, b"\x02\x01\x00"))
    book.add(
        "rp-crls-empty",
        "The CA answers an rr with crls that hold no CRL.",
        refused("systemFailure", "R1"),
        await Pen("rp-crls-empty").answer(
            book.octets["rr"], body(BodyType.rp, asn1.tlv(0x30, status, b"\xa1\x02\x30\x00"))
        ),
        1,
        posted="rr",
    )
    pen = Pen("malformed-rr")
    der = await pen.signed(body(BodyType.rr, b"\x30\x00"), "enb")
    book.add(pen.name, "rr without RevDetails.", refused("badRequest", "R131", "rp"), der, 131)


def _implicit(template_node: Node) -> None:
    subject = template_node.at(0)
    template_node.content[0] = Node(b"\xa5", parts=subject.at(0).content)
