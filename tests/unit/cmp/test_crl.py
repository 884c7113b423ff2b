"""CRLs are decoded and checked as RFC 5280 5 and 6.3 want it; what is not processed is refused."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp import crl as crl_module
from ra_gateway.cmp.algorithms import AlgorithmPolicy
from ra_gateway.cmp.crl import (
    CRL,
    Scope,
    decode_crl,
    distribution_point_names,
    distribution_point_urls,
    open_crl,
    split_crls,
    verify_crl,
)
from ra_gateway.cmp.sealed import Seal
from ra_gateway.errors import CRLRefused
from tests.support.credentials import cmp_certificate
from tests.support.crls import make_crl
from tests.support.openssl import openssl_path
from tests.support.pki import Authority, KeyKind, make_key, make_root

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
URL = "http://crl.vendor.example/sub.crl"
POLICY = AlgorithmPolicy()
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def ca() -> Authority:
    """A root that signs CRLs."""
    return make_root("CRL Root")


def crl_of(ca: Authority, *revoked: int, **options: Any) -> bytes:
    options.setdefault("this_update", NOW - HOUR)
    return make_crl(ca, revoked, **options)


def verified(ca: Authority, der: bytes, **options: Any) -> CRL:
    return verify_crl(open_crl(der), cmp_certificate(ca.certificate), POLICY, NOW, **options)


def point(url: str) -> x509.DistributionPoint:
    return x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)


def idp(**options: Any) -> x509.IssuingDistributionPoint:
    usual: dict[str, Any] = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(**{**usual, **options})


@pytest.mark.requirement(23)
@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "ed25519", "mldsa44"])
def test_a_crl_is_read_whatever_key_signed_it(kind: KeyKind) -> None:
    """Serial numbers, number and dates come out as they went in."""
    authority = make_root("Any Root", kind)
    crl = verified(authority, crl_of(authority, 5, 2**150 + 1, number=7))
    assert (crl.revoked, crl.number) == (frozenset({5, 2**150 + 1}), 7)
    assert (crl.this_update, crl.next_update) == (
        NOW - HOUR,
        NOW - HOUR + timedelta(days=7),
    )


def test_a_crl_without_entries_or_number_is_one(ca: Authority) -> None:
    """Nothing is revoked yet."""
    crl = verified(ca, crl_of(ca, number=None))
    assert (crl.revoked, crl.number) == (frozenset(), None)


@pytest.mark.requirement(23)
def test_a_crl_of_openssl_is_read(ca: Authority, tmp_path: Path) -> None:
    """`openssl ca -gencrl`, whom nobody here wrote, and its PEM with text before it."""
    cert, key = ca.write(tmp_path, "ca")
    (tmp_path / "index.txt").write_text(
        "R\t491231235959Z\t251201000000Z,keyCompromise\t1234\tunknown\t/CN=x\n"
    )
    (tmp_path / "number").write_text("0A\n")
    (tmp_path / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=d\n[d]\ndatabase={tmp_path}/index.txt\ncrlnumber={tmp_path}/number\n"
        "default_md=sha256\ncrl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid\n"
    )
    subprocess.run(
        [
            *(openssl_path(), "ca", "-config", str(tmp_path / "ca.cnf"), "-gencrl"),
            *("-cert", str(cert), "-keyfile", str(key), "-out", str(tmp_path / "crl.pem")),
            *("-crl_lastupdate", "20260101000000Z", "-crl_nextupdate", "20260201000000Z"),
        ],
        check=True,
        capture_output=True,
    )
    (der,) = split_crls(b"what this is\n" + (tmp_path / "crl.pem").read_bytes())
    crl = verified(ca, der)
    assert (crl.revoked, crl.number) == (frozenset({0x1234}), 10)
    assert crl.next_update == datetime(2026, 2, 1, tzinfo=UTC)


def test_a_file_may_hold_several_crls_in_pem(ca: Authority) -> None:
    """Root's and sub-CA's, one behind the other."""
    first, second = crl_of(ca, 1), crl_of(ca, 2)
    pem = b"".join(
        x509.load_der_x509_crl(der).public_bytes(Encoding.PEM) for der in (first, second)
    )
    assert split_crls(pem) == (first, second)


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"<html>not found</html>",
        b"-----BEGIN X509 CRL-----\n!!\n-----END X509 CRL-----",
        b"0\x03\x02\x01\x05",
        b"0\x84\xff\xff\xff\xff",
    ],
)
def test_what_is_no_crl_is_refused(octets: bytes) -> None:
    """An error page in place of a CRL is an error of its own kind, never an exception of a library."""
    with pytest.raises(CRLRefused):
        [decode_crl(open_crl(der)) for der in split_crls(octets)]


def test_no_damaged_crl_raises_anything_else(ca: Authority) -> None:
    """Whatever octet is changed: refused, or it no longer verifies."""
    der = crl_of(ca, 77, extensions=[(idp(full_name=[x509.DNSName("x")]), True)])
    for position in range(len(der)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(der)
            damaged[position] ^= flip
            with pytest.raises(CRLRefused):
                verified(ca, bytes(damaged))
    for length in range(len(der)):
        with pytest.raises(CRLRefused):
            open_crl(der[:length] or b"0")


@pytest.mark.requirement(23)
@pytest.mark.parametrize(
    "extension, critical, text",
    [
        (x509.DeltaCRLIndicator(1), True, "delta"),
        (idp(indirect_crl=True), True, "indirect"),
        (idp(only_contains_attribute_certs=True), True, "attribute"),
        (idp(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})), True, "reasons"),
        (
            x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),
            True,
            r"critical extension 1\.2\.3\.4",
        ),
    ],
)
def test_crls_that_are_not_processed_are_refused(
    ca: Authority, extension: x509.ExtensionType, critical: bool, text: str
) -> None:
    """Half understood, they would say of revoked certificates that they are not."""
    with pytest.raises(CRLRefused, match=text):
        verified(ca, crl_of(ca, extensions=[(extension, critical)]))


def test_an_extension_that_is_not_critical_may_be_unknown(ca: Authority) -> None:
    """RFC 5280 5.2."""
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    der = crl_of(ca, 3, extensions=[(unknown, False)], entry_extensions=[(unknown, False)])
    assert verified(ca, der).revoked == {3}


@pytest.mark.requirement(23)
@pytest.mark.parametrize(
    "extension, text",
    [
        (x509.CertificateIssuer([x509.DirectoryName(x509.Name([]))]), "indirect"),
        (
            x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),
            r"an entry has the critical extension 1\.2\.3\.4",
        ),
    ],
)
def test_entries_that_are_not_understood_void_the_crl(
    ca: Authority, extension: x509.ExtensionType, text: str
) -> None:
    """RFC 5280 5.3: it must not be used for any certificate."""
    with pytest.raises(CRLRefused, match=text):
        verified(ca, crl_of(ca, 3, entry_extensions=[(extension, True)]))


@pytest.mark.requirement(23)
def test_only_the_issuers_key_makes_a_crl(ca: Authority) -> None:
    """Another CA of the same name has another key; another name is another CA."""
    twin, stranger = make_root("CRL Root"), make_root("Stranger")
    with pytest.raises(CRLRefused, match="was not signed by the key of"):
        verified(ca, crl_of(twin, 1))
    with pytest.raises(CRLRefused, match="issued by CN=Stranger"):
        verified(ca, crl_of(stranger, 1))


@pytest.mark.requirement(23)
@pytest.mark.parametrize(
    "options, text",
    [
        (
            {
                "basic_constraints": x509.BasicConstraints(True, None),
                "key_usage": ["keyCertSign"],
            },
            "lacks cRLSign",
        ),
        ({"basic_constraints": None, "key_usage": ["cRLSign"]}, "is not a CA"),
    ],
)
def test_only_a_ca_with_crl_sign_issues_crls(
    ca: Authority, options: dict[str, Any], text: str
) -> None:
    """RFC 5280 6.3.3 f."""
    key = make_key("p256")
    certificate = ca.sign("Sub", key.public_key(), **options)
    with pytest.raises(CRLRefused, match=text):
        verified(Authority(certificate, key), crl_of(Authority(certificate, key), 1))


def test_a_crl_obeys_the_domains_algorithms(ca: Authority) -> None:
    """SHA-224 is known to nobody here; SHA-512 may be taken off the list."""
    with pytest.raises(CRLRefused, match="not known"):
        verified(ca, crl_of(ca, hash_algorithm=hashes.SHA224()))
    received = open_crl(crl_of(ca, hash_algorithm=hashes.SHA512()))
    only = AlgorithmPolicy(frozenset({"ecdsa-sha256"}))
    with pytest.raises(CRLRefused, match="ecdsa-sha512"):
        verify_crl(received, cmp_certificate(ca.certificate), only, NOW)


def test_the_inner_algorithm_is_the_outer_one(ca: Authority) -> None:
    """RFC 5280 5.1.1.2."""
    outer = asn1.decode(structures.Certificate, crl_of(ca))
    other = bytes.fromhex("300a06082a8648ce3d040303")
    der = asn1.tlv(0x30, asn1.raw(outer.tbs_certificate), other, asn1.encode(outer.signature))
    with pytest.raises(CRLRefused, match="do not match"):
        open_crl(der)


@pytest.mark.requirement(23)
def test_a_crl_from_the_future_is_refused(ca: Authority) -> None:
    """Five minutes of difference between clocks are forgiven."""
    ahead = NOW + timedelta(minutes=4)
    assert verified(ca, crl_of(ca, this_update=ahead)).this_update == ahead
    with pytest.raises(CRLRefused, match="ahead of our clock"):
        verified(ca, crl_of(ca, this_update=NOW + timedelta(minutes=6)))


def test_nobody_else_can_make_a_crl(ca: Authority) -> None:
    """A CRL is proof that its signature was verified."""
    with pytest.raises(TypeError, match="only ra_gateway"):
        CRL(cmp_certificate(ca.certificate), 1, NOW, NOW, frozenset(), Scope(), Seal("tests"))


@pytest.mark.requirement(23)
def test_how_long_a_crl_is_fresh(ca: Authority) -> None:
    """Until nextUpdate and the grace after it, and never for longer than the greatest age."""
    crl = verified(ca, crl_of(ca, lifetime=2 * HOUR))
    zero = timedelta(0)
    assert crl.fresh_until(zero, None) == NOW + HOUR
    assert crl.fresh_until(HOUR, None) == NOW + 2 * HOUR
    assert crl.fresh_until(HOUR, 2 * HOUR) == NOW + HOUR


@pytest.mark.requirement(23)
@pytest.mark.parametrize(
    "number, earlier, older",
    [(6, 0, True), (7, 0, False), (8, 0, False), (8, 1, True), (None, 1, True), (None, 0, False)],
)
def test_which_of_two_crls_is_older(
    ca: Authority, number: int | None, earlier: int, older: bool
) -> None:
    """The lower number, or the earlier thisUpdate."""
    held = verified(ca, crl_of(ca, number=7))
    crl = verified(ca, crl_of(ca, number=number, this_update=NOW - (1 + earlier) * HOUR))
    if older:
        with pytest.raises(CRLRefused, match="older than the one in use"):
            crl.require_not_older_than(held)
    else:
        crl.require_not_older_than(held)


@pytest.mark.requirement(23)
def test_a_crl_covers_what_its_scope_says(ca: Authority) -> None:
    """By kind of certificate, and by the distribution point that the certificate names."""
    plain = cmp_certificate(ca.issue("device").certificate)
    sub = cmp_certificate(ca.issue_ca("Sub").certificate)
    pointing = cmp_certificate(
        ca.issue(
            "device",
            extensions=[(x509.CRLDistributionPoints([point(URL)]), False)],
        ).certificate
    )

    def covered(**options: Any) -> list[bool]:
        scope = verified(ca, crl_of(ca, extensions=[(idp(**options), True)])).scope
        return [scope.covers(certificate) for certificate in (plain, sub, pointing)]

    assert covered(only_contains_user_certs=True) == [True, False, True]
    assert covered(only_contains_ca_certs=True) == [False, True, False]
    named = [x509.UniformResourceIdentifier(URL)]
    assert covered(full_name=named) == [False, False, True]
    assert covered(full_name=[x509.UniformResourceIdentifier(URL + "2")]) == [False, False, False]


def test_urls_of_a_certificate(ca: Authority) -> None:
    """Of complete CRLs of its own issuer; points for some reasons or of another issuer are left out."""
    reasons = frozenset({x509.ReasonFlags.key_compromise})
    names = [x509.UniformResourceIdentifier(URL + "-reasons")]
    other = [x509.UniformResourceIdentifier(URL + "-other")]
    issuer = [x509.DirectoryName(make_root("Other").certificate.subject)]
    points = x509.CRLDistributionPoints(
        [
            point(URL),
            x509.DistributionPoint(names, None, reasons, None),
            x509.DistributionPoint(other, None, None, issuer),
            x509.DistributionPoint([x509.DNSName("x.example")], None, None, None),
        ]
    )
    certificate = cmp_certificate(ca.issue("device", extensions=[(points, False)]).certificate)
    assert distribution_point_urls(certificate) == (URL,)
    assert len(distribution_point_names(certificate)) == 2


@pytest.mark.parametrize(
    "octets", [b"", b"\x30\x00", b"\x05\x00", b"\x30\x02\x30\x00", b"\x30\x84"]
)
def test_distribution_points_that_do_not_parse_name_nothing(ca: Authority, octets: bytes) -> None:
    """A stray extension is no reason to refuse a device here."""
    broken = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.31"), octets)
    certificate = cmp_certificate(ca.issue("device", extensions=[(broken, False)]).certificate)
    assert distribution_point_urls(certificate) == ()


def test_a_large_crl_is_decoded(ca: Authority) -> None:
    """100,000 entries."""
    entry = asn1.tlv(0x30, b"\x06\x03\x55\x1d\x15", b"\x04\x03\x0a\x01\x01")
    entries = b"".join(
        asn1.tlv(
            0x30,
            asn1.encode(2**120 + number),
            asn1.tlv(0x17, b"251201000000Z"),
            asn1.tlv(0x30, entry),
        )
        for number in range(100_000)
    )
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    tbs = asn1.tlv(
        0x30,
        asn1.encode(1),
        algorithm,
        ca.certificate.subject.public_bytes(),
        asn1.tlv(0x17, b"260101000000Z"),
        asn1.tlv(0x17, b"260201000000Z"),
        asn1.tlv(0x30, entries),
    )
    key: Any = ca.private_key
    signature = key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    der = asn1.tlv(0x30, tbs, algorithm, asn1.tlv(0x03, b"\x00", signature))
    crl = verified(ca, der)
    assert len(crl.revoked) == 100_000
    assert 2**120 + 99_999 in crl.revoked


# --- what nobody has verified ---------------------------------------------------------------------------------


def test_no_entry_is_decoded_before_the_signature_is_verified(
    ca: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large CRL by anybody costs its three parts and one signature, and by a name of nobody not even that."""
    decoded: list[bytes] = []
    monkeypatch.setattr(crl_module, "decode_crl", decoded.append)
    twin, stranger = make_root("CRL Root"), make_root("Stranger")
    for other in (twin, stranger):
        with pytest.raises(CRLRefused):
            verified(ca, crl_of(other, *range(1, 200)))
    assert not decoded


