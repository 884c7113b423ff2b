"""Factory certificates that are BER and not DER: told for what they are, and taken where the operator says so."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from ra_gateway.app.trust import anchors, vendor_domains
from ra_gateway.cmp import ber
from ra_gateway.cmp.asn1 import oid_der, tlv
from ra_gateway.cmp.bodies import PKICONF_BODY, cert_rep_message
from ra_gateway.cmp.certificates import Certificate, load_certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import general_names
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.quirks import Quirk
from ra_gateway.config.tables import VendorConfig
from ra_gateway.errors import ConfigError, MalformedMessage, SignerNotTrusted
from ra_gateway.keys import KeySigner, load_certificates
from tests.support import pki, requests
from tests.support.answers import fail_names
from tests.support.ber import CA_SHAPES, LATE_SHAPES, SHAPES, Shape, extension, respelt
from tests.support.credentials import cmp_certificate
from tests.support.der import Node
from tests.support.harness import World

QUIRK = frozenset({Quirk.ber_certificates})


def made(world: World, vendor: pki.VendorPKI, *shapes: Shape, **how: Any) -> tuple[Any, Credential]:
    """A key and a credential whose certificate has a shape."""
    issued = vendor.device(
        "ENB-1",
        basic_constraints=x509.BasicConstraints(ca=False, path_length=None),
        eku=[OID.clientAuth],
        san=["dns:enb-1.acme.example"],
    )
    der = respelt(pki.certificate_der(issued.certificate), vendor.sub, *shapes, **how)
    chain = (cmp_certificate(vendor.sub.certificate),)
    certificate = load_certificate(der, loosely=True)
    return issued.private_key, Credential(certificate, chain, KeySigner(issued.private_key))


def world_of(vendor: pki.VendorPKI, operator: pki.OperatorPKI, **domain: Any) -> World:
    return World.make(vendor, operator, vendor_domain=domain)


async def confirmation(world: World, device: Credential, answer: PKIMessage) -> bytes:
    """The certConf for an answer."""
    header: dict[str, Any] = {
        "transaction_id": answer.header.transaction_id,
        "recip_nonce": answer.header.sender_nonce,
    }
    return await requests.message(world, device, requests.confirmation_body(answer, 0), **header)


@pytest.mark.requirement(1, 22, 34)
@pytest.mark.parametrize("name", SHAPES)
async def test_a_device_whose_certificate_is_not_der(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, tmp_path: Path, name: str
) -> None:
    """openssl reads it; with the quirk it enrols, confirms and renews, and without it the log says what is wrong."""
    shape, told = SHAPES[name]
    world = world_of(vendor_pki, operator_pki, quirks=QUIRK)
    key, device = made(world, vendor_pki, shape)
    path = tmp_path / "device.der"
    path.write_bytes(device.certificate.der)
    run = ["openssl", "x509", "-inform", "DER", "-in", str(path), "-noout", "-subject"]
    assert "ENB-1" in subprocess.run(run, check=True, capture_output=True, text=True).stdout
    der = await requests.request(world, device, key)
    answer = await world.ask(der)
    assert fail_names(answer) == [], world.events[-1].detail
    assert world.events[-1].quirks == (Quirk.ber_certificates,)
    confirmed = await world.ask(await confirmation(world, device, answer))
    assert confirmed.body_der == PKICONF_BODY, world.events[-1].detail
    (response,) = cert_rep_message(answer.body_content).responses
    issued = Certificate.from_der(response.certificate_der or b"")
    chain = (cmp_certificate(operator_pki.issuing.certificate),)
    renewing = Credential(issued, chain, KeySigner(key))
    kur = await requests.request(world, renewing, pki.make_key("p256"), body_type=BodyType.kur)
    assert fail_names(await world.ask(kur)) == [], world.events[-1].detail

    strict = world_of(vendor_pki, operator_pki)
    answer = await strict.ask(der)
    assert fail_names(answer)[0] in ("badMessageCheck", "signerNotTrusted", "badAlg")
    assert strict.ca.received == []
    detail = strict.events[-1].detail
    for part in ("CN=ENB-1", told):
        assert part in detail, detail


@pytest.mark.parametrize("name", LATE_SHAPES)
async def test_what_is_read_late_is_read_so_too(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, name: str
) -> None:
    """Names are looked at when they are compared; with the quirk they mean what their DER does."""
    world = world_of(vendor_pki, operator_pki, quirks=QUIRK)
    key, device = made(world, vendor_pki, LATE_SHAPES[name])
    assert device.certificate.not_der == ber.LENGTH
    assert "enb-1" in str(general_names(device.certificate.subject_alt_name_der or b""))
    answer = await world.ask(await requests.request(world, device, key))
    assert fail_names(answer) == [], world.events[-1].detail
    assert world.events[-1].quirks == (Quirk.ber_certificates,)


@pytest.mark.requirement(14, 16, 20)
async def test_what_is_signed_are_the_octets_that_came(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI
) -> None:
    """A certificate that another spelling was signed of is nobody's; and its identity is that of its own octets."""
    world = world_of(vendor_pki, operator_pki, quirks=QUIRK)
    shape, _ = SHAPES["cA FALSE written out"]
    key, device = made(world, vendor_pki, shape, signed_as_der=True)
    answer = await world.ask(await requests.request(world, device, key))
    assert fail_names(answer) == ["signerNotTrusted"]
    assert "was not signed by" in world.events[-1].detail
    certificate = device.certificate
    meant, faults = ber.as_der(certificate.der)
    assert faults == (ber.DEFAULT,)
    assert certificate.tbs_der in certificate.der
    assert certificate != Certificate.from_der(meant)
    assert certificate.id == Certificate.from_der(meant).id
    assert ber.as_der(meant) == (meant, ())


