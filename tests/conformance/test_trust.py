"""Trust paths (RFC 5280 6.1): which chains lead to an anchor, and what looking for one may cost."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import verification
from cryptography.x509.oid import NameOID
from hypothesis import event, given, note, settings
from hypothesis import strategies as st

import ra_gateway.cmp.certificates
from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import AlgorithmPolicy, AlgorithmRefused, verify_signature
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import NULL_DN
from ra_gateway.cmp.trust import (
    MAX_PATH_CERTIFICATES,
    MAX_PATHS_TRIED,
    DomainKind,
    Path,
    TrustDomain,
)
from ra_gateway.errors import CMPError, MalformedMessage, SignerNotTrusted
from tests.support.credentials import cmp_certificate
from tests.support.pki import (
    Authority,
    Credential,
    KeyKind,
    make_key,
    make_root,
    make_vendor_pki,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PAST: dict[str, Any] = {"not_before": NOW - timedelta(days=2), "not_after": NOW - timedelta(days=1)}
FUTURE: dict[str, Any] = {
    "not_before": NOW + timedelta(days=1),
    "not_after": NOW + timedelta(days=2),
}
NO_IDENTIFIERS: dict[str, Any] = {
    "subject_key_identifier": False,
    "authority_key_identifier": False,
}

Item = Authority | Credential | x509.Certificate


def ours(item: Item) -> Certificate:
    """Our view of a certificate, wherever it sits."""
    return cmp_certificate(item if isinstance(item, x509.Certificate) else item.certificate)


def domain(*anchors: Item, known: Sequence[Item] = (), **fields: Any) -> TrustDomain:
    """A trust domain with these anchors and known intermediates."""
    return TrustDomain(
        "acme",
        DomainKind.vendor,
        tuple(map(ours, anchors)),
        tuple(map(ours, known)),
        **fields,
    )


def find(trust: TrustDomain, leaf: Item, *bag: Item, now: datetime = NOW) -> Path:
    """The path from a leaf, with these certificates beside it."""
    return trust.find_path(ours(leaf), [ours(item) for item in bag], now)


def refused(trust: TrustDomain, leaf: Item, *bag: Item, rule: str = "") -> CMPError:
    """Assert that there is no path, and return the reason; it always names a rule and a cause."""
    with pytest.raises(CMPError) as caught:
        find(trust, leaf, *bag)
    assert isinstance(caught.value, SignerNotTrusted | AlgorithmRefused)
    assert caught.value.detail
    assert caught.value.rule == rule if rule else caught.value.rule
    return caught.value


@dataclass(frozen=True)
class Chain:
    """root -> CAs -> leaf."""

    root: Authority
    cas: tuple[Authority, ...]
    leaf: Credential

    @property
    def items(self) -> list[Item]:
        """From the leaf to the root."""
        return [self.leaf, *reversed(self.cas), self.root]

    @property
    def middle(self) -> list[Item]:
        """The CAs between."""
        return list(reversed(self.cas))


def chain(
    length: int = 2, *, key: KeyKind = "p256", changes: dict[int, dict[str, Any]] | None = None
) -> Chain:
    """A chain with some CAs between root and leaf.

    Args:
        changes: Options of certificates by position: 0 is the leaf, then its issuer, the root last.
    """
    changes = changes or {}
    root = make_root("CN=Root,O=Chain", key, **changes.get(length + 1, {}))
    cas: list[Authority] = []
    for position in range(length, 0, -1):
        issuer = cas[-1] if cas else root
        cas.append(issuer.issue_ca(f"CN=CA {position},O=Chain", key, **changes.get(position, {})))
    leaf = (cas[-1] if cas else root).issue("CN=Leaf,O=Chain", key, **changes.get(0, {}))
    return Chain(root, tuple(cas), leaf)


# --- finding ----------------------------------------------------------------------------------------------------


@pytest.mark.requirement(139)
def test_the_order_of_the_bag_does_not_matter() -> None:
    """The one path is found in every order, with strangers and the root itself in between."""
    made = chain(3)
    stranger = make_root("CN=Stranger")
    expected = tuple(map(ours, made.items))
    trust = domain(made.root)
    for bag in itertools.permutations([*made.middle, made.root, stranger]):
        assert find(trust, made.leaf, *bag) == expected


@pytest.mark.requirement(16)
def test_the_bag_may_hold_the_leaf_and_doubles() -> None:
    """What a device sends too much is passed over."""
    made = chain(2)
    bag = made.items * 3
    assert find(domain(made.root), made.leaf, *bag) == tuple(map(ours, made.items))


@pytest.mark.requirement(21, 33)
@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_intermediate_breaks_the_path_unless_it_is_known(missing: int) -> None:
    """The domain's own intermediates fill the gap; otherwise there is no path."""
    made = chain(3)
    bag = [item for index, item in enumerate(made.middle) if index != missing]
    error = refused(domain(made.root), made.leaf, *bag, rule="R21")
    assert "CN=Root" in error.detail
    known = domain(made.root, known=[made.middle[missing]])
    assert find(known, made.leaf, *bag) == tuple(map(ours, made.items))


@pytest.mark.requirement(21)
def test_a_domain_without_anchors_trusts_nothing() -> None:
    """Not even what it knows as an intermediate."""
    made = chain(1)
    error = refused(domain(known=[*made.middle, made.root]), made.leaf, rule="R21")
    assert "none configured" in error.detail


@pytest.mark.requirement(21)
def test_an_anchor_below_the_root_ends_the_path() -> None:
    """A vendor's device CA may be configured as the anchor; the root above is not asked for."""
    made = chain(2)
    assert find(domain(made.cas[-1]), made.leaf, *made.middle) == (
        ours(made.leaf),
        ours(made.cas[-1]),
    )


@pytest.mark.requirement(24)
def test_a_root_from_the_bag_is_no_anchor() -> None:
    """A stranger's chain is complete with its root, and still leads nowhere."""
    made, other = chain(1), make_vendor_pki("Other")
    trust = domain(made.root)
    refused(trust, other.device(), other.sub, other.root, rule="R21")
    namesake = chain(1)  # the same names, other keys
    refused(trust, namesake.leaf, *namesake.middle, namesake.root, rule="R21")
    refused(trust, namesake.root, namesake.root, made.root, rule="R21")


