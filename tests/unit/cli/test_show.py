"""What `ra-gateway show` says of a CMP message, and of what is none."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from ra_gateway.cli.asn1_text import Branch, add_cut_dump, add_dump, lines_of
from ra_gateway.cli.show import CannotShow, describe, described, read_message
from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import digest
from ra_gateway.cmp.bodies import CertStatus, PKIStatusInfo, cert_confirm_body, error_body
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.messages import ANYONE, PKIMessage, body
from ra_gateway.cmp.names import directory_name, from_rfc4514
from ra_gateway.errors import PKIFailureInfo
from tests.support import crls, pki
from tests.support.commandline import run, succeeded
from tests.support.dialogue import NOW, bare_message, messages


def text_of(der: bytes, *, oracle: bool = False) -> str:
    """Return what is printed on a terminal without colours that is wide enough."""
    console = Console(file=StringIO(), width=400, color_system=None)
    console.print(describe(der, oracle=oracle))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_certificate_that_cannot_be_read() -> None:
    """A time without its Z spoils a certificate: it is dumped."""
    der = pki.make_root("Rare").der
    spoilt = der.replace(b"200101000000Z", b"2001010000000")
    assert spoilt != der
    shown = text_of(bare_message(body(BodyType.cann, spoilt)))
    assert "dump of its ASN.1" in shown
    assert 'UTCTime "2001010000000"' in shown


@pytest.fixture
async def made(vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI) -> dict[str, bytes]:
    return await messages(vendor_pki, operator_pki)


async def test_every_message_is_shown(made: dict[str, bytes]) -> None:
    """Type, header fields and body of whatever this project makes, without falling back to a dump."""
    for name, der in made.items():
        shown = text_of(der)
        parsed = PKIMessage.from_der(der)
        assert parsed.body_type.name in shown
        assert (parsed.header.transaction_id or b"").hex() in shown
        assert (parsed.header.sender_nonce or b"").hex() in shown
        assert "note:" not in shown, name


async def test_request_in_words(made: dict[str, bytes]) -> None:
    """An ir tells who asks for what, and how possession is proved."""
    shown = text_of(made["ir"])
    for line in (
        "PKIMessage ir (initialization request)",
        "sender: CN=SN-000001,O=ACME Radio",
        "recipient: NULL-DN",
        "messageTime: 2030-01-01 12:00:00 UTC",
        "protectionAlg: ecdsa-sha256",
        "implicitConfirm (1.3.6.1.5.5.7.4.13)",
        "certProfile (1.3.6.1.5.5.7.4.21)",
        '"eNB"',
        "certReqId: 0",
        "subject: CN=enb1.example.net,O=Example Operator",
        "publicKey: EC P-256",
        "subjectAltName (2.5.29.17): dns:enb1.example.net, ip:192.0.2.1",
        "popo signature",
        "extraCerts: 2 certificates",
        "validity: 2020-01-01 00:00:00 UTC to 2049-12-31 23:59:59 UTC",
    ):
        assert line in shown
    assert "poposkInput" not in shown
    assert "poposkInput" in text_of(made["ir without subject"])
    renewal = text_of(made["kur of kur"])
    assert "oldCertID (1.3.6.1.5.5.7.5.1.5)" in renewal


async def test_answers_in_words(made: dict[str, bytes]) -> None:
    """Certificates are summarised with their fingerprint, statuses and failures named."""
    shown = text_of(made["ip"])
    (certificate,) = (line for line in shown.splitlines() if "certOrEncCert certificate:" in line)
    assert "CN=enb1.example.net,O=Example Operator" in certificate
    assert "status: accepted (0)" in shown
    assert "caPubs" in shown
    assert "2030-01-01 12:00:00 UTC" in shown
    for der in PKIMessage.from_der(made["ip"]).extra_certs:
        assert digest("sha256", der).hex() in shown
    refused = text_of(made["ip refused"])
    assert "status: rejection (2)" in refused
    assert "failInfo: badPOP" in refused
    assert "Possession of the private key was not proved." in refused
    assert "failInfo: badDataFormat" in text_of(made["error"])
    assert "protection: none" in text_of(made["error unprotected"])
    assert "content: NULL" in text_of(made["pkiconf"])
    nested = text_of(made["nested"])
    assert "PKIMessage ir" in nested
    assert "PKIMessage certConf" in nested


@pytest.mark.parametrize("body_type", BodyType)
def test_body_of_every_type_however_broken(body_type: BodyType) -> None:
    """Content that is not of the body's type is dumped as ASN.1, with a note."""
    shown = text_of(bare_message(body(body_type, bytes.fromhex("300a020107040501ff02030400"))))
    assert body_type.name in shown
    assert "note:" in shown
    assert "ff0203" in shown