async def test_a_quirk_of_one_vendor_is_no_other_s(
    vendor_pki: pki.VendorPKI,
    foreign_vendor_pki: pki.VendorPKI,
    operator_pki: pki.OperatorPKI,
) -> None:
    """Where one vendor's certificates are read so, another vendor's are refused for what they are."""
    world = world_of(vendor_pki, operator_pki)
    (strict,) = world.endpoint.vendors
    anchors = (cmp_certificate(foreign_vendor_pki.root.certificate),)
    lax = replace(strict, name="lax", anchors=anchors, quirks=QUIRK)
    endpoint = replace(
        world.endpoint,
        vendors=(strict, lax),
        identities=dict.fromkeys(("acme", "lax"), world.endpoint.identities["acme"]),
    )
    world = replace(world, endpoint=endpoint, gateway=world.second_gateway(endpoint))
    shape, told = SHAPES["critical by 01"]
    key, device = made(world, foreign_vendor_pki, shape)
    assert fail_names(await world.ask(await requests.request(world, device, key))) == []
    key, device = made(world, vendor_pki, shape)
    answer = await world.ask(await requests.request(world, device, key))
    assert fail_names(answer) == ["signerNotTrusted"]
    assert "CN=ENB-1" in world.events[-1].detail
    assert told in world.events[-1].detail


# --- certificates in files ----------------------------------------------------------------------------------------


def write(path: Path, *ders: bytes) -> Path:
    path.write_text("".join(map(ssl.DER_cert_to_PEM_cert, ders)))
    return path