@pytest.mark.requirement(147)
def test_two_vendors_of_one_name_do_not_cross_validate() -> None:
    """With and without key identifiers, whatever lies in the bag: the keys decide, not the names."""
    usual: dict[str, Any] = {}
    for options in (usual, NO_IDENTIFIERS):
        changes = dict.fromkeys(range(4), options)
        one, other = chain(2, changes=changes), chain(2, changes=changes)
        everything = [*one.items, *other.items]
        first, second = domain(one.root), domain(other.root)
        assert find(first, one.leaf, *everything) == tuple(map(ours, one.items))
        assert find(second, other.leaf, *everything) == tuple(map(ours, other.items))
        refused(first, other.leaf, *everything, rule="R21")
        refused(second, one.leaf, *everything, rule="R21")


@pytest.mark.requirement(147)
def test_two_anchors_of_one_name_in_one_domain() -> None:
    """A vendor may have two roots of one name during a roll-over; both work."""
    changes = dict.fromkeys(range(4), NO_IDENTIFIERS)
    old, new = chain(2, changes=changes), chain(2, changes=changes)
    trust = domain(old.root, new.root)
    for made in (old, new):
        assert find(trust, made.leaf, *old.middle, *new.middle) == tuple(map(ours, made.items))


# --- cross certificates, roll-over, loops -----------------------------------------------------------------------


@pytest.mark.requirement(139)
def test_a_cross_certificate_leads_to_another_root() -> None:
    """A CA certified by two roots is trusted below each of them, both certificates in the bag."""
    one, other = make_root("CN=One"), make_root("CN=Other")
    ca = one.issue_ca("CN=Shared CA")
    cross = other.sign(
        "CN=Shared CA",
        ca.private_key.public_key(),
        key_usage=["keyCertSign"],
        basic_constraints=x509.BasicConstraints(True, None),
    )
    leaf = ca.issue("CN=Leaf")
    both: list[Item] = [ca, cross]
    for bag in (both, both[::-1]):
        assert find(domain(one), leaf, *bag) == (ours(leaf), ours(ca), ours(one))
        assert find(domain(other), leaf, *bag) == (ours(leaf), ours(cross), ours(other))


@pytest.mark.requirement(139)
def test_an_expired_path_does_not_hide_a_valid_one() -> None:
    """Of two certificates for one CA the valid one is taken, in any order."""
    root = make_root("CN=Root")
    key = make_key("p256")
    old, new = root.issue_ca("CN=CA", key, **PAST), root.issue_ca("CN=CA", key)
    leaf = new.issue("CN=Leaf")
    for bag in ([old, new], [new, old]):
        assert find(domain(root), leaf, *bag)[1] == ours(new)
    refused(domain(root), leaf, old, rule="R22")


@pytest.mark.requirement(139)
def test_a_root_key_roll_over_is_followed() -> None:
    """newWithOld (RFC 9810 4.4): the new root, certified by the old one, under the same name."""
    old, new = make_root("CN=Root"), make_root("CN=Root")
    new_with_old = old.sign(
        "CN=Root",
        new.private_key.public_key(),
        key_usage=["keyCertSign"],
        basic_constraints=x509.BasicConstraints(True, None),
    )
    sub = new.issue_ca("CN=CA", path_length=0)
    leaf = sub.issue("CN=Leaf")
    expected: list[Item] = [leaf, sub, new_with_old, old]
    came: list[Item] = [sub, new_with_old, new]
    for bag in itertools.permutations(came):
        assert find(domain(old), leaf, *bag) == tuple(map(ours, expected))
    refused(domain(old), leaf, sub, new, rule="R21")


@pytest.mark.requirement(21, "T26")
def test_a_cross_certified_ca_speaks_for_nobody_of_ours() -> None:
    """Where a domain knows its own CAs, another one below its root is none; an update of the root is followed."""
    old, new = make_root("CN=Root"), make_root("CN=Root")
    ours_ca, theirs = old.issue_ca("CN=CA", path_length=0), old.issue_ca("CN=Peer", path_length=0)
    below = theirs.issue("CN=Leaf")
    assert find(domain(old), below, theirs)[1] == ours(theirs)
    closed = domain(old, known=[ours_ca], only_known=True)
    error = refused(closed, below, theirs, rule="R21")
    assert "listed as intermediates alone" in error.detail
    namesake = old.issue_ca("CN=CA", path_length=0)
    refused(closed, namesake.issue("CN=Leaf"), namesake, rule="R21")
    assert find(closed, ours_ca.issue("CN=Leaf"))[1] == ours(ours_ca)
    new_with_old = old.sign(
        "CN=Root",
        new.private_key.public_key(),
        key_usage=["keyCertSign"],
        basic_constraints=x509.BasicConstraints(True, None),
    )
    rolled = new.issue_ca("CN=CA 2", path_length=0)
    known = domain(old, known=[rolled], only_known=True)
    assert find(known, rolled.issue("CN=Leaf"), new_with_old)[-1] == ours(old)


@pytest.mark.requirement(139)
def test_self_issued_certificates_do_not_count_for_path_length() -> None:
    """pathLenConstraint counts CAs that are not self-issued (RFC 5280 4.2.1.9)."""
    old = make_root("CN=Root", path_length=1)
    new = make_root("CN=Root")
    new_with_old = old.sign(
        "CN=Root",
        new.private_key.public_key(),
        key_usage=["keyCertSign"],
        basic_constraints=x509.BasicConstraints(True, None),
    )
    first = new.issue_ca("CN=CA 1")
    leaf = first.issue("CN=Leaf")
    assert len(find(domain(old), leaf, first, new_with_old)) == 4
    second = first.issue_ca("CN=CA 2")
    too_deep = second.issue("CN=Leaf")
    refused(domain(old), too_deep, first, second, new_with_old, rule="RFC 5280 6.1.4 l")


def cross_certified(
    *names: str, options: dict[str, Any] | None = None
) -> tuple[list[Authority], list[x509.Certificate]]:
    """CAs that have all certified each other."""
    cas = [make_root(f"CN={name}", **(options or {})) for name in names]
    crosses = [
        issuer.sign(
            subject.certificate.subject,
            subject.private_key.public_key(),
            key_usage=["keyCertSign"],
            basic_constraints=x509.BasicConstraints(True, None),
            **(options or {}),
        )
        for issuer, subject in itertools.permutations(cas, 2)
    ]
    return cas, crosses


