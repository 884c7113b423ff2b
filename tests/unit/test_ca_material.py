"""The CA's keys and certificates as files."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ra_gateway.ca.material import create_operator_pki, issue_ra_certificate, load_ca
from ra_gateway.ca.profiles import NE_IPSEC
from ra_gateway.cmp.codes import OID
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.errors import ConfigError
from ra_gateway.keys import load_credential

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SUBJECT = "CN=ra1,O=Example Operator"


@pytest.mark.requirement(154)
@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "ed25519", "ed448", "mldsa44"])
def test_a_ca_is_made_and_loaded(tmp_path: Path, kind: str) -> None:
    """Files, modes, and paths from both signers to the root; certificates and messages have two keys."""
    create_operator_pki(tmp_path, now=NOW, key_kind=kind)
    ra = issue_ra_certificate(tmp_path, SUBJECT, now=NOW, key_kind=kind)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{stem}.{suffix}" for stem in ("root", "issuing", "cmp", "ra") for suffix in ("pem", "key")
    }
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*.key")} == {0o600}
    material = load_ca(tmp_path, profile=NE_IPSEC)
    assert material.credential.certificate.spki_der != material.issuer.certificate.spki_der
    domain = TrustDomain("operator", DomainKind.operator, (material.root,))
    bag = (material.issuer.certificate,)
    domain.find_path(material.credential.certificate, bag, NOW)
    domain.find_path(ra, bag, NOW + timedelta(days=1000))
    assert material.credential.certificate.extended_key_usage == {OID.cmcCA}
    assert ra.extended_key_usage == {OID.cmcRA}
    credential = load_credential(tmp_path / "ra.pem", tmp_path / "ra.key", setting="ra")
    assert credential.certificate == ra
    assert credential.chain == bag


def test_openssl_agrees(tmp_path: Path) -> None:
    """Somebody else's path validation, with every strict check it has."""
    create_operator_pki(tmp_path, now=datetime.now(UTC))
    issue_ra_certificate(tmp_path, SUBJECT, now=datetime.now(UTC))
    for name in ("cmp.pem", "ra.pem"):
        subprocess.run(
            f"openssl verify -x509_strict -CAfile root.pem -untrusted issuing.pem {name}".split(),
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """One file that exists stops it before the first is written, and the problem names it."""
    (tmp_path / "cmp.key").write_text("precious")
    with pytest.raises(ConfigError, match=r"cmp\.key: exists already"):
        create_operator_pki(tmp_path, now=NOW)
    assert [path.name for path in tmp_path.iterdir()] == ["cmp.key"]
    (tmp_path / "cmp.key").unlink()
    create_operator_pki(tmp_path, now=NOW)
    issue_ra_certificate(tmp_path, SUBJECT, now=NOW)
    with pytest.raises(ConfigError, match="exists already"):
        issue_ra_certificate(tmp_path, SUBJECT, now=NOW)


def test_an_ra_s_files_may_go_elsewhere(tmp_path: Path) -> None:
    """Under a name with a dot in it, too."""
    create_operator_pki(tmp_path / "ca", now=NOW)
    issue_ra_certificate(
        tmp_path / "ca", SUBJECT, now=NOW, target=tmp_path / "ra", stem="ra1.example"
    )
    assert {path.name for path in (tmp_path / "ra").iterdir()} == {
        "ra1.example.pem",
        "ra1.example.key",
    }


def test_keys_can_be_encrypted(tmp_path: Path) -> None:
    """With the password they load, without it they do not."""
    create_operator_pki(tmp_path, now=NOW, password=b"secret")
    issue_ra_certificate(tmp_path, SUBJECT, now=NOW, ca_password=b"secret")
    load_ca(tmp_path, profile=NE_IPSEC, password=b"secret")
    with pytest.raises(ConfigError) as raised:
        load_ca(tmp_path, profile=NE_IPSEC)
    assert "secret" not in str(raised.value)


def test_files_of_two_cas_are_refused(tmp_path: Path) -> None:
    """Same names, other keys."""
    for name in ("one", "two"):
        create_operator_pki(tmp_path / name, now=NOW)
    for stem in ("root.pem",), ("cmp.pem", "cmp.key"):
        mixed = tmp_path / stem[0]
        mixed.mkdir()
        for path in (tmp_path / "one").iterdir():
            source = tmp_path / "two" / path.name if path.name in stem else path
            (mixed / path.name).write_bytes(source.read_bytes())
        with pytest.raises(ConfigError, match="was not issued by"):
            load_ca(mixed, profile=NE_IPSEC)


@pytest.mark.requirement(154)
def test_one_key_for_certificates_and_messages_is_refused(tmp_path: Path) -> None:
    """RFC 9810 8.6."""
    create_operator_pki(tmp_path, now=NOW)
    for suffix in ("pem", "key"):
        (tmp_path / f"cmp.{suffix}").write_bytes((tmp_path / f"issuing.{suffix}").read_bytes())
    with pytest.raises(ConfigError, match="RFC 9810"):
        load_ca(tmp_path, profile=NE_IPSEC)


def test_other_mistakes_say_what_to_do(tmp_path: Path) -> None:
    """An unknown kind of key, a subject that is no name, a directory without a CA."""
    with pytest.raises(ConfigError, match="p256"):
        create_operator_pki(tmp_path, now=NOW, key_kind="dsa")
    with pytest.raises(ConfigError, match=r"root\.pem"):
        load_ca(tmp_path, profile=NE_IPSEC)
    create_operator_pki(tmp_path, now=NOW)
    with pytest.raises(ConfigError, match="no name"):
        issue_ra_certificate(tmp_path, "ra1", now=NOW)
