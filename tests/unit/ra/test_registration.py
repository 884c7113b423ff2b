"""Which certificates are those of another RA, registered by name or one by one."""

from __future__ import annotations

from typing import Any

import pytest

from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.cmp.trust import Path
from ra_gateway.ra.registration import RegisteredName
from tests.support.chain import local_ra, registered
from tests.support.credentials import cmp_certificate
from tests.support.pki import Certified, OperatorPKI

SUBJECT = "CN=occm.core.example.net,O=Example Operator"
NAME = RegisteredName(from_rfc4514(SUBJECT), ("dns:occm.core.example.net",))


def path_of(made: Certified) -> Path:
    """The certificate and those above it."""
    return Path(cmp_certificate(item) for item in (made.certificate, *made.chain))


@pytest.mark.requirement(123)
@pytest.mark.parametrize(
    "options, known",
    [
        ({}, True),
        ({"key_usage": ["digitalSignature", "keyAgreement"]}, True),
        ({"key_usage": ["keyAgreement"]}, False),
        ({"key_usage": ["nonRepudiation"]}, False),
        ({"key_usage": None}, False),
        ({"san": ["dns:occm2.core.example.net"]}, False),
    ],
)
def test_a_registered_name_is_for_who_signs(
    operator_pki: OperatorPKI, options: dict[str, Any], known: bool
) -> None:
    """Its certificate says digitalSignature: a key that only agrees on keys signs no messages of an RA."""
    made = operator_pki.issuing.issue(SUBJECT, **{"san": [*NAME.san], **options})
    assert NAME.registers(path_of(made)) is known


@pytest.mark.requirement(123)
def test_a_ca_of_that_name_is_no_ra(operator_pki: OperatorPKI) -> None:
    """Whatever else its key may do."""
    usage = ["digitalSignature", "keyCertSign"]
    made = operator_pki.root.issue_ca(SUBJECT, san=[*NAME.san], key_usage=usage)
    assert NAME.fits(cmp_certificate(made.certificate))
    assert not NAME.registers(path_of(made))


@pytest.mark.requirement(123)
def test_an_ra_is_known_as_long_as_it_is_listed(operator_pki: OperatorPKI) -> None:
    """One that is taken out of the configuration is none any more, also for what it began (certConf)."""
    one, other = local_ra(operator_pki, "One"), local_ra(operator_pki, "Other")
    certificate = cmp_certificate(one.certificate)
    assert registered(operator_pki, one, other).is_known(certificate)
    assert not registered(operator_pki, other, names=(NAME,)).is_known(certificate)


@pytest.mark.requirement(123)
@pytest.mark.parametrize(
    "subject, san, asked",
    [
        ("CN=RA 1,O=Example Operator", (), True),
        ("CN=ra  1,O=EXAMPLE operator", ("dns:enb1.example.net",), True),
        ("CN=RA 1,OU=X,O=Example Operator", (), False),
        ("CN=enb1.example.net", ("dns:RA1.core.example.net.",), True),
        ("CN=ra1.core.example.net", (), True),
        ("CN=enb1.example.net", ("dns:ra11.core.example.net",), False),
    ],
)
def test_a_name_of_an_ra_is_asked_for_by_its_subject_or_one_of_its_other_names(
    subject: str, san: tuple[str, ...], asked: bool
) -> None:
    """Also where the subject reads like no host, so that nothing but all of it is its name."""
    subject_der = from_rfc4514("CN=RA 1,O=Example Operator")
    name = RegisteredName(subject_der, ("dns:ra1.core.example.net",))
    assert name.is_part_of(from_rfc4514(subject), san) is asked
