"""Names and patterns as people and other programs write them, brought into the form in which they are compared."""

from __future__ import annotations

import pytest

from ra_gateway.cmp.names import (
    fits_alike,
    fits_general_name,
    from_rfc4514,
    plain_general_name,
    plain_rfc4514,
    rfc4514,
    unfit_attribute,
    unfit_general_name,
)


@pytest.mark.parametrize(
    "written, plain",
    [
        ("CN=enb-1,O=Example", "CN=enb-1,O=Example"),
        ("CN = enb-1, O = Example", "CN=enb-1,O=Example"),
        (" cn=enb-1 ,o= Example Operator ", "CN=enb-1,O=Example Operator"),
        ("CN=enb-1+serialNumber=12,O=Example", "CN=enb-1+2.5.4.5=12,O=Example"),
        ("commonName=enb-1,emailAddress=a@b.example", "CN=enb-1,1.2.840.113549.1.9.1=a@b.example"),
        ("CN=a\\, b\\ ,O=\\ c", "CN=a\\, b\\ ,O=\\ c"),
        ("CN=a\\\\ ,O=b", "CN=a\\\\,O=b"),
        ("2.5.4.5=12", "2.5.4.5=12"),
        ("", ""),
    ],
)
def test_blanks_and_long_names_of_attributes_make_no_difference(written: str, plain: str) -> None:
    """What an escaped blank means stays; and what is in that form already stays as it is."""
    assert plain_rfc4514(written) == plain == plain_rfc4514(plain)
    if plain:
        assert from_rfc4514(written) == from_rfc4514(plain)
        assert fits_alike(rfc4514(from_rfc4514(plain)), plain_rfc4514(written))


@pytest.mark.parametrize("pattern", ["*", "CN=*", "C*=a,*", "CN=[ab],2.5.4.5=*", "cn={cn}, O=*"])
def test_patterns_that_may_fit_are_taken(pattern: str) -> None:
    assert unfit_attribute(plain_rfc4514(pattern)) == ""


@pytest.mark.parametrize(
    "written, why",
    [
        ("enb-1", "'enb-1' is no attribute and value"),
        ("CN=a,b", "'b' is no attribute and value"),
        ("CN=a,", "'' is no attribute and value"),
        ("SN=1", "no attribute is known as 'SN'"),
        ("CN=a;O=b", "a character that needs a"),
    ],
)
def test_what_is_no_name_is_said_with_the_part_that_is_none(written: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        from_rfc4514(written)


@pytest.mark.parametrize(
    "written, plain, name",
    [
        ("dns: *.example.net", "dns:*.example.net", "dns:a.example.net"),
        ("dn:CN=*, serialNumber = 1", "dn:CN=*,2.5.4.5=1", "dn:CN=a,2.5.4.5=1"),
        ("ip:192.0.2.*", "ip:192.0.2.*", "ip:192.0.2.7"),
        ("ip:2001:db8::1", "ip:2001:db8::1", "ip:2001:db8::1"),
        ("dn:*", "dn:*", "dn:CN=a"),
    ],
)
def test_other_names_are_brought_into_form_as_well(written: str, plain: str, name: str) -> None:
    assert plain_general_name(written) == plain
    assert unfit_general_name(plain) == ""
    assert fits_general_name(name, plain)


@pytest.mark.parametrize("pattern", ["dns:", "dns:a b", "ip:192.0.2.0/24", "ip:192.0.2", "dn:a"])
def test_patterns_of_other_names_that_fit_nothing_are_told(pattern: str) -> None:
    assert unfit_general_name(plain_general_name(pattern))