@pytest.mark.parametrize(
    "rdns",
    [
        [[("2.5.4.11", "x")]] * 200,
        [[("2.5.4.11", f"{i}") for i in range(100)]],
        [[("2.5.4.11", "x" * 3000)]],
    ],
)
def test_an_endless_name_is_refused_before_it_is_decoded(
    ca: Authority, rdns: list[list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever signed it."""
    monkeypatch.setattr(crl_module, "canonical", lambda *_: pytest.fail("compared"))
    monkeypatch.setattr(crl_module, "readable", lambda *_: pytest.fail("written"))
    name = asn1.tlv(
        0x30,
        *(
            asn1.tlv(
                0x31,
                *(
                    asn1.tlv(0x30, asn1.oid_der(oid), asn1.tlv(0x0C, text.encode()))
                    for oid, text in rdn
                ),
            )
            for rdn in rdns
        ),
    )
    tbs, algorithm, signature = asn1.parts(crl_of(ca), 3, "CRL")
    fields = asn1.parts(tbs, 7, "TBS")
    fields[2] = name
    with pytest.raises(CRLRefused, match="issuer of the CRL"):
        open_crl(asn1.tlv(0x30, asn1.tlv(0x30, *fields), algorithm, signature))


@pytest.mark.parametrize("number", [2**159, 2**20_000, -1], ids=["21", "2501", "negative"])
def test_a_number_that_no_crl_may_have_is_refused(ca: Authority, number: int) -> None:
    """RFC 5280 5.2.3: at most 20 octets; a text of 20,000 digits is nobody's."""
    value = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.20"), asn1.encode(number))
    der = crl_of(ca, number=None, extensions=[(value, False)])
    with pytest.raises(CRLRefused, match=r"cRLNumber|InvalidValue"):
        verified(ca, der)
    assert verified(ca, crl_of(ca, number=2**159 - 1)).number == 2**159 - 1


def test_a_signature_with_unused_bits_is_refused(ca: Authority) -> None:
    """A BIT STRING has seven other spellings of a signature whose last bits are zero."""
    tbs, algorithm, signature = asn1.parts(crl_of(ca), 3, "CRL")
    octets = asn1.inner(signature)
    other = asn1.tlv(0x03, b"\x01", octets[1:-1], bytes((octets[-1] & 0xFE,)))
    with pytest.raises(CRLRefused, match="unused bits"):
        open_crl(asn1.tlv(0x30, tbs, algorithm, other))


def test_many_distribution_points_are_none(ca: Authority) -> None:
    """Counted before they are decoded."""
    points = x509.CRLDistributionPoints([point(f"{URL}{i}") for i in range(40)])
    certificate = cmp_certificate(ca.issue("device", extensions=[(points, False)]).certificate)
    assert distribution_point_urls(certificate) == ()