def _krp(certificate: bytes) -> bytes:
    return asn1.tlv(0x30, bytes.fromhex("3003020100"), asn1.tlv(0xA0, certificate))


def _rann(certificate: bytes) -> bytes:
    at = asn1.tlv(0x18, b"20300101000000Z")
    certificate_id = asn1.tlv(0x30, ANYONE, b"\x02\x01\x05")
    return asn1.tlv(0x30, b"\x02\x01\x05", certificate_id, at, at)


RARE: dict[BodyType, tuple[Callable[[bytes], bytes], str]] = {
    BodyType.popdecc: (lambda _: bytes.fromhex("30083006040101040102"), "challenge: 02"),
    BodyType.popdecr: (lambda _: bytes.fromhex("3003020107"), "[0]: 7"),
    BodyType.krp: (_krp, "newSigCert: CN=Rare"),
    BodyType.ckuann: (lambda der: asn1.tlv(0x30, der, der, der), "oldWithNew: CN=Rare"),
    BodyType.cann: (lambda der: der, "content: CN=Rare"),
    BodyType.rann: (_rann, "willBeRevokedAt: 2030-01-01 00:00:00 UTC"),
    BodyType.crlann: (lambda _: asn1.tlv(0x30, _crl()), "revoked: 1"),
    BodyType.genp: (
        lambda der: asn1.tlv(
            0x30,
            asn1.tlv(0x30, asn1.oid_der("1.3.6.1.5.5.7.4.17"), asn1.tlv(0x30, der)),
        ),
        "[0]: CN=Rare",
    ),
}


def _crl() -> bytes:
    root = pki.make_root("Rare")
    revoked = (
        x509.RevokedCertificateBuilder().serial_number(5).revocation_date(pki.VALID_FROM).build()
    )
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(root.certificate.subject)
        .last_update(pki.VALID_FROM)
        .next_update(pki.VALID_UNTIL)
        .add_revoked_certificate(revoked)
        .sign(root.private_key, hashes.SHA256())
    )
    return crl.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("body_type", RARE, ids=lambda body_type: body_type.name)
def test_body_types_the_gateway_never_handles(body_type: BodyType) -> None:
    """They are shown all the same."""
    make, line = RARE[body_type]
    shown = text_of(bare_message(body(body_type, make(pki.make_root("Rare").der))))
    assert line in shown
    assert "note:" not in shown


def test_newer_syntax_is_shown() -> None:
    """hashAlg of certConf, which is not in RFC 4210, so that the second decoder cannot read it."""
    identifier = asn1.decode(
        structures.AlgorithmIdentifier, asn1.tlv(0x30, asn1.oid_der("2.16.840.1.101.3.4.2.3"))
    )
    rejection = PKIStatusInfo(PKIStatus.rejection, ("no",), (PKIFailureInfo.incorrectData,))
    status = CertStatus(b"\x07" * 64, 0, rejection, identifier)
    for oracle in (False, True):
        shown = text_of(bare_message(cert_confirm_body(status), pvno=3), oracle=oracle)
        assert "hashAlg: sha512 (2.16.840.1.101.3.4.2.3)" in shown
        assert "failInfo: incorrectData" in shown


async def test_second_decoder(made: dict[str, bytes]) -> None:
    """`--oracle` shows what pyasn1 reads of everything that RFC 4210 has."""
    for name, der in made.items():
        shown = text_of(der, oracle=True)
        assert "shown as pyasn1-modules" in shown, name
        assert "PKIHeader:" in shown, name
        assert (PKIMessage.from_der(der).header.transaction_id or b"").hex() in shown


def test_second_decoder_reads_what_ours_refuses() -> None:
    """A length that is not the shortest is no DER: the text says what is wrong, and shows the content all the same."""
    status = asn1.tlv(0x30, bytes.fromhex("308103020102"))
    shown = text_of(bare_message(body(BodyType.error, status)))
    assert "the gateway's decoder refuses this: not a ErrorMsgContent" in shown
    assert "status=rejection" in shown


