"""`openssl cmp` as a CA that knows the gateway by a shared secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from ra_gateway.cmp.codes import BodyType
from tests.support.openssl import OpensslMockCA
from tests.support.pki import OperatorPKI, VendorPKI, make_key
from tests.support.setups import http_upstream
from tests.support.sites import SUBJECT, configuration, served

REFERENCE, SECRET = "gateway-1", "a secret between gateway and CA"


@pytest.mark.requirement(73, 80, 84)
@pytest.mark.parametrize("as_cr", [False, True])
async def test_a_base_station_enrols_at_a_ca_with_a_secret(
    tmp_path: Path, vendor_pki: VendorPKI, operator_pki: OperatorPKI, as_cr: bool
) -> None:
    """PasswordBasedMac both ways, from ir to pkiConf; neither file nor log of the gateway shows the secret."""
    key = make_key("p256")
    certificate = operator_pki.issuing.issue(SUBJECT, key, key_usage=["digitalSignature"])
    secret = tmp_path / "ca.secret"
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o600)
    with OpensslMockCA(
        tmp_path,
        signer=operator_pki.cmp_signer,
        trusted=[],
        response_certificate=certificate.certificate,
        response_extra_certs=[operator_pki.issuing.certificate],
        extra_args=("-srv_ref", REFERENCE, "-srv_secret", f"pass:{SECRET}"),
    ) as mock:
        lines = http_upstream(mock.url, dialect="openssl-mock", deadline_seconds=5, ir_as_cr=as_cr)
        upstream = (
            f"[upstreams.main]\n{lines}"
            f'[upstreams.main.mac]\nreference = "{REFERENCE}"\nsecret_path = "ca.secret"\n'
            "allow_weak_hmac = true\n"
        )
        path = configuration(tmp_path, vendor_pki, operator_pki, upstream)
        async with served(
            path,
            vendor_pki,
            tmp_path / "root.pem",
            revoked=set,
            refuse=dict,
            device_key=key,
            pause_seconds=0.2,
        ) as site:
            done = await site.run(site.enrollment(site.identity(), BodyType.ir))
            assert done.certificate.der == certificate.der
            assert [event.outcome for event in site.events] == ["issued", "confirmed"]
            assert SECRET not in str(site.events)
