"""The linter's word on the bundled CA's profiles, asked once in a process of the tests for each kind of CA.

To ask takes two seconds of every start of a CA, and CAs of tests differ in nothing but their keys.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from ra_gateway.ca import lint
from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.profiles import Profile

_ask: Final = lint.lint_profile
_answers: Final[dict[tuple[Profile, bytes, timedelta, frozenset[str]], list[str]]] = {}


def remember_findings() -> None:
    """Have what the linter said of a profile stand for all CAs with that algorithm, validity and extensions."""
    lint.lint_profile = _remembered


def _remembered(profile: Profile, issuer: Issuer) -> list[str]:
    certificate = issuer.certificate
    validity = certificate.not_after - certificate.not_before
    kind = (profile, issuer.signer.algorithm.der, validity, frozenset(certificate.extensions))
    if kind not in _answers:
        _answers[kind] = _ask(profile, issuer)
    return list(_answers[kind])