def test_enveloped_private_key_is_not_shown() -> None:
    """A centrally generated key, though encrypted, is named and left out."""
    secret = b"\xde\xad\xbe\xef" * 8
    pair = asn1.tlv(
        0x30,
        asn1.tlv(0xA0, pki.make_root("Rare").der),
        asn1.tlv(0xA0, asn1.tlv(0xA0, b"\x02\x01\x02", asn1.tlv(0x04, secret))),
    )
    response = asn1.tlv(0x30, b"\x02\x01\x00", bytes.fromhex("3003020100"), pair)
    content = asn1.tlv(0x30, asn1.tlv(0x30, response))
    shown = text_of(bare_message(body(BodyType.ip, content)))
    assert "CN=Rare" in shown
    assert "not shown" in shown
    assert secret.hex() not in shown


@pytest.mark.requirement(159)
def test_secrets_are_not_shown() -> None:
    """A one-time registration token in a request is a password, in one that is no DER as well."""
    token = asn1.tlv(0x30, asn1.oid_der("1.3.6.1.5.5.7.5.1.1"), asn1.tlv(0x0C, b"hunter2"))
    template = asn1.tlv(0x30, asn1.tlv(0xA5, b"\x30\x00"))
    request = asn1.tlv(0x30, b"\x02\x01\x00", template, asn1.tlv(0x30, token))
    der = bare_message(body(BodyType.ir, asn1.tlv(0x30, asn1.tlv(0x30, request))))
    assert "regToken" in text_of(der)
    broken = asn1.tlv(0x30, bytes.fromhex("3081") + asn1.tlv(0x30, request)[1:])
    spoilt = bare_message(body(BodyType.ir, broken))
    for shown in (text_of(der), text_of(der, oracle=True), text_of(spoilt)):
        assert "not shown" in shown
        assert "hunter2" not in shown
        assert b"hunter2".hex() not in shown


def test_texts_of_strangers_do_not_drive_the_terminal() -> None:
    """Escape sequences and markup in a statusString are shown, not obeyed."""
    evil = PKIStatusInfo(PKIStatus.rejection, ("[red]\x1b[2J\u202egone",))
    shown = text_of(bare_message(error_body(evil)))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "[red]\\x1b[2J" in shown


@pytest.mark.parametrize(
    "form",
    [
        lambda der: der,
        base64.b64encode,
        base64.encodebytes,
        lambda der: b"-----BEGIN CMP-----\n" + base64.encodebytes(der) + b"-----END CMP-----\n",
        lambda der: der.hex().encode(),
        lambda der: b"0x" + der.hex().upper().encode() + b"\n",
        lambda der: der.hex(":").encode(),
        lambda der: der.hex(" ", 2).encode() + b"\r\n",
    ],
    ids=["der", "base64", "lines", "pem", "hex", "0x", "colons", "blanks"],
)
def test_forms_of_input(form: Callable[[bytes], bytes]) -> None:
    """DER, base64 and hex in their usual looks are all read."""
    der = bare_message(error_body(PKIStatusInfo(PKIStatus.rejection)), message_time=NOW)
    assert read_message(form(der)) == der


@pytest.mark.parametrize(
    "data, why",
    [
        (b" \n", "empty"),
        (b"Hello, world!", "neither PEM nor base64 nor hex"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "private key"),
    ],
)
def test_input_that_is_no_message(data: bytes, why: str) -> None:
    """One sentence says what it is, another what to give."""
    with pytest.raises(CannotShow, match=why):
        read_message(data)


@pytest.mark.parametrize("octets", [b"", b"\x00", b"\x30\x00", bytes.fromhex("300630003000a000")])
def test_octets_that_are_no_message(octets: bytes) -> None:
    """They are refused with a sentence."""
    with pytest.raises(CannotShow):
        describe(octets)


def test_private_key_in_der_is_not_echoed(operator_pki: pki.OperatorPKI) -> None:
    """A key given by mistake does not end up on the screen."""
    der = operator_pki.ra.private_key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with pytest.raises(CannotShow) as e:
        describe(read_message(der))
    assert der.hex()[40:80] not in str(e.value)


def test_header_that_does_not_conform() -> None:
    """A message with a strange header is dumped rather than refused."""
    der = asn1.tlv(0x30, bytes.fromhex("3003020102"), error_body(PKIStatusInfo(PKIStatus.waiting)))
    shown = text_of(der)
    assert "dump of its ASN.1" in shown
    assert "status: waiting (3)" in shown


def test_sender_that_is_no_directory_name() -> None:
    """Other GeneralNames are shown, too."""
    der = bare_message(
        error_body(PKIStatusInfo(PKIStatus.waiting)),
        sender_der=asn1.tlv(0x82, b"ra.example.net"),
        recipient_der=directory_name(b"\x30\x00"),
    )
    assert "sender: dns:ra.example.net" in text_of(der)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_changed_messages_never_break_it(made: dict[str, bytes], data: st.DataObject) -> None:
    """Whatever octets are changed, it shows something or says that it cannot."""
    der = bytearray(made[data.draw(st.sampled_from(sorted(made)))])
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    with suppress(CannotShow):
        text_of(bytes(der))


