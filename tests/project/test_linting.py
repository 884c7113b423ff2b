"""The rule that the linter finds no error in what the product signs while tests run, tried on what is wrong."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ra_gateway.ca import conformance, crl, cross, hierarchy
from ra_gateway.ca.crl import CRLContent
from ra_gateway.ca.cross import RootKey
from ra_gateway.ca.extensions import extension_der
from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.keys import create_operator_pki
from ra_gateway.cmp.oids import OID
from tests.support import linting, templates
from tests.support.commands import run_command
from tests.support.credentials import cmp_certificate
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import make_operator_pki
from tests.support.profiles import NE_IPSEC

REPOSITORY = Path(__file__).parents[2]
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

SIGNING_TESTS = """
import asyncio
import secrets
from datetime import UTC, datetime, timedelta

from ra_gateway.ca import crl
from ra_gateway.ca.issuer import Issuer
from tests.support.credentials import cmp_certificate
from tests.support.pki import make_operator_pki

OPERATOR = make_operator_pki()
CERTIFICATE = cmp_certificate(OPERATOR.issuing.certificate)
ISSUER = Issuer(CERTIFICATE, (), OPERATOR.issuing.private_key, secrets.token_bytes)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

def sign(number):
    content = crl.CRLContent(number, None, NOW, NOW + timedelta(1), b"")
    asyncio.run(crl._sign(content, ISSUER))

def test_right():
    sign(1)

def test_wrong():
    sign(-1)

def test_of_nothing():
    pass
"""
"""A CRLNumber must not be negative (RFC 5280 5.2.3)."""


@pytest.fixture
def asked_anew(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing was asked before, and what is asked in the test is none of the others' business."""
    monkeypatch.setattr(linting, "_known", set())
    monkeypatch.setattr(linting, "_shared", None)
    linting.share(
        tmp_path_factory.mktemp("anew")
    )  # where no other process takes what a command made
    monkeypatch.setattr(linting, "_is_first", lambda _: True)


def make_issuer() -> Issuer:
    operator = make_operator_pki()
    return Issuer(
        cmp_certificate(operator.issuing.certificate),
        (cmp_certificate(operator.root.certificate),),
        operator.issuing.private_key,
        secrets.token_bytes,
    )


def sign_certificate(*, critical: bool) -> None:
    """Have a certificate signed, with a SubjectKeyIdentifier that must not be critical (RFC 5280 4.2.1.2)."""
    issuer = make_issuer()
    plan = issuer.check(templates.template(extensions=(templates.SAN,)), NE_IPSEC, NOW)
    usage, _, *others = plan.extensions
    identifier = extension_der(OID.subjectKeyIdentifier, b"\x04\x14" + bytes(20), critical=critical)
    tbs_der = issuer.build(replace(plan, extensions=(usage, identifier, *others)), 1 << 126)
    tbs, _, _ = conformance._read_tbs(tbs_der)
    # What no caller can do: `Issuer.inspect` would refuse it.
    asyncio.run(issuer.sign(conformance.CheckedTBS(tbs, conformance._SEAL)))


def test_a_wrong_certificate(asked_anew: None) -> None:
    """It is found once."""
    sign_certificate(critical=False)
    assert linting.new_errors() == []
    sign_certificate(critical=True)
    (error,) = linting.new_errors()
    assert "pkix.certificate_skid_extension_critical" in error
    sign_certificate(critical=True)
    assert linting.new_errors() == []


def test_a_wrong_ca(asked_anew: None) -> None:
    """One whose basicConstraints are not critical (RFC 5280 4.2.1.9)."""
    issuer = make_issuer()
    extensions = hierarchy.ca_extensions(0)
    _, value = extensions[OID.basicConstraints]
    hierarchy.certify_ca(
        issuer.certificate.subject_der,
        issuer.certificate.spki_der,
        None,
        issuer._private_key,
        not_before=NOW,
        not_after=NOW + timedelta(days=30),
        extensions={**extensions, OID.basicConstraints: (False, value)},
    )
    (error,) = linting.new_errors()
    assert "pkix.basic_constraints_extension_not_critical" in error


def test_a_wrong_crl(asked_anew: None) -> None:
    """One that is over before it begins."""
    asyncio.run(crl._sign(CRLContent(1, None, NOW, NOW - timedelta(days=1), b""), make_issuer()))
    (error,) = linting.new_errors()
    assert error.startswith("CRL: pkix.crl_negative_validity_period")


def test_a_wrong_crl_of_the_root(
    asked_anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the issuing CA's; what `create` made beside it is right."""
    asyncio.run(create_operator_pki(tmp_path, now=NOW, name="Op"))

    def over(number: int, base: None, at: datetime, _: datetime, entries: bytes) -> CRLContent:
        return CRLContent(number, base, at, at - timedelta(days=1), entries)

    monkeypatch.setattr(cross, "CRLContent", over)
    cross.make_root_crl(tmp_path, RootKey(), now=NOW, days=30, revoke={}, first=True)
    (error,) = linting.new_errors()
    assert error.startswith("CRL: pkix.crl_negative_validity_period")


def test_what_a_command_makes_is_asked_about(
    asked_anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CAs' certificates and those of their signers, which a process of its own makes and writes."""
    monkeypatch.setattr(linting.Made, "errors", lambda made: [made.name])
    ended = run_command("ca", "create", tmp_path / "ca")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert {error.split(": ")[0] for error in linting.new_errors()} >= {
        "certificate",
        "certificate of cmp_signer",
    }


def test_the_test_that_made_it_fails(tmp_path: Path) -> None:
    """The one before and the one after do not."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_some.py").write_text(SIGNING_TESTS)
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "tests.support.linted"),
            *("-p", "no:cacheprovider", "--color=no", "-q", "-rA", str(tmp_path)),
        ],
        cwd=REPOSITORY,
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.findall(r"^ERROR \S+::(\w+)", done.stdout, re.MULTILINE) == ["test_wrong"]
    assert re.search(r"^3 passed, 1 error in ", done.stdout, re.MULTILINE)
    assert "CRL: itu.invalid_asn1_syntax" in done.stdout
