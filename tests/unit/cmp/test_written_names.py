"""Names and patterns as people and other programs write them, brought into the form in which they are compared."""

from __future__ import annotations

import re

import pytest

from ra_gateway.cmp.names import (
    fits_alike,
    fits_general_name,
    from_rfc4514,
    plain_general_name,
    plain_rfc4514,
    readable,
    readable_text,
    rfc4514,
    spellings,
    unfit_attribute,
    unfit_general_name,
)
from ra_gateway.cmp.x520 import ATTRIBUTE_FORMS


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


@pytest.mark.parametrize(
    "pattern", ["*", "CN=*", "C*=a,*", "CN=[ab],2.5.4.5=*", "cn={cn}, O=*", "o*", "2.5*", "?N=a"]
)
def test_patterns_that_may_fit_are_taken(pattern: str) -> None:
    assert unfit_attribute(plain_rfc4514(pattern)) == ""


@pytest.mark.parametrize("pattern", ["enb-*", "*,enb-?", "x*", "CN=*,e.g.*", "-*"])
def test_patterns_that_no_attribute_begins_like_are_told(pattern: str) -> None:
    """All of an attribute is compared, its name with it."""
    assert "is no attribute and value, like CN=" in unfit_attribute(plain_rfc4514(pattern))


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


@pytest.mark.parametrize("dotted", ATTRIBUTE_FORMS)
def test_people_read_every_attribute_that_can_be_certified_by_its_name(dotted: str) -> None:
    """What they read they may write, wherever a name is wanted; what is compared and stored stays as it was."""
    value = "FI" if dotted.endswith((".6", ".3")) and dotted != "2.5.4.3" else "x"
    der = from_rfc4514(f"CN=a+{dotted}={value},O=b")
    shown = readable(der)
    assert not re.search(r"\d=", shown), shown
    assert from_rfc4514(shown) == der
    assert plain_rfc4514(shown) == rfc4514(der)
    assert readable_text(rfc4514(der)) == shown
    assert readable_text(f"dn:{rfc4514(der)}, dn:{dotted}=*") == f"dn:{shown}, dn:{_name(shown)}=*"
    assert rfc4514(der) in spellings(shown)
    assert shown in spellings(rfc4514(der))
    assert unfit_attribute(plain_rfc4514(shown)) == ""


def _name(shown: str) -> str:
    (name,) = {part.partition("=")[0] for part in re.split("[+,]", shown)[:2]} - {"CN"} or {"CN"}
    return name


@pytest.mark.parametrize(
    "text",
    [
        "1.3.6.1.4.1.99999.1=x,CN=a",
        "CN=a\\,2.5.4.5=b",
        "CN=2.5.4.5",
        "CN=a=2.5.4.5=b",
        "ip:192.0.2.5",
        "uri:http://a.example/?q=2.5.4.5",
        "CN=v1.2.5.4.5=x",
    ],
)
def test_what_only_looks_like_an_attribute_stays_as_it_is(text: str) -> None:
    assert readable_text(text) == text


@pytest.mark.parametrize(
    "part, others",
    [
        ("*serialnumber=A0", ["*2.5.4.5=A0", "*serialNumber=A0"]),
        ("2.5.4.5=A", ["serialNumber=A"]),
        ("enb", []),
        ("A?0", []),
    ],
)
def test_a_part_of_a_name_is_looked_for_as_it_is_stored_and_as_it_is_read(
    part: str, others: list[str]
) -> None:
    assert spellings(part) == (part, *others)
