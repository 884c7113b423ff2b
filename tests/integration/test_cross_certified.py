"""Whom a configured gateway takes for the operator's, where the root has certified another operator's CA as well."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from ra_gateway.app.application import Application
from ra_gateway.app.ca import BundledService
from ra_gateway.app.endpoints import relays_of
from ra_gateway.app.trust import operator_domain
from ra_gateway.app.upstreams import answer_trust
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.config.reading import load
from ra_gateway.config.tables import RegistrationAuthoritiesConfig
from ra_gateway.device.values import operator_trust
from ra_gateway.errors import SignerNotTrusted
from ra_gateway.events import unheard
from ra_gateway.upstream.tables import AnswerTrust
from tests.support.credentials import cmp_certificate
from tests.support.openssl import load_certificate
from tests.support.pki import (
    CMC_CA,
    Authority,
    OperatorPKI,
    VendorPKI,
    make_root,
    write_certificates,
)
from tests.support.setups import edit, http_upstream, make_setup, set_upstream


@pytest.mark.requirement(21, "T26")
@pytest.mark.parametrize("listed", [True, False])
def test_a_ca_that_is_not_listed_speaks_for_nobody(
    listed: bool, vendor_pki: VendorPKI, operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """Where the operator's own are listed; where none is, any CA below the root does, and check-config warns of it."""
    config = make_setup(tmp_path / "site", vendors={"acme": vendor_pki})
    for name, authority in (("root", operator_pki.root), ("issuing", operator_pki.issuing)):
        path = config.parent / "operator" / f"{name}.pem"
        path.write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    if not listed:
        edit(config, 'intermediates_paths = ["operator/issuing.pem"]\n', "")
    domain = operator_domain(load(config))
    peer = operator_pki.root.issue_ca("CN=Peer SEG CA,O=Peer", path_length=0)
    leaf, now = cmp_certificate(peer.issue("CN=enb1").certificate), datetime.now(UTC)
    bag = [cmp_certificate(peer.certificate)]
    if listed:
        with pytest.raises(SignerNotTrusted, match="listed as intermediates alone"):
            domain.find_path(leaf, bag, now)
    else:
        assert domain.find_path(leaf, bag, now)


def root_of(site: Path) -> Authority:
    """The root of a site that `init` made, as its CA's directory has it."""
    key: Any = load_pem_private_key((site / "ca" / "root.key").read_bytes(), None)
    return Authority(load_certificate(site / "operator" / "root.pem"), key)


def issued_by(root: Authority, subject: str) -> tuple[Certificate, list[Certificate]]:
    """A certificate of a peer's CA that a root has certified, and what came with it."""
    peer = root.issue_ca("CN=Peer SEG CA,O=Peer", path_length=0)
    return cmp_certificate(peer.issue(subject).certificate), [cmp_certificate(peer.certificate)]


def assert_nobody(domain: TrustDomain, root: Authority, issuing: Certificate) -> None:
    """Our issuing CA speaks for a domain; the peer's does not, whatever comes with the message."""
    now = datetime.now(UTC)
    assert domain.find_path(issuing, [], now)
    leaf, bag = issued_by(root, "CN=enb1")
    with pytest.raises(SignerNotTrusted, match="listed as intermediates alone"):
        domain.find_path(leaf, bag, now)