@pytest.mark.requirement(139)
def test_loops_of_cross_certificates_end() -> None:
    """CAs that certify each other in circles are walked through once."""
    (a, b, c, d), crosses = cross_certified("A", "B", "C", "D")
    leaf = a.issue("CN=Leaf")
    refused(domain(make_root("CN=Elsewhere")), leaf, *crosses, rule="R21")
    trust = domain(d)
    path = find(trust, leaf, *crosses)
    assert path[0] == ours(leaf)
    assert path[-1] == ours(d)
    assert len(set(path)) == len(path)
    assert {item.subject for item in path} <= {"CN=Leaf", "CN=A", "CN=B", "CN=C", "CN=D"}
    assert b != c


# --- each certificate of the path -------------------------------------------------------------------------------

POSITIONS = [0, 1, 2, 3]
"""Leaf, its issuer, the CA above, the anchor."""


@pytest.mark.requirement(22)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("validity", [PAST, FUTURE], ids=["expired", "not yet valid"])
def test_every_certificate_must_be_valid_now(validity: dict[str, Any], position: int) -> None:
    """Leaf, intermediate or anchor: outside its validity there is no path."""
    made = chain(2, changes={position: validity})
    error = refused(domain(made.root), made.leaf, *made.middle, rule="R22")
    assert ours(made.items[position]).subject in error.detail


@pytest.mark.requirement(22)
@pytest.mark.parametrize("position", POSITIONS)
def test_both_ends_of_the_validity_are_inside(position: int) -> None:
    """notBefore <= now <= notAfter, to the second."""
    made = chain(2, changes={position: {"not_before": NOW, "not_after": NOW}})
    trust = domain(made.root)
    assert len(find(trust, made.leaf, *made.middle)) == 4
    for moment in (NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)):
        with pytest.raises(SignerNotTrusted):
            find(trust, made.leaf, *made.middle, now=moment)


@pytest.mark.requirement(21)
@pytest.mark.parametrize("position", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [{"basic_constraints": None}, {"basic_constraints": x509.BasicConstraints(False, None)}],
    ids=["absent", "cA FALSE"],
)
def test_who_issues_must_be_a_ca(options: dict[str, Any], position: int) -> None:
    """basicConstraints cA TRUE: from the bag others are not looked at, configured ones are refused by name."""
    made = chain(2, changes={position: options})
    refused(domain(made.root), made.leaf, *made.middle)
    configured = domain(made.root, known=made.middle)
    error = refused(configured, made.leaf, rule="RFC 5280 6.1.4 k")
    assert ours(made.items[position]).subject in error.detail


@pytest.mark.requirement(21)
def test_a_device_cannot_issue() -> None:
    """A leaf's key signs whatever it likes; below it nothing is trusted."""
    vendor = make_vendor_pki("ACME")
    device = vendor.device("ENB-1")
    forger = Authority(device.certificate, device.private_key, device.chain)
    victim = forger.issue("CN=ENB-2,O=ACME")
    refused(domain(vendor.root), victim, device, vendor.sub, rule="R21")


@pytest.mark.requirement(21)
@pytest.mark.parametrize("position", [1, 2, 3])
@pytest.mark.parametrize("usage", [["digitalSignature"], ["cRLSign"]])
def test_who_issues_needs_key_cert_sign(usage: list[str], position: int) -> None:
    """keyUsage, where present, has keyCertSign."""
    made = chain(2, changes={position: {"key_usage": usage}})
    refused(domain(made.root), made.leaf, *made.middle, rule="RFC 5280 6.1.4 n")


@pytest.mark.requirement(21)
@pytest.mark.parametrize("position", [1, 2, 3])
def test_an_issuer_without_key_usage_may_issue(position: int) -> None:
    """Absent keyUsage forbids nothing."""
    made = chain(2, changes={position: {"key_usage": None}})
    assert len(find(domain(made.root), made.leaf, *made.middle)) == 4


@pytest.mark.requirement(21)
@pytest.mark.parametrize(
    "lengths, valid",
    [
        ({}, True),
        ({1: 0}, True),
        ({2: 0}, False),
        ({2: 1}, True),
        ({3: 0}, False),
        ({3: 1}, False),
        ({3: 2}, True),
        ({3: 2, 2: 1, 1: 0}, True),
        ({3: 5, 2: 0}, False),
    ],
)
def test_path_length(lengths: dict[int, int], valid: bool) -> None:
    """pathLenConstraint n allows n CAs below; the leaf does not count."""
    changes = {position: {"path_length": length} for position, length in lengths.items()}
    made = chain(2, changes=changes)
    if valid:
        assert len(find(domain(made.root), made.leaf, *made.middle)) == 4
    else:
        refused(domain(made.root), made.leaf, *made.middle, rule="RFC 5280 6.1.4 l")


@pytest.mark.requirement(21)
def test_the_longest_path() -> None:
    """As many certificates as are followed, and not one more."""
    longest = chain(MAX_PATH_CERTIFICATES - 2)
    assert len(find(domain(longest.root), longest.leaf, *longest.middle)) == MAX_PATH_CERTIFICATES
    longer = chain(MAX_PATH_CERTIFICATES - 1)
    refused(domain(longer.root), longer.leaf, *longer.middle, rule="R21")


@pytest.mark.requirement(21)
@pytest.mark.parametrize("position", POSITIONS)
def test_a_critical_extension_nobody_knows(position: int) -> None:
    """Unknown and critical is refused at every position; unknown alone is not."""
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), NULL_DN)
    made = chain(2, changes={position: {"extensions": [(unknown, True)]}})
    error = refused(domain(made.root), made.leaf, *made.middle, rule="RFC 5280 6.1.4")
    assert "1.3.6.1.4.1.99999.1" in error.detail
    made = chain(2, changes={position: {"extensions": [(unknown, False)]}})
    assert len(find(domain(made.root), made.leaf, *made.middle)) == 4


@pytest.mark.requirement(21)
def test_a_critical_extension_that_is_known() -> None:
    """What is processed may be critical: subjectAltName and extendedKeyUsage of a leaf."""
    names = x509.SubjectAlternativeName([x509.DNSName("enb1.example.net")])
    purposes = x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.5.5.7.3.2")])
    made = chain(1, changes={0: {"extensions": [(names, True), (purposes, True)]}})
    assert len(find(domain(made.root), made.leaf, *made.middle)) == 3


VERSION = {number: asn1.tlv(0xA0, asn1.encode(number - 1)) for number in (1, 2, 3, 4, 2**70)}
UNIQUE_ID = asn1.tlv(0x81, b"\x00\x01")
SHA384 = asn1.tlv(0x30, asn1.oid_der("1.2.840.10045.4.3.3"))