@pytest.mark.requirement(1, 21)
@pytest.mark.parametrize("name", CA_SHAPES)
@pytest.mark.parametrize("where", ["root", "sub"])
async def test_a_vendors_ca_that_is_not_der(
    vendor_pki: pki.VendorPKI,
    operator_pki: pki.OperatorPKI,
    tmp_path: Path,
    name: str,
    where: str,
) -> None:
    """It is told by file, subject and reason, and the key to set; with that, its devices enrol."""
    shape, told = CA_SHAPES[name]
    own = {"root": vendor_pki.root, "sub": vendor_pki.sub}
    ders = {item: pki.certificate_der(ca.certificate) for item, ca in own.items()}
    ders[where] = respelt(ders[where], vendor_pki.root, shape)
    table = VendorConfig(
        anchors_paths=(write(tmp_path / "root.pem", ders["root"]),),
        intermediates_paths=(write(tmp_path / "sub.pem", ders["sub"]),),
    )
    with pytest.raises(ConfigError) as caught:
        vendor_domains({"acme": table})
    (problem,) = caught.value.problems
    setting = {"root": "anchors_paths", "sub": "intermediates_paths"}[where]
    assert problem.path == f"vendors.acme.{setting}[0]"
    for part in (f"{where}.pem", "CN=ACME Radio", "encoded wrongly", told):
        assert part in problem.what
    assert "ber_certificates" in problem.todo

    table = table.model_copy(update={"quirks": (Quirk.ber_certificates,)})
    (domain,) = vendor_domains({"acme": table}).values()
    world = World.make(vendor_pki, operator_pki)
    endpoint = replace(world.endpoint, vendors=(domain,))
    world = replace(world, endpoint=endpoint, gateway=world.second_gateway(endpoint))
    issued = world.device()
    leaf = Credential(cmp_certificate(issued.certificate), (), KeySigner(issued.private_key))
    answer = await world.ask(await requests.request(world, leaf, pki.make_key("p256")))
    assert fail_names(answer) == [], world.events[-1].detail
    assert Quirk.ber_certificates in world.events[-1].quirks


def _no_key_usage(tbs: Node) -> None:
    node = extension(tbs, OID.keyUsage).at(-1)
    node.parts, node.octets = None, b"\x02\x01\x05"


def _no_constraints(tbs: Node) -> None:
    node = extension(tbs, OID.basicConstraints).at(-1)
    node.parts, node.octets = None, b"\x30\x02\x02\x00"


def _no_subject(tbs: Node) -> None:
    tbs.content[5] = Node(b"\x30", b"\x31\x02\x05\x00")


def _two_sets(tbs: Node) -> None:
    tbs.at(7, 0).content.append(extension(tbs, OID.keyUsage).copy())


@pytest.mark.parametrize("shape", [_no_key_usage, _no_constraints, _no_subject, _two_sets])
@pytest.mark.parametrize("loosely", [False, True])
def test_a_file_whose_certificate_is_broken_is_named(
    vendor_pki: pki.VendorPKI, tmp_path: Path, shape: Shape, loosely: bool
) -> None:
    """Which of its certificates it is, too; nothing of it ends a command without a word."""
    good = pki.certificate_der(vendor_pki.root.certificate)
    path = write(tmp_path / "acme.pem", good, respelt(good, vendor_pki.root, shape))
    with pytest.raises(ConfigError) as caught:
        load_certificates(path, "vendors.acme.anchors_paths[0]", loosely=loosely)
    (problem,) = caught.value.problems
    assert problem.path == "vendors.acme.anchors_paths[0]"
    assert problem.what.startswith(f"certificate 2 of {path} cannot be read: ")


