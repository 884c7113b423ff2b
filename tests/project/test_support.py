"""The tests' own tools: PKIs that are valid, and an `openssl` that answers."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import get_args

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ra_gateway.ca.profiles import SEG
from tests.support import pki
from tests.support.linting import certificate_errors
from tests.support.openssl import (
    OpensslMockCA,
    Result,
    load_certificate,
    openssl_cmp,
    openssl_cmp_async,
    openssl_path,
    public_key_der,
)
from tests.support.pki import (
    KeyKind,
    OperatorPKI,
    VendorPKI,
    make_key,
    make_operator_pki,
    make_root,
    make_vendor_pki,
    resign_with_sha1,
)


def assert_chain(leaf: x509.Certificate, chain: tuple[x509.Certificate, ...]) -> None:
    """Check that each certificate is issued by the next, and the last by itself."""
    certificates = [leaf, *chain]
    for certificate, issuer in zip(certificates, [*chain, chain[-1]], strict=True):
        certificate.verify_directly_issued_by(issuer)


@pytest.mark.parametrize("kind", get_args(KeyKind))
def test_a_chain_of_every_key_kind_is_valid(kind: KeyKind) -> None:
    """Root, subordinate and leaf of one kind verify, and have three keys."""
    root = make_root("Root", kind)
    leaf = root.issue_ca("Sub", kind).issue("leaf", kind)
    assert_chain(leaf.certificate, leaf.chain)
    assert len({public_key_der(c) for c in (leaf.certificate, *leaf.chain)}) == 3


@pytest.mark.parametrize("kind", get_args(KeyKind))
def test_the_linter_finds_no_error_in_the_usual_certificates(kind: KeyKind) -> None:
    """Those of vendors, operators and their devices are as orderly as the bundled CA's."""
    vendor, operator = make_vendor_pki(key=kind), make_operator_pki(key=kind)
    usual = (
        *(vendor.root, vendor.sub, vendor.device(key=kind)),
        *(operator.root, operator.issuing, operator.ra, operator.cmp_signer),
        operator.device(key=kind, san=["dns:enb1.example.net"]),
    )
    assert [certificate_errors(SEG, item.der) for item in usual] == [[]] * len(usual)


def test_key_identifiers_link_the_chain(vendor_pki: VendorPKI) -> None:
    """The AuthorityKeyIdentifier of a certificate is its issuer's SubjectKeyIdentifier."""
    device = vendor_pki.device()
    aki = device.certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    ski = device.chain[0].extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert aki.value.key_identifier == ski.value.digest


def test_options_reach_the_certificate() -> None:
    """Names, usages, times, digest and absent extensions are as asked for."""
    certificate = (
        make_root("Root", "rsa2048")
        .issue(
            "CN=enb1,O=ACME",
            key_usage=["digitalSignature", "keyAgreement"],
            eku=[pki.CMC_RA],
            san=["dns:enb1.example.net", "ip:192.0.2.1"],
            hash=hashes.SHA512(),
            serial_number=7,
            subject_key_identifier=False,
            authority_key_identifier=False,
        )
        .certificate
    )
    extensions = {type(e.value) for e in certificate.extensions}
    assert certificate.subject.rfc4514_string() == "CN=enb1,O=ACME"
    assert certificate.serial_number == 7
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA512)
    assert certificate.not_valid_after_utc == pki.VALID_UNTIL
    assert extensions == {x509.KeyUsage, x509.ExtendedKeyUsage, x509.SubjectAlternativeName}


def test_an_rsa_issuer_signs_with_pss() -> None:
    """rsa_padding makes an RSASSA-PSS signature."""
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
    leaf = make_root("Root", "rsa2048").issue("leaf", rsa_padding=pss)
    assert leaf.certificate.signature_algorithm_oid.dotted_string == "1.2.840.113549.1.1.10"
    assert_chain(leaf.certificate, leaf.chain)


def test_a_bare_public_key_can_be_certified(operator_pki: OperatorPKI) -> None:
    """A CA signs without knowing the private key."""
    public_key = make_key("p384").public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    certificate = operator_pki.issuing.sign("leaf", public_key)
    assert certificate.public_key() == public_key


def test_the_operator_has_an_ra_certificate(operator_pki: OperatorPKI) -> None:
    """The RA's certificate has cmcRA and digitalSignature (RFC 9483 1.5, TS 33.310)."""
    extensions = operator_pki.ra.certificate.extensions
    eku = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [usage.dotted_string for usage in eku] == [pki.CMC_RA]
    assert extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    assert_chain(operator_pki.ra.certificate, operator_pki.ra.chain)
    assert_chain(operator_pki.cmp_signer.certificate, operator_pki.cmp_signer.chain)