def signed_form(version: bytes, *, inner: bytes = b"", unique: bytes = b"", bare: bool) -> bytes:
    """A certificate that its issuer signed as it is, in a form of its own: ECDSA with SHA-256 outside.

    Args:
        inner: AlgorithmIdentifier in the TBSCertificate, by default the same as outside.
        unique: issuerUniqueID.
        bare: Without extensions.
    """
    root = make_root("Forms")
    tbs, algorithm, _ = asn1.parts(root.issue("CN=leaf").der, 3, "it")
    _, serial, _, *middle, extensions = asn1.parts(tbs, 10, "it")
    last = b"" if bare else extensions
    changed = asn1.tlv(0x30, version, serial, inner or algorithm, *middle, unique, last)
    assert isinstance(root.private_key, ec.EllipticCurvePrivateKey)
    signature = root.private_key.sign(changed, ec.ECDSA(hashes.SHA256()))
    return asn1.tlv(0x30, changed, algorithm, asn1.tlv(0x03, b"\x00", signature))


@pytest.mark.parametrize(
    "version, more, accepted",
    [
        (VERSION[3], {"bare": False}, True),
        (b"", {"bare": True}, True),
        (VERSION[1], {"bare": True}, True),
        (VERSION[2], {"bare": True, "unique": UNIQUE_ID}, True),
        (VERSION[3], {"bare": False, "inner": SHA384}, False),
        (VERSION[3], {"bare": True, "inner": SHA384}, False),
        (b"", {"bare": False}, False),
        (VERSION[1], {"bare": False}, False),
        (VERSION[2], {"bare": False}, False),
        (b"", {"bare": True, "unique": UNIQUE_ID}, False),
        (VERSION[4], {"bare": False}, False),
        (VERSION[4], {"bare": True}, False),
        (VERSION[2**70], {"bare": True}, False),
    ],
)
def test_what_a_signed_certificate_may_not_say(
    version: bytes, more: dict[str, Any], accepted: bool
) -> None:
    """Two algorithms, a version that is none, or what its version does not have (RFC 5280 4.1), whoever signed it."""
    der = signed_form(version, **more)
    if accepted:
        assert Certificate.from_der(der).der == der
    else:
        with pytest.raises(MalformedMessage):
            Certificate.from_der(der)


@pytest.mark.requirement(15, 21)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_broken_signature_breaks_the_path(position: int) -> None:
    """One bit of any signature below the anchor."""
    made = chain(2)
    items = [ours(item) for item in made.items]
    der = bytearray(items[position].der)
    der[-1] ^= 1
    items[position] = Certificate.from_der(bytes(der))
    with pytest.raises(SignerNotTrusted) as caught:
        domain(made.root).find_path(items[0], items[1:], NOW)
    assert caught.value.rule == "R21"