# --- lines and JSON -----------------------------------------------------------------------------------------------


async def test_no_line_is_cut_or_folded(made: dict[str, bytes]) -> None:
    """What is piped has each line as long as it is, in either set of characters, as the tree has it."""
    for name, der in made.items():
        lines = [line.plain for line in lines_of(describe(der))]
        assert lines == text_of(der).rstrip("\n").split("\n"), name
        plain = [line.plain for line in lines_of(describe(der), ascii_only=True)]
        assert list(map(len, plain)) == list(map(len, lines))
    der = bare_message(error_body(PKIStatusInfo(PKIStatus.rejection, (("x" * 600),))))
    assert any("x" * 600 in line.plain for line in lines_of(describe(der)))
    oracle = [line.plain for line in lines_of(describe(made["ir"], oracle=True))]
    assert any(line.endswith("pvno=cmp2021") or "pvno=" in line for line in oracle)


def test_the_command_prints_what_there_is_whatever_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operator_pki: pki.OperatorPKI
) -> None:
    """Forty columns, or a pipe: fingerprints and texts are whole, of a message in octets and of one in hex."""
    monkeypatch.setenv("COLUMNS", "40")
    der = bare_message(body(BodyType.cann, operator_pki.root.der))
    file = tmp_path / "cann.txt"
    file.write_text(der.hex("\n", 16))
    told = succeeded("show", file)
    assert f"SHA-256: {digest('sha256', operator_pki.root.der).hex()}\n" in told
    members = json.loads(succeeded("show", "--json", file))["members"]
    assert [item["name"] for item in members] == ["header", "body", "protection"]
    long = bare_message(error_body(PKIStatusInfo(PKIStatus.rejection, ("x" * 600,))))
    file.write_bytes(long)
    told = succeeded("show", file)
    assert "x" * 600 in told
    assert told.splitlines() == [line.plain for line in lines_of(describe(long))]


def test_what_is_no_message_is_named(tmp_path: Path, operator_pki: pki.OperatorPKI) -> None:
    """A certificate, a PKCS #10 or a CRL in the place of a message is shown as what it is."""
    key = operator_pki.ra.private_key
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "enb-1")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    der = serialization.Encoding.DER
    for octets, told in (
        (operator_pki.root.der, ("certificate: ", "SHA-256: ")),
        (csr.public_bytes(der), ("PKCS #10", "subject: CN=enb-1")),
        (crls.make_crl(operator_pki.root, this_update=NOW), ("CRL: ", "thisUpdate: ")),
    ):
        shown = text_of(octets)
        assert shown.startswith(f"no CMP message: {len(octets)} octets\n")
        assert [text for text in told if text not in shown] == []
    both = tmp_path / "both.pem"
    pem = operator_pki.root.certificate.public_bytes(serialization.Encoding.PEM)
    both.write_bytes(2 * pem)
    assert len(json.loads(succeeded("show", "--json", both))) == 2


async def test_what_there_is_of_a_message_is_shown(
    tmp_path: Path, made: dict[str, bytes], operator_pki: pki.OperatorPKI
) -> None:
    """Wherever it is cut off: its header and type as soon as they are there, the certificates before the cut."""
    for name in ("ir", "ip"):
        der = made[name]
        header = len(PKIMessage.from_der(der).header_der)
        for length in {*range(1, 12), *range(12, len(der), 97), len(der) - 1}:
            try:
                shown = text_of(der[:length])
            except CannotShow:
                assert length < 12
                continue
            assert f"cut off: {length} of {len(der)} octets" in shown
            if length > header + 10:
                assert shown.startswith(f"PKIMessage: {name} (")
                assert "transactionID: " in shown
    certificates = len(PKIMessage.from_der(made["ir"]).extra_certs)
    assert text_of(made["ir"][:-1]).count("SHA-256") == certificates - 1 > 0
    file = tmp_path / "cut.der"
    file.write_bytes(made["ir"][:300])
    ended = run("show", file)
    assert (ended.exit_code, ended.stdout.startswith("PKIMessage: ir")) == (1, True)
    assert ended.stderr == (
        f"The message is cut off: 300 of its {len(made['ir'])} octets are there.\n"
    )
    key = operator_pki.ra.private_key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for length in range(1, len(key)):
        with pytest.raises(CannotShow):
            describe(key[:length])


