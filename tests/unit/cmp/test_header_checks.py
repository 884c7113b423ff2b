"""A quirk is reported by the check that it relaxes."""

from __future__ import annotations

from functools import partial

import pytest

from ra_gateway.cmp.crmf import CertTemplate
from ra_gateway.cmp.header_checks import HeaderRules, check_subject, quirks_needed
from ra_gateway.cmp.names import NULL_DN
from ra_gateway.cmp.quirks import Quirk, Strictness
from ra_gateway.errors import TemplateRefused


@pytest.mark.parametrize("subject_der", [None, NULL_DN])
def test_a_quirk_is_reported_where_it_is_needed(subject_der: bytes | None) -> None:
    """Both of no subject and of an empty one, as both are refused without the quirk."""
    check = partial(check_subject, CertTemplate(subject_der=subject_der))
    quirks = frozenset({Quirk.no_subject, Quirk.short_ids})
    with pytest.raises(TemplateRefused):
        check(HeaderRules(Strictness.strict))
    assert quirks_needed(quirks, HeaderRules(Strictness.strict), check) == {Quirk.no_subject}
    assert quirks_needed(quirks, HeaderRules(), check) == frozenset()