@pytest.mark.requirement(15, 21)
def test_links_that_verified_are_remembered_by_what_was_signed() -> None:
    """Not by name or key, nor by the octets around TBSCertificate: a CA's is known again in any spelling."""
    made = chain(2)
    trust = domain(made.root)
    genuine = find(trust, made.leaf, *made.middle)
    for position in (0, 1, 2):
        for offset in (-1, -len(ours(made.items[position]).der) // 2):
            items = [ours(item) for item in made.items]
            der = bytearray(items[position].der)
            der[offset] ^= 1
            try:
                items[position] = Certificate.from_der(bytes(der))
            except MalformedMessage:
                continue
            if position and items[position] == ours(made.items[position]):
                assert trust.find_path(items[0], items[1:-1], NOW) == genuine
            else:  # a device's own is verified each time
                with pytest.raises(CMPError):
                    trust.find_path(items[0], items[1:-1], NOW)


# --- key identifiers and names ----------------------------------------------------------------------------------


@pytest.mark.requirement(139)
@pytest.mark.parametrize("position", POSITIONS)
def test_key_identifiers_may_be_absent(position: int) -> None:
    """Neither SubjectKeyIdentifier nor AuthorityKeyIdentifier is needed to find a path."""
    made = chain(2, changes={position: NO_IDENTIFIERS})
    assert find(domain(made.root), made.leaf, *made.middle) == tuple(map(ours, made.items))


@pytest.mark.requirement(139)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_key_identifier_is_a_hint_only(position: int) -> None:
    """A wrong AuthorityKeyIdentifier does not break a path whose signatures verify (RFC 5280 4.2.1.1)."""
    wrong = x509.AuthorityKeyIdentifier(b"nobody's identifier", None, None)
    options = {"authority_key_identifier": False, "extensions": [(wrong, False)]}
    made = chain(2, changes={position: options})
    for bag in itertools.permutations([*made.middle, make_root("CN=CA 1,O=Chain")]):
        assert find(domain(made.root), made.leaf, *bag) == tuple(map(ours, made.items))


@pytest.mark.requirement(139)
def test_the_key_identifier_chooses_among_namesakes() -> None:
    """Where many CAs have the wanted name, the one with the wanted key is tried first."""
    made = chain(1)
    fakes = [made.root.issue_ca("CN=CA 1,O=Chain") for _ in range(3 * MAX_PATHS_TRIED)]
    for bag in ([*made.middle, *fakes], [*fakes, *made.middle]):
        assert find(domain(made.root), made.leaf, *bag) == tuple(map(ours, made.items))


@pytest.mark.requirement(139)
def test_what_the_domain_knows_is_tried_before_what_came() -> None:
    """Look-alikes with the wanted key identifier cannot crowd out a configured intermediate."""
    made = chain(1)
    wanted = x509.SubjectKeyIdentifier(ours(made.cas[0]).subject_key_identifier or b"")
    options: dict[str, Any] = {
        "subject_key_identifier": False,
        "extensions": [(wanted, False)],
    }
    impostor = make_root("CN=Root,O=Chain")
    fakes = [impostor.issue_ca("CN=CA 1,O=Chain", **options) for _ in range(3 * MAX_PATHS_TRIED)]
    trust = domain(made.root, known=made.middle)
    assert find(trust, made.leaf, *fakes) == tuple(map(ours, made.items))


def named(tag: x509.name._ASN1Type, common_name: str = "Acme CA") -> x509.Name:
    """A name whose attributes have a string type."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Acme", _type=tag),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name, _type=tag),
        ]
    )


PRINTABLE, UTF8 = x509.name._ASN1Type.PrintableString, x509.name._ASN1Type.UTF8String
BMP = x509.name._ASN1Type.BMPString


@pytest.mark.requirement(139)
@pytest.mark.parametrize(
    "subject, issuer",
    [
        (named(PRINTABLE), named(UTF8)),
        (named(UTF8), named(PRINTABLE)),
        (named(UTF8, "ACME  ca"), named(PRINTABLE)),
        (named(BMP), named(UTF8)),
    ],
    ids=["printable to UTF8", "UTF8 to printable", "case and blanks", "BMP to UTF8"],
)
def test_names_are_compared_by_meaning(subject: x509.Name, issuer: x509.Name) -> None:
    """An issuer field in another string type than the issuer's subject still names it."""
    root = make_root("CN=Root,O=Acme")
    ca = root.issue("CN=x", basic_constraints=x509.BasicConstraints(True, 0), key_usage=None)
    real = root.sign(
        subject,
        ca.private_key.public_key(),
        key_usage=["keyCertSign"],
        basic_constraints=x509.BasicConstraints(True, 0),
    )
    written = root.sign(issuer, ca.private_key.public_key(), key_usage=None)
    leaf = Authority(written, ca.private_key).issue("CN=Leaf,O=Acme")
    assert ours(leaf).issuer_der != ours(real).subject_der
    assert find(domain(root), leaf, real) == (ours(leaf), ours(real), ours(root))


@pytest.mark.requirement(139)
@pytest.mark.parametrize("name", ["CN=Acme CA", "O=Acme,CN=Acme CA", "CN=Acme CA,O=Acme,C=FI"])
def test_other_names_are_other_issuers(name: str) -> None:
    """Fewer attributes, more of them, or another order: another name, whatever the key."""
    root = make_root("CN=Root,O=Acme")
    ca = root.issue_ca("CN=Acme CA,O=Acme")
    other = Authority(root.issue_ca(name, ca.private_key).certificate, ca.private_key)
    leaf = other.issue("CN=Leaf,O=Acme")
    refused(domain(root), leaf, ca, rule="R21")


# --- name constraints -------------------------------------------------------------------------------------------


def permitted(*names: x509.GeneralName) -> x509.NameConstraints:
    return x509.NameConstraints(names, None)


def excluded(*names: x509.GeneralName) -> x509.NameConstraints:
    return x509.NameConstraints(None, names)


def dn(text: str) -> x509.DirectoryName:
    return x509.DirectoryName(x509.Name.from_rfc4514_string(text))


def net(text: str) -> x509.IPAddress:
    return x509.IPAddress(ip_network(text))


dns, mail, uri = x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier
OUTSIDE = "RFC 5280 4.2.1.10"

CONSTRAINTS: list[tuple[x509.NameConstraints, str, list[str], bool]] = [
    (permitted(dns("example.net")), "CN=x", ["dns:enb1.example.net"], True),
    (permitted(dns("example.net")), "CN=x", ["dns:example.net"], True),
    (permitted(dns("example.net")), "CN=x", ["dns:ENB1.Example.NET"], True),
    (permitted(dns("example.net")), "CN=x", ["dns:notexample.net"], False),
    (permitted(dns("example.net")), "CN=x", ["dns:enb1.example.net", "dns:enb1.other.net"], False),
    (permitted(dns("example.net")), "CN=x", [], True),
    (permitted(dns("example.net")), "CN=x", ["ip:192.0.2.1"], True),
    (permitted(dns("example.net"), dns("b.org")), "CN=x", ["dns:a.b.org"], True),
    (excluded(dns("example.net")), "CN=x", ["dns:enb1.example.net"], False),
    (excluded(dns("example.net")), "CN=x", ["dns:example.org"], True),
    (excluded(dns("")), "CN=x", ["dns:example.org"], False),
    (permitted(dn("O=Acme")), "CN=x,O=Acme", [], True),
    (permitted(dn("O=Acme")), "CN=x,O=ACME", [], True),
    (permitted(dn("O=Acme")), "CN=x,O=Acme2", [], False),
    (permitted(dn("O=Acme")), "CN=x", [], False),
    (permitted(dn("O=Acme")), "O=Acme,CN=x", [], False),
    (excluded(dn("O=Acme")), "CN=x,O=Acme", [], False),
    (excluded(dn("O=Acme")), "CN=x,O=Other", [], True),
    (permitted(net("192.0.2.0/24")), "CN=x", ["ip:192.0.2.77"], True),
    (permitted(net("192.0.2.0/24")), "CN=x", ["ip:198.51.100.1"], False),
    (permitted(net("192.0.2.0/24")), "CN=x", ["ip:2001:db8::1"], False),
    (permitted(net("2001:db8::/32")), "CN=x", ["ip:2001:db8::1"], True),
    (excluded(net("0.0.0.0/0")), "CN=x", ["ip:192.0.2.77"], False),
    (excluded(net("0.0.0.0/0")), "CN=x", ["ip:2001:db8::1"], True),
    (permitted(mail("example.net")), "CN=x", ["email:ops@example.net"], True),
    (permitted(mail("example.net")), "CN=x", ["email:ops@mail.example.net"], False),
    (permitted(mail(".example.net")), "CN=x", ["email:ops@mail.example.net"], True),
    (permitted(mail(".example.net")), "CN=x", ["email:ops@example.net"], False),
    (permitted(mail("ops@example.net")), "CN=x", ["email:ops@example.net"], True),
    (permitted(mail("ops@example.net")), "CN=x", ["email:Ops@example.net"], False),
    (excluded(mail("example.net")), "CN=x", ["email:ops@EXAMPLE.net"], False),
    (permitted(uri("example.net")), "CN=x", ["uri:https://example.net/a"], True),
    (permitted(uri("example.net")), "CN=x", ["uri:https://sub.example.net/a"], False),
    (permitted(uri(".example.net")), "CN=x", ["uri:https://sub.example.net:8443/a"], True),
    (permitted(uri("example.net")), "CN=x", ["uri:urn:uuid:1"], False),
    (excluded(uri(".example.net")), "CN=x", ["uri:https://sub.example.net/"], False),
]


@pytest.mark.requirement(21)
@pytest.mark.parametrize("constraints, subject, san, valid", CONSTRAINTS)
@pytest.mark.parametrize("position", [1, 2])
def test_name_constraints(
    constraints: x509.NameConstraints, subject: str, san: list[str], valid: bool, position: int
) -> None:
    """Names of the leaf against the constraints of its issuer, and of the CA above that."""
    # The CA in the middle has a subject of its own that every directory constraint here allows or ignores.
    middle = subject if any("O=" in str(tree) for tree in _trees(constraints)) else "CN=CA"
    root = make_root("CN=Root", **_constrained(constraints, position == 2))
    ca = root.issue_ca(middle, **_constrained(constraints, position == 1))
    leaf = ca.issue(subject, san=san)
    if valid:
        assert len(find(domain(root), leaf, ca)) == 3
    else:
        refused(domain(root), leaf, ca, rule=OUTSIDE)


def _constrained(constraints: x509.NameConstraints, here: bool) -> dict[str, Any]:
    return {"extensions": [(constraints, True)] if here else []}


def _trees(constraints: x509.NameConstraints) -> list[x509.GeneralName]:
    return [*(constraints.permitted_subtrees or ()), *(constraints.excluded_subtrees or ())]


@pytest.mark.requirement(21)
@pytest.mark.parametrize("names, trees, valid", [(60, 60, True), (130, 130, False)])
def test_comparisons_with_constraints_are_bounded(names: int, trees: int, valid: bool) -> None:
    """Hundreds of names below hundreds of constraints would be compared each with each, message by message."""
    tree = excluded(*(dns(f"net{number}.example") for number in range(trees)))
    root = make_root("CN=Root", extensions=[(tree, True)])
    leaf = root.issue("CN=Leaf", san=[f"dns:a{number}.example.net" for number in range(names)])
    if valid:
        assert len(find(domain(root), leaf)) == 2
    else:
        refused(domain(root), leaf, rule=OUTSIDE)


@pytest.mark.requirement(21)
def test_a_constraint_of_an_unknown_kind() -> None:
    """It is refused where a name of that kind is below it, and concerns nothing else."""
    kind = x509.ObjectIdentifier("1.3.6.1.4.1.99999.2")
    tree = x509.OtherName(kind, b"\x0c\x01a")
    root = make_root("CN=Root", extensions=[(permitted(tree), True)])
    assert len(find(domain(root), root.issue("CN=Leaf", san=["dns:a.example.net"]))) == 2
    san = x509.SubjectAlternativeName([x509.OtherName(kind, b"\x0c\x01b")])
    leaf = root.issue("CN=Leaf", extensions=[(san, False)])
    refused(domain(root), leaf, rule=OUTSIDE)


@pytest.mark.requirement(21)
@pytest.mark.parametrize(
    "names_hex",
    ["3004a3020500", "3002a500", "0500", "3003870101", "30038601ff", "300682048080c3a9"],
    ids=["x400Address", "ediPartyName", "NULL", "short IP", "not ASCII", "not a dNSName"],
)
def test_names_that_cannot_be_judged(names_hex: str) -> None:
    """Below a constrained CA, a subjectAltName that cannot be read is refused; elsewhere it is not looked at."""
    value = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, bytes.fromhex(names_hex))
    free = make_root("CN=Root")
    assert len(find(domain(free), free.issue("CN=Leaf", extensions=[(value, False)]))) == 2
    bound = make_root("CN=Root", extensions=[(permitted(dns("example.net")), True)])
    refused(domain(bound), bound.issue("CN=Leaf", extensions=[(value, False)]), rule=OUTSIDE)