@pytest.mark.parametrize(
    "text, told",
    [
        ("", "there is none in PEM"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n", "has no end"),
        ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----", "is damaged"),
    ],
)
def test_a_file_that_holds_no_certificate_says_what_it_holds(
    tmp_path: Path, text: str, told: str
) -> None:
    """Instead of "not a certificate in PEM, or broken"."""
    path = tmp_path / "acme.pem"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_certificates(path, "operator.anchors_paths[0]")


EXTENSION = tlv(
    0x30, oid_der(OID.keyUsage), tlv(0x04, tlv(0x30, *[b"\x05\x00"] * (ber.MAX_BER_ELEMENTS // 2)))
)
"""With half of the elements that a whole certificate may have."""


# --- what it costs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "octets, told",
    [
        (tlv(0x30, tlv(0x30, *[b"\x05\x00"] * 15_000)), "more than"),
        (b"\x30\x84\x00\x00\x00\x02" * 200 + b"\x05\x00", "do not fit"),
        (b"\x30\x80" * 100 + b"\x00\x00" * 100, "indefinite"),
        (tlv(0x30, *[EXTENSION] * 3), "more than"),
        (b"\x30", "do not fit"),
        (b"", "do not fit"),
        (b"\x30\x00\x30\x00", "do not fit"),
        (b"\x1f\x81\x01\x00", "do not fit"),
        (tlv(0x30, b"\x17\x0bxxxxxxxxxxx"), "a time that is none"),
        (tlv(0x30, b"\x17\x0b2513010000Z"), "a time that is none"),
        (tlv(0x30, b"\x18\x10" + b"00010101000000+1"), "a time that is none"),
        (tlv(0x30, b"\x18\x13" + b"00010101000000+0100"), "a time that is none"),
        (tlv(0x30, b"\x17\x0f2001010000+0100" * 5), "a time that is none"),
    ],
)
def test_what_is_no_certificate_is_given_up_early(octets: bytes, told: str) -> None:
    """After so many elements, and so many inside one another."""
    with pytest.raises(MalformedMessage, match=told):
        ber.as_der(octets)


def test_nesting_has_an_end() -> None:
    """Deeper than any certificate is refused, whatever is inside."""
    octets = b""
    for _ in range(40):
        octets = tlv(0x30, octets)
    with pytest.raises(MalformedMessage, match="nested too deep"):
        ber.as_der(octets)


def v1(der: bytes, root: pki.Authority) -> bytes:
    """A certificate as of version 1, signed by its root."""

    def change(tbs: Node) -> None:
        del tbs.content[7], tbs.content[0]

    return respelt(der, root, change)


@pytest.mark.requirement(21)
async def test_a_root_of_version_1_is_a_vendors_anchor(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, tmp_path: Path
) -> None:
    """By configuration (RFC 5280 6.1.1 d); a CA below it of that version is none, nor is what another key signed."""
    der = v1(pki.certificate_der(vendor_pki.root.certificate), vendor_pki.root)
    assert Certificate.from_der(der).version == 1
    table = VendorConfig(
        anchors_paths=(write(tmp_path / "root.pem", der),),
        intermediates_paths=(
            write(tmp_path / "sub.pem", pki.certificate_der(vendor_pki.sub.certificate)),
        ),
    )
    (domain,) = vendor_domains({"acme": table}).values()
    world = World.make(vendor_pki, operator_pki)
    endpoint = replace(world.endpoint, vendors=(domain,))
    world = replace(world, endpoint=endpoint, gateway=world.second_gateway(endpoint))
    issued = world.device()
    leaf = Credential(cmp_certificate(issued.certificate), (), KeySigner(issued.private_key))
    answer = await world.ask(await requests.request(world, leaf, pki.make_key("p256")))
    assert fail_names(answer) == [], world.events[-1].detail

    sub = v1(pki.certificate_der(vendor_pki.sub.certificate), vendor_pki.root)
    write(tmp_path / "sub.pem", sub)
    (domain,) = vendor_domains({"acme": table}).values()
    with pytest.raises(SignerNotTrusted, match="is not a CA"):
        domain.find_path(leaf.certificate, (), world.clock())
    for path, no_root in (
        ("sub.pem", sub),
        ("forged.pem", v1(der_of_v3(vendor_pki), vendor_pki.sub)),
    ):
        write(tmp_path / path, no_root)
        table = VendorConfig(anchors_paths=(tmp_path / path,))
        with pytest.raises(ConfigError, match="is not a root certificate"):
            vendor_domains({"acme": table})
    with pytest.raises(ConfigError, match="is not a root certificate"):
        anchors([write(tmp_path / "operator.pem", der)], "operator.anchors_paths")


def der_of_v3(vendor: pki.VendorPKI) -> bytes:
    return pki.certificate_der(vendor.root.certificate)


async def test_few_certificates_of_a_message_are_read_so(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as paths have; without the quirk one, for the log."""
    read: list[bytes] = []
    as_der = ber.as_der

    def counted(octets: bytes) -> Any:
        read.append(octets)
        return as_der(octets)

    monkeypatch.setattr(ber, "as_der", counted)
    shape, _ = SHAPES["critical by 01"]
    for quirks, most in ((QUIRK, 7), (frozenset(), 1)):
        world = world_of(vendor_pki, operator_pki, quirks=quirks)
        key, device = made(world, vendor_pki, shape)
        read.clear()
        extra_certs = [device.certificate.der[:-1] + bytes([item]) for item in range(12)]
        der = await requests.request(world, device, key, extra_certs=extra_certs)
        await world.ask(der)
        assert len(read) <= most
        assert read