@pytest.mark.requirement(21, "T26")
def test_nor_does_it_for_other_ras_and_at_the_bundled_ca(
    vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """The domains of registered RAs and of the bundled CA have the operator's root, and its CAs alone below it."""
    path = make_setup(tmp_path / "site", vendors={"acme": vendor_pki})
    table = '\n[endpoints.ran.registration_authorities]\ncertificate_paths = ["ra/ra.pem"]\n'
    path.write_text(path.read_text() + table)
    root, config = root_of(path.parent), load(path)
    issuing = cmp_certificate(load_certificate(path.parent / "operator" / "issuing.pem"))
    relays = Application(config).services.endpoints["ran"].registration_authorities
    assert relays is not None
    assert_nobody(relays.domain, root, issuing)
    assert config.ca is not None
    service = BundledService(config.ca, config.vendors, unheard)
    assert_nobody(service.ca._authentication.operator, root, issuing)


@pytest.mark.requirement(21, "T26")
def test_ras_under_a_root_of_their_own_bring_their_cas(
    vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """What `operator.intermediates_paths` lists says nothing of another root."""
    path = make_setup(tmp_path / "site", vendors={"acme": vendor_pki})
    theirs = make_root("CN=Peer Root CA,O=Peer")
    write_certificates(path.parent / "theirs.pem", theirs.certificate)
    table = "\n[endpoints.ran.registration_authorities]\n"
    files = 'anchors_paths = ["theirs.pem"]\ncertificate_paths = ["ra/ra.pem"]\n'
    path.write_text(path.read_text() + table + files)
    relays = Application(load(path)).services.endpoints["ran"].registration_authorities
    assert relays is not None
    leaf, bag = issued_by(theirs, "CN=RA")
    assert relays.domain.find_path(leaf, bag, datetime.now(UTC))


@pytest.mark.requirement(21, 84, "T26")
@pytest.mark.parametrize("ours", [True, False])
def test_answers_under_the_operators_root_are_of_listed_cas(
    ours: bool, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """Also where an upstream names that root itself; where it names another one, its CAs come along."""
    path = make_setup(tmp_path / "site", vendors={"acme": vendor_pki})
    root = root_of(path.parent) if ours else make_root("CN=Peer Root CA,O=Peer")
    file = write_certificates(path.parent / "answers.pem", root.certificate)
    set_upstream(path, http_upstream("http://127.0.0.1:9/", trust_anchors_paths=[file]))
    trust = Application(load(path)).services.endpoints["ran"].upstream.trust
    if ours:
        issuing = load_certificate(path.parent / "operator" / "issuing.pem")
        assert_nobody(trust, root, cmp_certificate(issuing))
    else:
        assert trust.find_path(*issued_by(root, "CN=CMP"), datetime.now(UTC))


@pytest.mark.requirement("T26")
@pytest.mark.parametrize("root", ["as it is", "in another certificate", "beside another"])
def test_nor_where_another_setting_names_the_operators_root(
    root: str, vendor_pki: VendorPKI, operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """As the anchor of a CA's answers, or of other RAs."""
    own = operator_pki.root.certificate
    listed = [own]
    if root == "in another certificate":
        key = operator_pki.root.private_key
        listed = [operator_pki.root.issue_ca(own.subject.rfc4514_string(), key).certificate]
    elif root == "beside another":
        listed = [vendor_pki.root.certificate, own]
    pem = tmp_path / "listed.pem"
    pem.write_bytes(b"".join(item.public_bytes(Encoding.PEM) for item in listed))
    operator = TrustDomain(
        "operator",
        DomainKind.operator,
        (cmp_certificate(own),),
        (cmp_certificate(operator_pki.issuing.certificate),),
        only_known=True,
    )
    table: Any = AnswerTrust(trust_anchors_paths=(pem,))
    core: Any = object()
    answers, _ = answer_trust("ejbca", table, core, operator)
    relays = relays_of("ran", RegistrationAuthoritiesConfig(anchors_paths=(pem,)), operator)
    peer = operator_pki.root.issue_ca("CN=Peer SEG CA,O=Peer", path_length=0)
    ours = cmp_certificate(operator_pki.issuing.issue("CN=ra9,O=Ours").certificate)
    leaf = cmp_certificate(peer.issue("CN=I am your CA,O=Peer", eku=[CMC_CA]).certificate)
    now, bag = datetime.now(UTC), [cmp_certificate(peer.certificate)]
    device = operator_trust(*map(cmp_certificate, listed), *operator.intermediates)
    for domain in (answers, relays.domain, device):
        with pytest.raises(SignerNotTrusted):
            domain.find_path(leaf, bag, now)
        assert domain.find_path(ours, (), now)