@pytest.mark.requirement(21)
def test_constraints_hold_for_the_cas_in_between() -> None:
    """The subject of an intermediate is checked as well as the leaf's."""
    root = make_root("CN=Root", extensions=[(permitted(dn("O=Acme")), True)])
    outside = root.issue_ca("CN=CA,O=Other")
    refused(domain(root), outside.issue("CN=Leaf,O=Acme"), outside, rule=OUTSIDE)
    inside = root.issue_ca("CN=CA,O=Acme")
    assert len(find(domain(root), inside.issue("CN=Leaf,O=Acme"), inside)) == 3


# --- algorithms -------------------------------------------------------------------------------------------------


@pytest.mark.requirement(158)
@pytest.mark.parametrize("key", ["ed25519", "ed448", "mldsa44", "mldsa65", "mldsa87"])
def test_chains_of_modern_keys(key: KeyKind) -> None:
    """Ed25519 and Ed448, which the library's verifier refuses, and ML-DSA."""
    made = chain(2, key=key)
    assert find(domain(made.root), made.leaf, *made.middle) == tuple(map(ours, made.items))
    spoiled = bytearray(ours(made.leaf).der)
    spoiled[-1] ^= 1
    with pytest.raises(SignerNotTrusted):
        domain(made.root).find_path(
            Certificate.from_der(bytes(spoiled)), [ours(item) for item in made.middle], NOW
        )


@pytest.mark.requirement(158)
@pytest.mark.parametrize("key", ["p384", "p521", "rsa2048", "rsa3072"])
def test_chains_of_usual_keys(key: KeyKind) -> None:
    """RSA and the NIST curves."""
    made = chain(1, key=key)
    assert find(domain(made.root), made.leaf, *made.middle) == tuple(map(ours, made.items))


@pytest.mark.requirement(158)
@pytest.mark.parametrize("salt", [32, 20, 0])
def test_chains_signed_with_pss(salt: int) -> None:
    """RSASSA-PSS under every certificate, with the salt its parameters name."""
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
    options = {"rsa_padding": pss, "hash": hashes.SHA256()}
    made = chain(2, key="rsa2048", changes=dict.fromkeys(range(4), options))
    assert find(domain(made.root), made.leaf, *made.middle) == tuple(map(ours, made.items))


@pytest.mark.requirement(158)
def test_mixed_chains() -> None:
    """Every certificate may have another kind of key."""
    root = make_root("CN=Root", "ed448")
    first = root.issue_ca("CN=First", "rsa2048")
    second = first.issue_ca("CN=Second", "mldsa65")
    leaf = second.issue("CN=Leaf", "ed25519")
    assert len(find(domain(root), leaf, second, first)) == 4


@pytest.mark.requirement(19)
@pytest.mark.parametrize("position", POSITIONS)
def test_short_rsa_keys_anywhere(position: int) -> None:
    """A key of 1024 bits at any position is refused, unless the domain says otherwise."""
    root = make_root("CN=Root", _rsa(position == 3))
    first = root.issue_ca("CN=First", _rsa(position == 2))
    second = first.issue_ca("CN=Second", _rsa(position == 1))
    leaf = second.issue("CN=Leaf", _rsa(position == 0))
    refused(domain(root), leaf, first, second, rule="R19")
    lenient = domain(root, algorithms=AlgorithmPolicy(min_rsa_bits=1024))
    assert len(find(lenient, leaf, first, second)) == 4


