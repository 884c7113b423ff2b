"""Whom a configured gateway takes for the operator's, where the root has certified another operator's CA as well."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ra_gateway.app.gateway import _relays
from ra_gateway.app.trust import operator_domain
from ra_gateway.app.upstreams import answer_trust
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.config.reading import load
from ra_gateway.config.tables import RegistrationAuthoritiesConfig
from ra_gateway.device.values import operator_trust
from ra_gateway.errors import SignerNotTrusted
from ra_gateway.upstream.tables import AnswerTrust
from tests.support.credentials import cmp_certificate
from tests.support.pki import CMC_CA, OperatorPKI, VendorPKI
from tests.support.setups import edit, make_setup


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
    answers, _ = answer_trust("ejbca", AnswerTrust(trust_anchors_paths=(pem,)), object(), operator)
    relays = _relays("ran", RegistrationAuthoritiesConfig(anchors_paths=(pem,)), operator)
    peer = operator_pki.root.issue_ca("CN=Peer SEG CA,O=Peer", path_length=0)
    ours = cmp_certificate(operator_pki.issuing.issue("CN=ra9,O=Ours").certificate)
    leaf = cmp_certificate(peer.issue("CN=I am your CA,O=Peer", eku=[CMC_CA]).certificate)
    now, bag = datetime.now(UTC), [cmp_certificate(peer.certificate)]
    device = operator_trust(*map(cmp_certificate, listed), *operator.intermediates)
    for domain in (answers, relays.domain, device):
        with pytest.raises(SignerNotTrusted):
            domain.find_path(leaf, bag, now)
        assert domain.find_path(ours, (), now)
