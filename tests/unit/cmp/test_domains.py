"""What a domain and a fully qualified host name are: one answer, whoever asks."""

from __future__ import annotations

from typing import Final

import pytest
from cryptography import x509
from pydantic import TypeAdapter

from ra_gateway.ca.clauses import host_of
from ra_gateway.ca.cross import _subtree
from ra_gateway.ca.derivation import derive
from ra_gateway.ca.profiles import NE_IPSEC
from ra_gateway.cmp.hosts import asked_names, fqdn_of, is_domain, is_fqdn, kept_names
from ra_gateway.cmp.names import from_rfc4514, general_names_der
from ra_gateway.cmp.x520 import require_certifiable
from ra_gateway.config.values import Domain
from ra_gateway.errors import ConfigError, TemplateRefused
from tests.support.commandline import run

GOOD: Final = ("ran.example.net", "ran.5g", "ran.5g-op", "RAN.Example.NET", "a.xn--p1ai")
BAD: Final = (
    *("ran.op1", "net.enb-1"),
    *("ran.123", "10.1.2.3", "ran.0x1f", "ran.x", "ran..net", ".net", "-a.net", "a-.net", "a.net-", "a_b.net"),
    *("*.net", "a b.net", "a.net\n", "", ".", "z\u00fcrich.net", f"{'x' * 64}.net", f"{'x.' * 126}net"),
)  # fmt: skip


def configured(domain: str) -> bool:
    """Whether `ca.domains` takes it."""
    try:
        return TypeAdapter(Domain).validate_python(domain) == domain
    except ValueError:
        return False


def derived(domain: str) -> bool:
    """Whether the `domains` of a profile take it."""
    try:
        return derive(NE_IPSEC, "own", domains=[domain]).domains == (domain,)
    except ConfigError:
        return False


def certified(host: str) -> bool:
    """Whether a CA of the operator's own may have it as dNSName."""
    try:
        san_der = general_names_der([f"dns:{host}"])
        require_certifiable(from_rfc4514("CN=x"), san_der, qualified=True)
    except (TemplateRefused, ValueError):
        return False
    return True


def permitted(host: str) -> bool:
    """Whether a cross certificate may be bound to it."""
    try:
        return _subtree(f"dns:{host}") == x509.DNSName(host.lower())
    except ConfigError:
        return False


@pytest.mark.requirement("T1", "T12")
@pytest.mark.parametrize("host", [*GOOD, *BAD])
def test_everybody_has_the_same_notion_of_a_host(host: str) -> None:
    """Of vendors' identities, CNs, other names, cross certificates and `domains`; whoever lists a domain gets names in
    it.
    """
    good = host in GOOD
    assert (is_domain(host), configured(host), derived(host)) == (good,) * 3
    below = f"enb-1.{host}"
    assert is_fqdn(below) is good
    assert fqdn_of(f"{below}.") == (below.lower() if good else None)
    assert certified(below) is good
    assert permitted(below) is good
    if host.isprintable() and len(below) <= 64:
        assert host_of(from_rfc4514(f"CN={below}")) == (below if good else "")


def test_one_label_is_a_domain_and_no_host() -> None:
    """As of a network that uses no domain of the Internet's."""
    assert is_domain("lan")
    assert not is_fqdn("lan")
    assert fqdn_of("lan.") is None
    assert certified("enb-1.lan")


def test_init_takes_what_the_ca_takes(tmp_path: object) -> None:
    """Before anything is written."""
    ended = run("init", f"{tmp_path}/site", "--domain", "ran.123")
    assert ended.exit_code == 2
    assert "is no DNS domain" in ended.stderr


@pytest.mark.parametrize(
    "kind, names", [("CN", {"dns:ran.example.net"}), ("O", set()), ("OU", set())]
)
def test_a_subject_names_a_host_by_some_attributes_only(kind: str, names: set[str]) -> None:
    """An organisation that is called like a domain keeps that from nobody."""
    subject_der = from_rfc4514(f"{kind}=ran.example.net")
    assert kept_names(subject_der, ()) == asked_names(subject_der, ()) == names