def _rsa(short: bool) -> KeyKind:
    return "rsa1024" if short else "rsa2048"


# --- what a search may cost -------------------------------------------------------------------------------------


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the algorithms of every certificate signature verified, in order."""
    seen: list[str] = []

    def counting(algorithm: Any, *arguments: Any) -> None:
        seen.append(algorithm.name)
        verify_signature(algorithm, *arguments)

    monkeypatch.setattr(ra_gateway.cmp.certificates, "verify_signature", counting)
    return seen


@pytest.mark.requirement(24)
@pytest.mark.parametrize("identifiers", [True, False], ids=["identified", "anonymous"])
def test_hundreds_of_look_alikes_cost_little(verified: list[str], identifiers: bool) -> None:
    """An attacker's bag of CAs with the vendor's names buys a bounded number of verifications."""
    vendor = make_vendor_pki("ACME Radio")
    options = {} if identifiers else NO_IDENTIFIERS
    fake_root = make_root(vendor.root.certificate.subject.rfc4514_string(), **options)
    name = vendor.sub.certificate.subject.rfc4514_string()
    fakes = [fake_root.issue_ca(name, **options) for _ in range(300)]
    leaf = fakes[0].issue("CN=ENB-1,O=ACME Radio", **options)
    refused(domain(vendor.root), leaf, *fakes, fake_root, rule="R21")
    assert len(verified) <= MAX_PATHS_TRIED


@pytest.mark.requirement(24)
def test_a_thicket_of_cross_certificates_costs_little(verified: list[str]) -> None:
    """Exponentially many paths through CAs that certify each other: looked at up to a bound."""
    names = [f"CA {number}" for number in range(12)]
    cas, crosses = cross_certified(*names, options=NO_IDENTIFIERS)
    vendor = make_vendor_pki("ACME Radio")
    to_the_root = make_root(vendor.root.certificate.subject.rfc4514_string()).sign(
        "CN=CA 11",
        cas[11].private_key.public_key(),
        key_usage=["keyCertSign"],
        basic_constraints=x509.BasicConstraints(True, None),
        **NO_IDENTIFIERS,
    )
    leaf = cas[0].issue("CN=Leaf", **NO_IDENTIFIERS)
    refused(domain(vendor.root), leaf, *crosses, to_the_root, rule="R21")
    assert len(verified) <= MAX_PATHS_TRIED
    refused(domain(make_root("CN=Elsewhere")), leaf, *crosses, rule="R21")
    assert len(verified) <= MAX_PATHS_TRIED


@pytest.mark.requirement(24)
def test_a_real_chain_below_a_false_leaf_is_verified_once(verified: list[str]) -> None:
    """With the vendor's true CAs and a forged leaf, the CAs are remembered and the leaf costs one each time."""
    vendor = make_vendor_pki("ACME Radio")
    forger = Authority(vendor.sub.certificate, make_key("p256"), vendor.sub.chain)
    forged = forger.issue("CN=ENB-1,O=ACME Radio")
    trust = domain(vendor.root)
    for _ in range(10):
        refused(trust, forged, vendor.sub, rule="R21")
    assert len(verified) == 1 + 10


@pytest.mark.requirement(24)
def test_devices_are_not_remembered(verified: list[str]) -> None:
    """A chain costs its CAs once and each device once per request, unless it is to be remembered."""
    vendor = make_vendor_pki("ACME Radio")
    trust = domain(vendor.root)
    for serial in range(5):
        find(trust, vendor.device(f"ENB-{serial}"), vendor.sub)
    assert len(verified) == 1 + 5
    signer = ours(vendor.device("CMP"))
    for _ in range(5):
        trust.find_path(signer, [ours(vendor.sub)], NOW, remember_leaf=True)
    assert len(verified) == 1 + 5 + 1


def test_what_is_remembered_is_still_checked_for_time(verified: list[str]) -> None:
    """A remembered signature does not keep an expired CA alive."""
    made = chain(1, changes={1: {"not_after": NOW + timedelta(days=1)}})
    trust = domain(made.root)
    find(trust, made.leaf, *made.middle)
    with pytest.raises(SignerNotTrusted) as caught:
        find(trust, made.leaf, *made.middle, now=NOW + timedelta(days=2))
    assert caught.value.rule == "R22"
    assert len(verified) == 2


# --- against another implementation -----------------------------------------------------------------------------

MUTATIONS = (
    "expired",
    "not yet valid",
    "no basicConstraints",
    "cA FALSE",
    "pathLen 0",
    "pathLen 1",
    "no keyUsage",
    "no keyCertSign",
    "unknown critical",
    "no SKI",
    "no AKI",
    "wrong AKI",
    "forged",
    "another key",
    "only example.net",
    "never example.net",
    "only 192.0.2.0/24",
    "never 192.0.2.0/24",
)
"""What may be different about one certificate of a random chain.

Knowingly left out: constraints on directoryName, which the oracle refuses as unsupported; Ed25519, Ed448 and
short RSA keys, which it refuses too; and self-issued certificates below the root.
"""

_KEYS: dict[str, list[Any]] = {}


def pooled_key(kind: KeyKind, number: int) -> Any:
    """One of a few keys that all examples share: making them is slow."""
    pool = _KEYS.setdefault(kind, [make_key(kind) for _ in range(6)])
    return pool[number % len(pool)]


CONSTRAINING = {name for name in MUTATIONS if name.startswith(("only ", "never "))}


@dataclass(frozen=True)
class Specimen:
    """A random chain: how long, with which keys, what is wrong with it, and what comes along.

    Args:
        kinds: Of the keys, the leaf's first, the root's last.
        mutations: (position, name out of `MUTATIONS`).
        missing: Positions of intermediates that are left out of the bag.
        order: Seeds the order of the bag.
    """

    kinds: tuple[KeyKind, ...]
    mutations: tuple[tuple[int, str], ...]
    san: str
    missing: frozenset[int]
    with_root: bool
    with_strangers: bool
    order: int


_SANS = ("dns:enb1.example.net", "dns:enb1.example.org", "ip:192.0.2.1", "ip:198.51.100.1")