def test_rsa_keys_come_from_a_pool() -> None:
    """The fifth RSA key is the first again."""
    keys = [make_key("rsa1024") for _ in range(pki.RSA_POOL_SIZE + 1)]
    assert all(isinstance(key, rsa.RSAPrivateKey) for key in keys)
    assert keys[0] is keys[-1]
    assert len({id(key) for key in keys}) == pki.RSA_POOL_SIZE


@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
def test_a_certificate_can_be_signed_with_sha1(tmp_path: Path, kind: KeyKind) -> None:
    """All is the same but the signature, and openssl at its lowest level accepts that."""
    root = make_root("Root", kind)
    leaf = root.issue("leaf").certificate
    weak = resign_with_sha1(leaf, root)
    assert isinstance(weak.signature_hash_algorithm, hashes.SHA1)
    assert (weak.subject, weak.serial_number) == (leaf.subject, leaf.serial_number)
    assert list(weak.extensions) == list(leaf.extensions)
    anchor = pki.write_certificates(tmp_path / "root.pem", root.certificate)
    file = pki.write_certificates(tmp_path / "weak.pem", weak)
    subprocess.run(
        [openssl_path(), "verify", "-auth_level", "0", "-CAfile", anchor, file], check=True
    )


def test_the_openssl_client_enrols_with_the_openssl_mock_ca(
    tmp_path: Path, vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """ir, ip, certConf, pkiConf between two programs nobody here wrote: the certificate arrives."""
    issued = operator_pki.device()
    device = vendor_pki.device()
    cert, key = device.write(tmp_path, "device")
    newkey = pki.write_key(tmp_path / "new.key", issued.private_key)
    with OpensslMockCA(
        tmp_path,
        signer=operator_pki.cmp_signer,
        trusted=[vendor_pki.root.certificate],
        response_certificate=issued.certificate,
        response_extra_certs=operator_pki.ra.chain,
    ) as ca:
        openssl_cmp(
            "ir",
            server=ca.server,
            path="pkix/",
            cert=cert,
            key=key,
            newkey=newkey,
            extracerts=[
                pki.write_certificates(tmp_path / "1.pem", vendor_pki.sub.certificate),
                pki.write_certificates(tmp_path / "2.pem", vendor_pki.root.certificate),
            ],
            trusted=pki.write_certificates(tmp_path / "root.pem", operator_pki.root.certificate),
            subject="/CN=enb1",
            certout=tmp_path / "out.pem",
        ).check()
    assert load_certificate(tmp_path / "out.pem") == issued.certificate


async def test_a_refusal_of_the_mock_ca_is_read(
    tmp_path: Path, vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """The failInfo of a negative answer is in the result."""
    cert, key = vendor_pki.device().write(tmp_path, "device")
    with OpensslMockCA(
        tmp_path,
        signer=operator_pki.cmp_signer,
        trusted=[vendor_pki.root.certificate],
        untrusted=[vendor_pki.sub.certificate],
        response_certificate=operator_pki.device().certificate,
        extra_args=["-pkistatus", "2", "-failure", "9"],
    ) as ca:
        result = await openssl_cmp_async(
            "cr",
            server=ca.server,
            path="pkix/",
            cert=cert,
            key=key,
            trusted=operator_pki.root.write(tmp_path, "root")[0],
            subject="/CN=enb1",
        )
    assert result.returncode != 0
    assert result.fail_info == {"badPOP"}


def test_a_failed_run_says_how_to_repeat_it() -> None:
    """`check` raises with the command line and the log."""
    with pytest.raises(AssertionError, match=r"openssl cmp -cmd ir\nno luck"):
        Result(("openssl", "cmp", "-cmd", "ir"), 1, "", "no luck").check()


def test_a_mock_ca_that_cannot_start_fails_with_its_log(
    tmp_path: Path, operator_pki: OperatorPKI
) -> None:
    """No hanging, and the reason is in the failure."""
    ca = OpensslMockCA(
        tmp_path,
        signer=operator_pki.cmp_signer,
        trusted=[operator_pki.root.certificate],
        response_certificate=operator_pki.ra.certificate,
        extra_args=["-no_such_option"],
    )
    with pytest.raises(AssertionError, match="no_such_option"), ca:
        pass
