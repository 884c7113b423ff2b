"""device -> local RA -> RA -> bundled CA as processes, with `openssl cmp` as the device."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.support.openssl import openssl_cmp
from tests.support.pki import CMC_RA, Authority, VendorPKI, make_key, write_certificates, write_key
from tests.support.processes import GatewayProcess
from tests.support.setups import edit, http_upstream, make_setup, set_upstream

SUBJECT = "/O=Example Operator/CN=enb1.ran.example.net"
TYPES = '\nbody_types = ["ir", "cr", "kur", "rr", "genm"]\n'
RELAYS = """
[endpoints.ran.registration_authorities]
certificate_paths = ["local/ra.pem"]
allowed_subjects = ["CN=*.ran.example.net,O=Example Operator"]
ra_verified = true
revoke_on_behalf = true
"""


def configure(directory: Path, vendor: VendorPKI) -> tuple[Path, Path]:
    """Write a central gateway with its CA, and a local one beside it; return both configurations."""
    upper = make_setup(directory, vendors={"acme": vendor})
    edit(upper, '\nupstream = "bundled"\n', f'\nupstream = "bundled"{TYPES}')
    key = load_pem_private_key((directory / "ca" / "issuing.key").read_bytes(), None)
    certificate = x509.load_pem_x509_certificate((directory / "ca" / "issuing.pem").read_bytes())
    issuing = Authority(certificate, key)  # type: ignore[arg-type]
    ra = issuing.issue("CN=Local RA,O=Example Operator", "p256", eku=[CMC_RA])
    ra.write(directory / "local", "ra")
    lower = directory / "local.toml"
    lower.write_text(re.sub(r'"ra/ra\.(pem|key)"', r'"local/ra.\1"', upper.read_text()))
    upper.write_text(upper.read_text() + RELAYS)
    return upper, lower


@pytest.mark.requirement(58, 73, 76, 124, 129, 130)
@pytest.mark.parametrize("way", ["reprotect", "nested", "batched"])
def test_openssl_enrols_renews_and_revokes_along_the_chain(
    tmp_path: Path, vendor_pki: VendorPKI, way: str
) -> None:
    """ir, kur, genm and rr reach the CA through both gateways, and the answers the device."""
    upper_path, lower_path = configure(tmp_path / "site", vendor_pki)
    directory = tmp_path / "device"
    device = vendor_pki.device("SN-000001")
    cert, key = device.write(directory, "vendor")
    chain = write_certificates(directory / "chain.pem", *device.intermediates)
    keys = [write_key(directory / f"{name}.key", make_key("p256")) for name in ("first", "second")]
    first, second = directory / "first.pem", directory / "second.pem"
    root = tmp_path / "site" / "operator" / "root.pem"
    settings: dict[str, str | float] = (
        {"batch_window_ms": 1} if way == "batched" else {"requests": way, "kur": way}
    )
    with GatewayProcess(upper_path) as upper:
        # An RA that stands in for the CA has to be named.
        named = http_upstream(upper.url, **settings) + '\nca_certificate_paths = ["ra/ra.pem"]\n'
        set_upstream(lower_path, named)
        with GatewayProcess(lower_path) as lower:
            openssl_cmp(
                "ir",
                server=lower.server,
                cert=cert,
                key=key,
                extracerts=chain,
                trusted=root,
                newkey=keys[0],
                subject=SUBJECT,
                certout=first,
            ).check()
            openssl_cmp(
                "kur",
                server=lower.server,
                cert=first,
                key=keys[0],
                trusted=root,
                newkey=keys[1],
                certout=second,
            ).check()
            common = {"server": lower.server, "cert": second, "key": keys[1], "trusted": root}
            openssl_cmp("genm", extra_args=("-infotype", "certReqTemplate"), **common).check()  # type: ignore[arg-type]
            openssl_cmp(
                "rr",
                extra_args=("-oldcert", str(second), "-revreason", "1"),
                **common,  # type: ignore[arg-type]
            ).check()
            outcomes = ["issued", "confirmed", "issued", "confirmed", "informed", "revoked"]
            for gateway in (lower, upper):
                assert [event["outcome"] for event in gateway.handled] == outcomes
