"""Whom a configured gateway takes for the operator's, where the root has certified another operator's CA as well."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ra_gateway.app.trust import operator_domain
from ra_gateway.config.reading import load
from ra_gateway.errors import SignerNotTrusted
from tests.support.credentials import cmp_certificate
from tests.support.pki import OperatorPKI, VendorPKI
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
