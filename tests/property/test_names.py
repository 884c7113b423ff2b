"""The bundled CA is asked for thousands of odd names, and certifies none that others cannot read.

The usual run asks for 2,000 of them, HYPOTHESIS_PROFILE=explore for 40,000.
"""

from __future__ import annotations

import asyncio
import subprocess
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ra_gateway.ca.certification import IssuancePolicy
from ra_gateway.ca.profiles import SAN_TAGS
from ra_gateway.cmp.bodies import cert_rep_message
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import CertTemplate
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import NULL_DN
from ra_gateway.errors import PKIFailureInfo
from tests.support import pki
from tests.support.desk import Desk, open_desk
from tests.support.linting import certificate_errors
from tests.support.odd_names import OddNames
from tests.support.profiles import NE_TLS

ASKED_AT_ONCE = 32

LOOSE = replace(
    NE_TLS,
    name="loose",
    required_subject=(),
    allowed_subject=frozenset(),
    san=frozenset(SAN_TAGS),
    san_required=False,
)
"""Refuses nothing but what is no name."""


@dataclass
class Asked:
    """What became of requests: those that were certified, by the certificate, and how many were refused."""

    issued: dict[bytes, CertTemplate] = field(default_factory=dict)
    refused: int = 0


def odd_templates() -> list[CertTemplate]:
    """Twenty times as many templates as there are examples, by seeds that hypothesis draws."""
    found: list[CertTemplate] = []

    @given(st.integers(0, 2**32))
    def draw(seed: int) -> None:
        odd = OddNames(seed)
        found.extend(odd.template() for _ in range(20))

    draw()
    return found


async def ask(desk: Desk, wanted: list[CertTemplate]) -> Asked:
    """Ask the CA for certificates; what is not issued is refused for its template, and for nothing else."""
    asked, key = Asked(), pki.make_key("p256")

    async def one(template: CertTemplate) -> None:
        der = await desk.request(template=template, key=key)
        answer = PKIMessage.from_der((await desk.ca.handle(der, mode=desk.mode)).der)
        assert answer.body_type is BodyType.ip
        (response,) = cert_rep_message(answer.body_content).responses
        if response.certificate_der is not None:
            asked.issued[response.certificate_der] = template
            return
        (failure,) = response.status_info.fail_info
        wildcard = b"*." in template.extensions[0].value if template.extensions else False
        assert failure is PKIFailureInfo.badCertTemplate or (
            wildcard and failure is PKIFailureInfo.notAuthorized
        )
        asked.refused += 1

    for start in range(0, len(wanted), ASKED_AT_ONCE):
        await asyncio.gather(*map(one, wanted[start : start + ASKED_AT_ONCE]))
    return asked


def openssl_shows(certificates: Iterable[bytes], path: Path) -> str:
    """What openssl prints of certificates, in one process."""
    path.write_bytes(
        b"".join(
            x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in certificates
        )
    )
    ended = subprocess.run(
        ["openssl", "storeutl", "-certs", "-noout", "-text", path],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


@pytest.mark.requirement(67)
async def test_no_odd_name_is_certified_that_others_cannot_read(
    operator_pki: pki.OperatorPKI, tmp_path: Path
) -> None:
    """Neither openssl nor cryptography nor pkilint has anything to say of what was issued."""
    wanted = odd_templates()
    async with open_desk(
        operator_pki, tmp_path / "ledger.db", profile=LOOSE, policy=IssuancePolicy(unique_key=False)
    ) as desk:
        with capture_logs():  # thousands of lines
            asked = await ask(desk, wanted)
    assert len(asked.issued) > len(wanted) // 10, "hardly a name was fit: nothing would be shown"
    assert asked.refused > len(wanted) // 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # It counts a CN's octets, where X.520 has characters.
        warnings.filterwarnings("ignore", "Attribute's length")
        for der, template in asked.issued.items():
            certificate = x509.load_der_x509_certificate(der)
            assert certificate.subject.public_bytes() == (template.subject_der or NULL_DN)
            certificate.subject.rfc4514_string()
            if template.extensions:
                names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
                assert names.value.public_bytes() == template.extensions[0].value
    shown = openssl_shows(asked.issued, tmp_path / "issued.pem")
    assert shown.count("Certificate:\n") == len(asked.issued)
    assert "<INVALID" not in shown
    assert "<unsupported" not in shown.replace("othername:<unsupported>", "").replace(
        "othername: <unsupported>", ""
    ).replace("othername: 1.2", "")
    # The linter takes 20 ms for one.
    step = max(1, len(asked.issued) // settings().max_examples)
    for der in list(asked.issued)[::step]:
        assert certificate_errors(LOOSE, der) == [], asked.issued[der]