async def test_several_messages_are_shown(tmp_path: Path, made: dict[str, bytes]) -> None:
    """Of one file and of several, each with where it is; JSON has a list of them."""
    one, two = tmp_path / "one.der", tmp_path / "two.der"
    one.write_bytes(made["ir"] + made["ip"])
    two.write_bytes(made["certConf"])
    told = succeeded("show", one, two)
    places = [f"{one}, message 1:", f"{one}, message 2:", f"{two}, message 1:"]
    assert [
        line for line in told.splitlines() if line.endswith(":") and "message" in line
    ] == places
    values = [
        item["value"].split()[0] for item in json.loads(succeeded("show", "--json", one, two))
    ]
    assert values == ["ir", "ip", "certConf"]
    two.write_text("Hello, world!")
    ended = run("show", one, two)
    assert (ended.exit_code, ended.stdout.count("PKIMessage")) == (1, 2)
    assert ended.stderr.startswith(f"{two}: The file is text")


def members_of(shown: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [item for item in shown.get("members", []) if item["name"] == name]


async def test_json_is_the_same_in_full(made: dict[str, bytes]) -> None:
    """Name, value and members, in the order of the message; octets are not shortened, and secrets not shown."""
    for name, der in made.items():
        shown = described(der)
        assert shown["name"] == "PKIMessage", name
        assert "…" not in json.dumps(shown, ensure_ascii=False), name
        ((header,), (content,)) = members_of(shown, "header"), members_of(shown, "body")
        (transaction,) = members_of(header, "transactionID")
        parsed = PKIMessage.from_der(der)
        assert transaction["value"] == (parsed.header.transaction_id or b"").hex()
        assert content["value"].startswith(parsed.body_type.name)
        for item, certificate in zip(
            (members_of(shown, "extraCerts") or [{}])[0].get("members", []),
            parsed.extra_certs,
            strict=True,
        ):
            assert members_of(item, "DER")[0]["value"] == certificate.hex()
    assert described(made["ir"]) == described(made["ir"])
    text = {"value": "\u202e\x1b"}
    shown = described(
        bare_message(error_body(PKIStatusInfo(PKIStatus.rejection, (text["value"],))))
    )
    assert "\x1b" not in json.dumps(shown, ensure_ascii=False)


def test_what_is_empty_is_called_empty() -> None:
    """A validity without times says nothing, and one that is absent is not shown."""
    subject = asn1.tlv(0xA5, from_rfc4514("CN=x"))
    for validity, shown in ((b"\xa4\x00", True), (b"", False)):
        template = asn1.tlv(0x30, validity, subject)
        request = asn1.tlv(0x30, asn1.tlv(0x30, asn1.tlv(0x30, b"\x02\x01\x00", template)))
        text = text_of(bare_message(body(BodyType.ir, request)))
        assert ("validity: OptionalValidity (empty)" in text) is shown
        assert ("validity" in text) is shown


def test_begin_lines_without_an_end_are_read_once() -> None:
    """From each BEGIN to the end of the file, 200,000 times, would take hours."""
    with pytest.raises(CannotShow):
        read_message(b"-----BEGIN X-----\n" * 200_000)
    block = b"-----BEGIN X-----\nMAA=\n-----END X-----\n"
    assert read_message(b"text\n" + block * 2) == b"0\x00"


def test_a_dump_of_very_many_elements_ends() -> None:
    """What is beyond the bound is hexadecimal, at whatever depth it is."""
    inner = asn1.tlv(0x30, b"\x05\x00" * 300)
    for der in (b"\x05\x00" * 50_000, inner * 100):
        tree = Branch("top", "")
        add_dump(tree, "content", der)
        lines = [line.plain for line in lines_of(tree)]
        assert 10_000 < len(lines) < 10_200
        assert "the rest is not taken apart: " in lines[-1]


def test_what_there_is_of_nested_elements_is_shown() -> None:
    """Whole ones on the way to the cut, however deep they stand, and the octets at it."""
    inner = asn1.tlv(0x30, asn1.tlv(0x02, b"\x07"), asn1.tlv(0x04, b"\xaa\xbb\xcc"))
    der = asn1.tlv(0x30, asn1.tlv(0x02, b"\x05"), inner)
    tree = Branch("top", "")
    add_cut_dump(tree, "part", der[:-1])
    assert [line.plain for line in lines_of(tree)] == [
        "top",
        "└── part: SEQUENCE, cut off",
        "    ├── ·: INTEGER 5",
        "    └── ·: SEQUENCE, cut off",
        "        ├── ·: INTEGER 7",
        "        └── ·: 0403aabb, cut off",
    ]