@st.composite
def specimens(draw: st.DrawFn) -> Specimen:
    length = draw(st.integers(2, 6))
    mutation = st.tuples(st.integers(0, length - 1), st.sampled_from(MUTATIONS)).filter(
        # Knowingly different: RFC 5280 4.2.1.10 gives name constraints a meaning in CA certificates only; the
        # oracle also applies those of a leaf, to the leaf itself.
        lambda drawn: drawn[0] > 0 or drawn[1] not in CONSTRAINING
    )
    rarely = draw(st.integers(0, 4)) == 0
    return Specimen(
        kinds=tuple(
            draw(st.lists(st.sampled_from(["p256", "rsa2048"]), min_size=length, max_size=length))
        ),
        mutations=tuple(draw(st.lists(mutation, max_size=2))),
        san=draw(st.sampled_from(("", *_SANS))),
        missing=frozenset({draw(st.integers(1, length - 1))}) if rarely else frozenset(),
        with_root=draw(st.booleans()),
        with_strangers=draw(st.booleans()),
        order=draw(st.integers(0, 1000)),
    )


_DNS, _NET = dns("example.net"), net("192.0.2.0/24")
_EXTENSIONS: dict[str, tuple[x509.ExtensionType, bool]] = {
    "unknown critical": (
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), NULL_DN),
        True,
    ),
    "wrong AKI": (x509.AuthorityKeyIdentifier(b"nobody's identifier!", None, None), False),
    "only example.net": (permitted(_DNS), True),
    "never example.net": (excluded(_DNS), True),
    "only 192.0.2.0/24": (permitted(_NET), True),
    "never 192.0.2.0/24": (excluded(_NET), True),
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "expired": PAST,
    "not yet valid": FUTURE,
    "no basicConstraints": {"basic_constraints": None},
    "cA FALSE": {"basic_constraints": x509.BasicConstraints(False, None)},
    "pathLen 0": {"basic_constraints": x509.BasicConstraints(True, 0)},
    "pathLen 1": {"basic_constraints": x509.BasicConstraints(True, 1)},
    "no keyUsage": {"key_usage": None},
    "no keyCertSign": {"key_usage": ["digitalSignature"]},
    "no SKI": {"subject_key_identifier": False},
    "no AKI": {"authority_key_identifier": False},
    "wrong AKI": {"authority_key_identifier": False},
}


def options_of(names: Sequence[str]) -> dict[str, Any]:
    """Options of a certificate that differs in these ways; of two that contradict, the later one."""
    options: dict[str, Any] = {}
    for name in dict.fromkeys(names):
        options.update(_OPTIONS.get(name, {}))
    used: dict[x509.ObjectIdentifier, tuple[x509.ExtensionType, bool]] = {}
    for name in names:
        if name in _EXTENSIONS:
            used[_EXTENSIONS[name][0].oid] = _EXTENSIONS[name]
    if "authority_key_identifier" in options and "wrong AKI" not in names:
        used.pop(x509.AuthorityKeyIdentifier.oid, None)
    options["extensions"] = list(used.values())
    return options


def build(specimen: Specimen) -> tuple[Authority, Credential, list[x509.Certificate]]:
    """Root, leaf and bag of a specimen."""
    names: dict[int, list[str]] = {}
    for position, name in specimen.mutations:
        names.setdefault(position, []).append(name)
    top = len(specimen.kinds) - 1
    root = make_root(
        "CN=Root,O=Chain", pooled_key(specimen.kinds[top], top), **options_of(names.get(top, []))
    )
    issuer = root
    bag: list[x509.Certificate] = [root.certificate] if specimen.with_root else []
    for position in range(top - 1, 0, -1):
        key = pooled_key(specimen.kinds[position], position)
        ca = signing(issuer, names.get(position, [])).issue_ca(
            f"CN=CA {position},O=Chain", key, **options_of(names.get(position, []))
        )
        issuer = holding(ca, names.get(position, []))
        if position not in specimen.missing:
            bag.append(ca.certificate)
    kind = specimen.kinds[0]
    usual = {"basic_constraints": None, "san": [specimen.san] if specimen.san else []}
    leaf = signing(issuer, names.get(0, [])).issue(
        "CN=Leaf,O=Chain", pooled_key(kind, 0), **{**usual, **options_of(names.get(0, []))}
    )
    if specimen.with_strangers:
        stranger = make_root("CN=Root,O=Chain", pooled_key("p256", 7))
        bag += [stranger.certificate, stranger.issue_ca("CN=CA 1,O=Chain").certificate]
    random.Random(specimen.order).shuffle(bag)
    return root, leaf, bag


def signing(issuer: Authority, names: Sequence[str]) -> Authority:
    """The issuer as it signs this certificate: "forged" is signed by another key of its kind."""
    if "forged" not in names:
        return issuer
    kind: KeyKind = "rsa2048" if isinstance(issuer.private_key, rsa.RSAPrivateKey) else "p256"
    return Authority(issuer.certificate, pooled_key(kind, 5), issuer.chain)


def holding(ca: Authority, names: Sequence[str]) -> Authority:
    """The CA with the key it goes on with: after "another key" not the certified one."""
    return Authority(ca.certificate, make_key("p256")) if "another key" in names else ca


def _require_key_cert_sign(
    policy: verification.Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("keyCertSign is missing")


def accepted_by_the_oracle(
    root: x509.Certificate, leaf: x509.Certificate, bag: list[x509.Certificate]
) -> bool:
    """What the verifier of `cryptography` says, told to follow RFC 5280 rather than the Web's rules."""
    agnostic = verification.Criticality.AGNOSTIC
    ca_policy = (
        verification.ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, agnostic, None)
        .may_be_present(x509.KeyUsage, agnostic, _require_key_cert_sign)
    )
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store([root]))
        .time(NOW)
        .extension_policies(
            ca_policy=ca_policy, ee_policy=verification.ExtensionPolicy.permit_all()
        )
        .build_client_verifier()
    )
    try:
        verifier.verify(leaf, bag)
    except verification.VerificationError as error:
        note(f"oracle: {error}")
        return False
    return True


def accepted_by_us(
    root: x509.Certificate, leaf: x509.Certificate, bag: list[x509.Certificate]
) -> bool:
    try:
        find(domain(root), leaf, *bag)
    except CMPError as error:
        note(f"we: {error}")
        return False
    return True


@pytest.mark.requirement(21, 22)
@settings(max_examples=max(400, settings().max_examples))
@given(specimen=specimens())
def test_we_agree_with_another_verifier(specimen: Specimen) -> None:
    """On random chains with random faults, `cryptography.x509.verification` and we say the same."""
    root, leaf, bag = build(specimen)
    theirs = accepted_by_the_oracle(root.certificate, leaf.certificate, bag)
    event("accepted" if theirs else "refused")
    assert accepted_by_us(root.certificate, leaf.certificate, bag) == theirs
